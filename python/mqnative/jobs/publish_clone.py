"""What a finished clone leaves in its folder, and the job as one call."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mqnative.build.plan import PlannedTensor
from mqnative.build.rebuild import manifest_of
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.groups import TensorName
from mqnative.formats.manifest import Manifest, write_manifest
from mqnative.hybrids.mix_file import measured_kld, read_mix
from mqnative.jobs.clone import CloneOptions, CloneOutcome, run_clone
from mqnative.jobs.main_job import Finished
from mqnative.jobs.publish import figures_of, step_row
from mqnative.jobs.request import OutputFolder
from mqnative.jobs.run import IMATRIX_NAME, RESULT
from mqnative.report.html import to_html
from mqnative.report.jsonform import from_json, to_json
from mqnative.report.markdown import to_markdown
from mqnative.report.summary import MixRow, Report, TensorRow
from mqnative.store import Store

_SHOWN = 3


def clone(
    mix_path: Path,
    model: Path,
    calib: Path,
    evaluation: Path | None,
    output: Path,
    options: CloneOptions,
    *,
    artifact: str | None = None,
    command: str = "",
    force: bool = False,
    monitor: Monitor = NULL_MONITOR,
) -> Finished:
    """Build the mix of a manifest, recipe, clone config or model on ``model``, and verify it.

    Args:
        mix_path: the manifest or other file.
        model: the unquantized model.
        calib: text for the importances.
        evaluation: held-out text; without it a part of ``calib`` is held out.
        output: folder for model, recipe, manifest and reports; made if missing.
        options: policy and effort.
        artifact: which file of a clone config.
        command: the call as the report shows it.
        force: use a folder that holds something else, and do a finished one again.
        monitor: told every step.

    Raises:
        ParityError: the mix is of another model.
        OutputExistsError: the folder holds something else.
        Any other error of the package.
    """
    mix = read_mix(mix_path, artifact)
    folder = OutputFolder(output)
    with Store.open() as store, store.lock(f"output {output.absolute()}"):
        outcome = run_clone(
            mix, model, calib, evaluation, folder, options, store, force=force, monitor=monitor
        )
        if outcome is None:
            manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
            report = from_json(manifest["evaluation"])
        else:
            report = report_of_clone(
                outcome, model.name, [calib, *([evaluation] if evaluation else [])], command
            )
            manifest = _publish(outcome, report, folder)
    return Finished(report, manifest, output / manifest["model_file"], outcome is None)


def _publish(outcome: CloneOutcome, report: Report, folder: OutputFolder) -> dict[str, Any]:
    outputs = {
        "report.json": json.dumps(to_json(report), indent=2) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    for name, text in outputs.items():
        write_text_atomic(folder.path / name, text)
    names = [outcome.path.name, "recipe.yaml", *outputs]
    manifest = _manifest(outcome, report, {n: (folder.path / n).stat().st_size for n in names})
    write_manifest(folder.manifest, manifest)
    return manifest.to_json()


def _manifest(outcome: CloneOutcome, report: Report, files: dict[str, int]) -> Manifest:
    extra = {
        "request": outcome.request,
        "inputs": {key: value for key, value in outcome.inputs.items() if key not in ("types", "mix")},
        "parent": dict(outcome.mix.parent),
        "missing": list(outcome.carried.missing),
        "extra": dict(outcome.carried.extra),
        "evaluation": to_json(report),
        "files": files,
    }
    with GGUFFile.open(outcome.plan.source) as source:
        return manifest_of(
            "clone",
            source,
            outcome.plan,
            outcome.path,
            source_sha256=outcome.source_sha256,
            imatrix_name=IMATRIX_NAME,
            imatrix_file=f"work/{IMATRIX_NAME}",
            extra=extra,
        )


def report_of_clone(outcome: CloneOutcome, source_name: str, texts: list[Path], command: str) -> Report:
    """The clone as the report sees it."""
    plan, build = outcome.plan, core().build_info()
    rows = [
        MixRow(
            f"clone {plan.bpw:.2f} bpw",
            "result",
            plan.file_bytes,
            plan.bpw,
            figures_of(outcome.judged[RESULT]),
            why=f"cloned from {outcome.mix.name}",
        )
    ]
    rows += [_rival_row(outcome, name) for name in outcome.judged if name != RESULT]
    changed = [t for t in plan.tensors if not t.copied]
    return Report(
        title=f"{source_name}: clone of {outcome.mix.name}",
        model={
            "file": source_name,
            "parameters": f"{plan.n_weights:,}",
            "tensors": f"{len(plan.tensors)}, {len(changed)} of them quantized",
            "sha256 of the weights": outcome.source_sha256,
        },
        target=f"the mix of {outcome.mix.name}",
        ppl_ref=outcome.ppl_ref,
        mixes=tuple(rows),
        tensors=tuple(_tensor_row(t) for t in plan.tensors),
        steps=tuple(step_row(s) for s in outcome.steps),
        notes=tuple(_notes(outcome)),
        provenance={
            "mqnative": f"{build['version']}, {build['compiler']}, {build['isa']}",
            "llama.cpp": build["upstream_commit"],
            "texts": ", ".join(t.name for t in texts),
            "imatrix": outcome.imatrix.content_hash(),
            **{f"parent's {key}": str(value) for key, value in outcome.mix.parent.items() if value},
        },
        rebuild_command=command,
    )


def _rival_row(outcome: CloneOutcome, name: str) -> MixRow:
    rival, judged = outcome.rivals[name], outcome.judged[name]
    d = judged.difference
    return MixRow(
        name,
        "preset",
        rival.size_bytes,
        rival.bpw,
        figures_of(judged),
        verdict=judged.verdict,
        kld_difference=None if d is None else (d.value, *d.ci95),
        why="largest preset of at most equal size" if name == outcome.best_rival else "standard",
    )


def _tensor_row(tensor: PlannedTensor) -> TensorRow:
    parts = TensorName.of(tensor.name)
    role = tensor.name.removesuffix(".weight")
    return TensorRow(
        tensor.name,
        parts.block,
        role if parts.block is None else role.partition(f"blk.{parts.block}.")[2],
        tensor.shape,
        math.prod(tensor.shape),
        tensor.source_type,
        tensor.qtype,
        tensor.size_bytes,
        0.0,
    )


def _notes(outcome: CloneOutcome) -> list[str]:
    notes = ["No search was made: types are the parent's, importances and figures this model's own."]
    theirs = None if outcome.mix.manifest is None else measured_kld(outcome.mix.manifest)
    if theirs is not None:
        notes.append(f"The parent's KLD, on its own model and text, was {theirs:.6f} nats per token.")
    if outcome.carried.extra:
        shown = [f"{name}: {t}" for name, t in outcome.carried.extra.items()]
        notes.append(f"{len(shown)} tensors that the parent does not name follow the base: {_some(shown)}.")
    if outcome.carried.missing:
        missing = list(outcome.carried.missing)
        notes.append(f"{len(missing)} tensors of the parent are not in this model: {_some(missing)}.")
    if outcome.plan.fallbacks:
        notes.append(f"{len(outcome.plan.fallbacks)} tensors have rows that the type asked for does not fit.")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
