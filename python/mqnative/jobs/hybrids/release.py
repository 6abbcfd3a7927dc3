"""The release folder: files under their v2 names, the card, tables, plot, manifests and logs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqnative.build.plan import BuildPlan
from mqnative.build.rebuild import manifest_of
from mqnative.build.writer import build_gguf
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.imatrix import write_imatrix
from mqnative.formats.manifest import Manifest, write_manifest
from mqnative.hybrids.chords import Point
from mqnative.hybrids.naming import Spec, family_of, file_name, model_stem, number_hybrids
from mqnative.hybrids.verdicts import Survivor
from mqnative.jobs.hybrids.ground import SPEC_KEY, Ground
from mqnative.jobs.hybrids.outcome import Outcome
from mqnative.jobs.hybrids.report import report_of
from mqnative.jobs.hybrids.tables import tables_of
from mqnative.jobs.request import OutputFolder
from mqnative.jobs.run import IMATRIX_NAME
from mqnative.report.hybrid_pages import PLOT, to_html, to_markdown
from mqnative.report.hybrid_plot import standalone
from mqnative.report.hybrid_summary import HybridReport

_TABLES = "manifests"
_LOGS = "logs"


@dataclass(frozen=True)
class Published:
    """A file of the release.

    Attributes:
        entry: its name during the search.
        name: its v2 name without the model's.
        file: its file name.
        provider, family: of the name.
        level: tensor, group or baseline.
        plan: of the file.
        spec: its v1 spec.
        survivor: why it is there.
    """

    entry: str
    name: str
    file: str
    provider: str
    family: str
    level: str
    plan: BuildPlan
    spec: Spec
    survivor: Survivor


def name_files(ground: Ground, outcome: Outcome) -> list[Published]:
    """The survivors under the names that they are published by, the smallest first."""
    found, stem = outcome.found, model_stem(ground.study.file.paths[0].name)
    points = [
        Point(b.family, found.sizes[n], found.entries[n].point.kld)
        for n, b in ground.baselines.items()
        if b.family is not None
    ]
    survivors = {s.name: s for s in found.table.survivors}
    families = {
        n: family_of(found.entries[n].point, points)
        for n in survivors
        if n not in ground.baselines or ground.baselines[n].family is None
    }
    sizes = {n: found.entries[n].size_bytes for n in families}
    numbers = number_hybrids({n: f for n, f in families.items() if n not in ground.baselines}, sizes)
    numbers |= number_hybrids({n: f for n, f in families.items() if n in ground.baselines}, sizes)
    published = []
    for name, survivor in survivors.items():
        baseline = ground.baselines.get(name)
        types = found.candidates[name].solved.types if baseline is None else baseline.types
        provider, level = "MQ", "baseline"
        if baseline is None:
            level = found.candidates[name].solved.level
        elif baseline.provider == "LM":
            provider = "LM"
        else:
            # Another's mix, built again from our original.
            provider = f"MQ-{baseline.provider}"
        family = families.get(name) or (baseline.family if baseline is not None else None) or "Q8_0"
        file = file_name(stem, provider, family, numbers.get(name))
        short = file.removeprefix(f"{stem}-").removesuffix(".gguf")
        every = ground.whole(types)
        published.append(
            Published(
                name, short, file, provider, family, level, ground.plan(types), ground.spec(every), survivor
            )
        )
    return published


def release(
    ground: Ground,
    outcome: Outcome,
    folder: OutputFolder,
    texts: tuple[Path, ...],
    command: str,
) -> tuple[HybridReport, dict[str, Any]]:
    """Write the folder; its ``manifest.json`` last.

    Args:
        ground: what the run stood on.
        outcome: what it found.
        folder: where to.
        texts: for the report.
        command: the call that makes the same again.

    Returns:
        The report and the folder's manifest.
    """
    published = name_files(ground, outcome)
    for name in (_TABLES, _LOGS):
        (folder.path / name).mkdir(exist_ok=True)
    write_imatrix(folder.work / IMATRIX_NAME, ground.imatrix, force=True)
    with ground.run.step("build", f"{len(published)} files"):
        manifests = [_build(ground, folder.path, p, outcome) for p in published]
    hashes = {p.file: m.model_sha256 for p, m in zip(published, manifests, strict=True)}
    report = report_of(ground, outcome, published, hashes, texts, command)
    written = {
        "README.md": to_markdown(report),
        "report.html": to_html(report),
        "report.json": json.dumps(report.to_json(), indent=2) + "\n",
        PLOT: standalone(report),
    }
    for name, content in tables_of(ground, outcome, published, report).items():
        written[f"{_TABLES}/{name}.json"] = json.dumps(content, indent=2, allow_nan=False) + "\n"
    decisions = list(outcome.decisions)
    written[f"{_LOGS}/decisions.jsonl"] = "".join(json.dumps(d) + "\n" for d in decisions)
    written[f"{_LOGS}/decisions.txt"] = "".join(
        f"{d['step']:<10} {d['about']}: {d['said']}\n" for d in decisions
    )
    for name, text in written.items():
        write_text_atomic(folder.path / name, text)
    names = [f for p in published for f in (p.file, _sidecar(p.file))] + list(written)
    manifest = {
        "mqnative": "hybrids/1",
        "request": outcome.request,
        "inputs": dict(outcome.inputs),
        "survivors": [_survivor(p, hashes[p.file], report) for p in published],
        "files": {name: (folder.path / name).stat().st_size for name in names},
        "files_sha256": hashes,
    }
    write_text_atomic(folder.manifest, json.dumps(manifest, indent=2) + "\n")
    return report, manifest


def _build(ground: Ground, folder: Path, published: Published, outcome: Outcome) -> Manifest:
    study, path = ground.study, folder / published.file
    build_gguf(
        study.file,
        published.plan,
        path,
        force=True,
        n_threads=study.n_threads,
        monitor=study.monitor,
        cache=study.cache,
    )
    figures = outcome.proof.figures[published.entry]
    extra = {
        "labels": {SPEC_KEY: published.spec.text},
        "name": published.name,
        "v1_spec": published.spec.text,
        "v1_spec_is_exact": published.spec.is_exact,
        "survivor": published.survivor.to_json(),
        "evaluation": {**figures.to_dict(), "text_sha256": outcome.proof.text_sha256},
    }
    manifest = manifest_of(
        "hybrids",
        study.file,
        published.plan,
        path,
        source_sha256=study.identity.model,
        imatrix_name=IMATRIX_NAME,
        imatrix_file=f"work/{IMATRIX_NAME}",
        extra=extra,
    )
    write_manifest(folder / _sidecar(published.file), manifest)
    return manifest


def _sidecar(file: str) -> str:
    return f"{file.removesuffix('.gguf')}.manifest.json"


def _survivor(published: Published, sha256: str, report: HybridReport) -> dict[str, Any]:
    row = next(f for f in report.files if f.file == published.file)
    return {
        "name": published.name,
        "model_path": published.file,
        "manifest_path": _sidecar(published.file),
        "sha256": sha256,
        "provider": published.provider,
        "family": published.family,
        "level": published.level,
        "size_bytes": published.plan.file_bytes,
        "bpw": published.plan.bpw,
        "v1_spec": published.spec.text,
        "v1_spec_is_exact": published.spec.is_exact,
        **asdict(row.figures),
        "predicted_kld": row.predicted_kld,
        "reason": published.survivor.reason,
        "why": row.why,
        "replaced": list(row.replaced),
        "below_chord": None if row.below_chord is None else asdict(row.below_chord),
        "below_chord_in_table": None if row.in_table is None else asdict(row.in_table),
    }
