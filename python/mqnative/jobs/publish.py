"""What a finished run leaves in its folder: report, manifest."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mqnative.build.plan import PlannedTensor
from mqnative.build.rebuild import manifest_of
from mqnative.core.native import core
from mqnative.core.presets import presets
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.manifest import Manifest, write_manifest
from mqnative.formats.tied import HEAD
from mqnative.jobs.auto import Outcome
from mqnative.jobs.damages import Measured
from mqnative.jobs.frontier_facts import frontier_facts
from mqnative.jobs.linking import input_share, kld_of, predicted_kld
from mqnative.jobs.presets import STANDARD
from mqnative.jobs.refinement import Step
from mqnative.jobs.request import OutputFolder
from mqnative.jobs.run import IMATRIX_NAME, RESULT, Timed
from mqnative.jobs.tell import choice_facts, interval
from mqnative.jobs.tensor_rows import tensor_row
from mqnative.jobs.verify import Judged
from mqnative.report.html import to_html
from mqnative.report.jsonform import to_json
from mqnative.report.markdown import to_markdown
from mqnative.report.memory_json import memory_facts
from mqnative.report.summary import Figures, LinkRow, MixRow, Report, StepTime, TensorRow
from mqnative.source.identity import file_sha256


def publish(
    outcome: Outcome,
    folder: OutputFolder,
    source_name: str,
    texts: tuple[Path, ...],
    command: str,
    mmproj: Path | None = None,
    origin: str = "",
) -> tuple[Report, dict[str, Any]]:
    """Write report.html, report.md, report.json and, last of all, manifest.json.

    Args:
        outcome: the run.
        folder: where to.
        source_name: the model's file name.
        texts: calibration text and, if there was one, held-out text.
        command: the call that makes the same again.
        mmproj: a projector for images or sound in the folder, which belongs to the model.
        origin: the hub id and commit that the model is from.

    Returns:
        The report and the manifest.
    """
    report = report_of(outcome, source_name, texts, command)
    outputs = {
        "report.json": json.dumps(to_json(report), indent=2) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    for name, text in outputs.items():
        write_text_atomic(folder.path / name, text)
    passed = () if mmproj is None else (mmproj.name,)
    names = [outcome.model_path.name, *passed, "recipe.yaml", *outputs]
    files = {n: (folder.path / n).stat().st_size for n in names}
    manifest = _manifest(outcome, report, files, mmproj, origin)
    write_manifest(folder.manifest, manifest)
    return report, manifest.to_json()


def _manifest(
    outcome: Outcome, report: Report, files: dict[str, int], mmproj: Path | None, origin: str
) -> Manifest:
    """Everything needed to make the same bytes again and to check the claims."""
    plan = outcome.fit.plan
    predicted = outcome.predicted
    rounded = outcome.rounded
    extra = {
        "request": outcome.request.key(),
        "inputs": asdict(outcome.request),
        "predicted_kld": None if predicted is None else predicted.mean,
        "optimality_gap": outcome.fit.solution.gap,
        "evaluation": to_json(report),
        "rivals": [
            {"name": r.name, "size_bytes": r.size_bytes, "bpw": r.bpw, "verified": r.name in outcome.judged}
            for r in outcome.net.presets.values()
        ],
        "files": files,
        "origin": origin or None,
        "mmproj": None if mmproj is None else {"file": mmproj.name, "sha256": file_sha256([mmproj])},
        "memory": None if outcome.chosen.memory is None else outcome.chosen.memory.values(),
        "labels": rounded.text.labels if rounded is not None and rounded.kept else {},
    }
    with GGUFFile.open(plan.source) as source:
        return manifest_of(
            "auto",
            source,
            plan,
            outcome.model_path,
            source_sha256=outcome.request.model,
            imatrix_name=IMATRIX_NAME,
            imatrix_file=f"work/{IMATRIX_NAME}",
            extra=extra,
        )


def report_of(outcome: Outcome, source_name: str, texts: tuple[Path, ...], command: str) -> Report:
    """The run as the report sees it."""
    measured, plan, predicted = outcome.measured, outcome.fit.plan, outcome.predicted
    # Untied, either use of the embedding has rows of its own.
    uses = measured.uses if HEAD in plan.types else {}
    shown = replace(measured, table=measured.table | {name: dict(d) for name, d in uses.items()})
    mixes = [
        MixRow(
            f"mqnative {plan.bpw:.2f} bpw",
            "result",
            plan.file_bytes,
            plan.bpw,
            figures_of(outcome.judged[RESULT]),
            predicted_kld=None if predicted is None else predicted.mean,
            predicted_ci95=None if predicted is None else interval(predicted),
            why="asked for" if outcome.chosen.knee is None else "the frontier's knee",
        )
    ]
    mixes += [_rival_row(outcome, name) for name in outcome.judged if name != RESULT]
    build, machine = core().build_info(), outcome.chosen.memory
    return Report(
        title=f"{source_name}: {plan.bpw:.2f} bits per weight",
        model={
            "file": source_name,
            "parameters": f"{plan.n_weights:,}",
            "tensors": f"{len(plan.tensors)}, {len(measured.table)} of them quantized",
            "sha256 of the weights": outcome.request.model,
        },
        target=_target(outcome),
        ppl_ref=outcome.ppl_ref,
        mixes=tuple(mixes),
        tensors=tuple(_tensor_row(t, shown) for t in plan.tensors),
        steps=tuple(step_row(s) for s in outcome.steps),
        notes=tuple(notes_of(outcome)),
        provenance={
            "mqnative": f"{build['version']}, {build['compiler']}, {build['isa']}",
            "llama.cpp": build["upstream_commit"],
            "texts": ", ".join(t.name for t in texts),
            "imatrix": "none" if measured.imatrix is None else measured.imatrix.content_hash(),
        },
        rebuild_command=command,
        gap=outcome.fit.solution.gap if outcome.fit.solution.method.startswith("exact") else None,
        choice=choice_facts(outcome.chosen, outcome.explanation, _asked(outcome)),
        frontier=frontier_facts(outcome.curve, lambda damage: kld_of(damage, outcome.link, measured.floor)),
        link=LinkRow(
            outcome.link.scale,
            outcome.link.coupling,
            outcome.link.spread,
            measured.floor,
            input_share(measured),
        ),
        memory=None if machine is None else memory_facts(machine.budget.text, machine.values()),
    )


def notes_of(outcome: Outcome) -> list[str]:
    """What a reader should know before trusting the figures."""
    notes = list(outcome.measured.notes)
    if outcome.rounded is not None:
        notes.append(outcome.rounded.note)
    imatrix = outcome.measured.imatrix
    entries = {} if imatrix is None else imatrix.entries
    unseen = [n for n, e in entries.items() if not e.counts.all()]
    if unseen:
        notes.append(
            f"{len(unseen)} expert tensors hold experts that no calibration token reached, such as "
            f"{unseen[0]}; their damage is estimated from the experts that were reached."
        )
    importances = outcome.measured.importances
    without = [n for n in outcome.measured.tensors if n in importances and importances[n] is None]
    if imatrix is None:
        notes.append("No imatrix was used; types that need one were left out.")
    elif without:
        notes.append(
            f"{len(without)} tensors have no importances, such as {without[0]}; types that need them were "
            "left out."
        )
    if outcome.net.chosen is not None:
        notes.append(
            f"{outcome.net.chosen} was better than the solved mix on the select text, at no more bytes: "
            "this file has its types."
        )
    if outcome.chosen.memory is not None:
        notes.append(outcome.chosen.memory.sentence)
    for number, step in enumerate(outcome.refinement, start=1):
        notes.append(_refinement_note(number, step))
    if outcome.fit.plan.fallbacks:
        notes.append(
            f"{len(outcome.fit.plan.fallbacks)} tensors have rows that the type asked for does not fit."
        )
    return notes


def _refinement_note(number: int, step: Step) -> str:
    said = f"Refinement, round {number}: {step.n_moves} moves measured"
    if step.difference is None:
        return f"{said}, none worth a change."
    low, high = step.difference.ci95
    kept = "accepted" if step.is_accepted else "rejected"
    return (
        f"{said}, {len(step.changed)} tensors changed: KLD on the select text "
        f"{step.difference.value:+.2e} ({low:+.2e} to {high:+.2e}), {kept}."
    )


def _rival_row(outcome: Outcome, name: str) -> MixRow:
    rival, judged = outcome.net.presets[name], outcome.judged[name]
    predicted = predicted_kld(outcome.rivals_measured, rival.types, outcome.link)
    why = "standard" if name in STANDARD else ""
    if name not in presets():
        why = "incumbent"
    if name == outcome.net.best:
        why = "best of at most equal size" if why == "incumbent" else "best preset of at most equal size"
    d = judged.difference
    return MixRow(
        name,
        "preset",
        rival.size_bytes,
        rival.bpw,
        figures_of(judged),
        verdict=judged.verdict,
        kld_difference=None if d is None else (d.value, *d.ci95),
        predicted_kld=None if predicted is None else predicted.mean,
        predicted_ci95=None if predicted is None else interval(predicted),
        why=why,
    )


def figures_of(judged: Judged) -> Figures:
    """Held-out scores as the report has them."""
    e = judged.figures
    values = {name: getattr(e, name) for name in Figures.__dataclass_fields__}
    return Figures(**values)


def _tensor_row(tensor: PlannedTensor, measured: Measured) -> TensorRow:
    return tensor_row(
        tensor.name, tensor.shape, tensor.source_type, tensor.qtype, tensor.size_bytes, measured
    )


def step_row(timed: Timed) -> StepTime:
    """A step as the report has it."""
    return StepTime(timed.name, timed.elapsed_s, timed.detail)


def _target(outcome: Outcome) -> str:
    asked = _asked(outcome)
    if asked:
        return asked
    whose = "the knee of the frontier" if outcome.chosen.knee else "the method's own size"
    return f"no size: {whose}, {outcome.fit.limit_bytes:,} bytes"


def _asked(outcome: Outcome) -> str:
    """The budget as it was given; empty without one."""
    if outcome.request.bpw is not None:
        return f"{outcome.request.bpw:g} bits per weight"
    if outcome.chosen.memory is not None:
        return outcome.chosen.memory.budget.text
    if outcome.request.size_bytes is None:
        return ""
    return f"a file of at most {outcome.request.size_bytes:,} bytes"


__all__ = ["IMATRIX_NAME", "figures_of", "notes_of", "publish", "report_of", "step_row"]
