"""The release as its report sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mqnative.core.native import core
from mqnative.hybrids.verdicts import Removal
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.outcome import Outcome
from mqnative.jobs.hybrids.verify import Claim
from mqnative.jobs.publish import step_row
from mqnative.measure.evaluate import Evaluation
from mqnative.report.hybrid_summary import BaselineRow, Below, FileRow, HybridReport
from mqnative.report.summary import Figures

if TYPE_CHECKING:
    from mqnative.jobs.hybrids.release import Published


def report_of(
    ground: Ground,
    outcome: Outcome,
    published: Sequence[Published],
    hashes: Mapping[str, str],
    texts: tuple[Path, ...],
    command: str,
) -> HybridReport:
    """The report of a search whose files are built.

    Args:
        ground: what it stood on.
        outcome: what it found.
        published: the files.
        hashes: file -> SHA-256.
        texts: calibration text and, if there was one, held-out text.
        command: the call.
    """
    study, build = ground.study, core().build_info()
    names = {p.entry: p.name for p in published}
    cost = outcome.isolation.cost
    credits = {
        f"{n} by": str(b.credit.get("provider") or b.credit.get("origin") or "")
        for n, b in ground.baselines.items()
        if b.provider != "LM"
    }
    return HybridReport(
        title=f"{study.file.get('general.name', '') or study.file.paths[0].stem}: hybrids worth their size",
        model={
            "file": study.file.paths[0].name,
            "architecture": study.file.architecture or "",
            "parameters": f"{study.file.n_weights:,}",
            "sha256 of the weights": study.identity.model,
        },
        ppl_ref=outcome.proof.ppl_ref,
        files=tuple(_file(outcome, p, names, hashes[p.file]) for p in published),
        baselines=tuple(_baselines(ground, outcome, names)),
        isolation={
            "n_asked": cost.n_asked,
            "n_patterns": cost.n_patterns,
            "n_passes": cost.n_passes,
            "n_whole": cost.n_whole,
            "n_chunks": cost.n_chunks,
            "share": cost.share,
            "share_of_patterns": cost.share_of_patterns,
        },
        notes=tuple(_notes(outcome)),
        steps=tuple(step_row(s) for s in ground.run.steps),
        provenance={
            "mqnative": f"{build['version']}, {build['compiler']}, {build['isa']}",
            "llama.cpp, which makes the presets": build["upstream_commit"],
            "texts": ", ".join(t.name for t in texts),
            "sha256 of the held-out tokens": outcome.proof.text_sha256,
            "imatrix": ground.imatrix.content_hash(),
            **credits,
        },
        rebuild_command=command,
    )


def group_types(tensors: Mapping[str, Sequence[str]], types: Mapping[str, str]) -> dict[str, str]:
    """Group -> its types, the commonest first: ``Q6_K``, or ``Q4_K:12 Q6_K:4``."""
    found = {}
    for group, names in tensors.items():
        counts = Counter(types[n] for n in names).most_common()
        found[group] = counts[0][0] if len(counts) == 1 else " ".join(f"{t}:{n}" for t, n in counts)
    return found


def figures_of(found: Evaluation) -> Figures:
    """Held-out scores as reports have them."""
    return Figures(**{name: getattr(found, name) for name in Figures.__dataclass_fields__})


def _file(outcome: Outcome, p: Published, names: Mapping[str, str], sha256: str) -> FileRow:
    candidate = outcome.found.candidates.get(p.entry)
    predicted = None if candidate is None or candidate.predicted is None else candidate.predicted.mean
    return FileRow(
        name=p.name,
        file=p.file,
        provider=p.provider,
        family=p.family,
        level=p.level,
        size_bytes=p.plan.file_bytes,
        bpw=p.plan.bpw,
        figures=figures_of(outcome.proof.figures[p.entry]),
        spec=p.spec.text if p.spec.is_exact else f"~{p.spec.text}",
        why=renamed(p.survivor.said, names),
        replaced=p.survivor.replaced,
        groups=group_types(outcome.isolation.tensors, p.plan.types),
        below_chord=_below(outcome.proof.below_chord.get(p.entry)),
        in_table=_below(outcome.proof.in_table.get(p.entry)),
        predicted_kld=predicted,
        sha256=sha256,
    )


def _baselines(ground: Ground, outcome: Outcome, names: Mapping[str, str]) -> list[BaselineRow]:
    removed: dict[str, Removal] = {r.name: r for r in outcome.removals}
    heirs = {n: s.name for s in outcome.found.table.survivors for n in s.replaced}
    every = [*ground.baselines, *(r.name for r in outcome.duplicates)]
    rows = []
    for name in every:
        baseline, removal = ground.baselines.get(name), removed.get(name)
        first = name if removal is None or baseline is not None else str(removal.by)
        figures = outcome.proof.figures.get(name)
        heir = heirs.get(name, "" if removal is None or removal.by is None else removal.by)
        credit = ground.baselines[first].credit
        rows.append(
            BaselineRow(
                name=name,
                size_bytes=outcome.found.sizes[first],
                figures=None if figures is None else figures_of(figures),
                is_anchor=name in outcome.found.table.anchors,
                reason="" if removal is None else removal.reason,
                by=names.get(heir, heir),
                said="" if removal is None else renamed(removal.said, names),
                difference=_below(outcome.proof.replaced.get(name)),
                credit=str(credit.get("provider") or credit.get("origin") or ""),
            )
        )
    return sorted(rows, key=lambda r: (r.size_bytes, r.name))


def renamed(said: str, names: Mapping[str, str]) -> str:
    """A sentence with the names that files are published by."""
    for entry in sorted(names, key=len, reverse=True):
        said = said.replace(entry, names[entry])
    return said


def _below(claim: Claim | None) -> Below | None:
    return None if claim is None else Below(claim.difference.value, claim.difference.ci95, claim.reference)


def _notes(outcome: Outcome) -> list[str]:
    table, choices = outcome.found.table, outcome.isolation.choices
    bans = [c.ban for c in choices if c.ban is not None]
    counts = ", ".join(f"{bans.count(b)} {b.lower().replace('_', ' ')}" for b in dict.fromkeys(bans))
    notes = [
        f"{len(choices)} patterns of groups were judged: {counts or 'none'} left out, "
        f"{len(choices) - len(bans)} stay.",
        f"{len(outcome.found.candidates)} candidates were solved for, "
        f"{sum(c.klds is not None for c in outcome.found.candidates.values())} measured in memory.",
        f"{table.n_comparisons} pairs were compared on the same tokens; so that all verdicts hold together "
        f"with 95 %, intervals of the least clear have {table.critical:.1f} standard errors on each side.",
    ]
    unproven = [s.name for s in table.survivors if s.name in outcome.proof.below_chord]
    unproven = [n for n in unproven if outcome.proof.below_chord[n].difference.ci95[1] >= 0]
    if unproven:
        notes.append(f"{len(unproven)} hybrids are not proven to lie below their chord on held-out text.")
    return notes
