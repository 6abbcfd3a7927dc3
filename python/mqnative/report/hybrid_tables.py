"""The tables of a release as rows of plain text, for every rendering of it."""

from __future__ import annotations

from collections.abc import Sequence

from mqnative.report.hybrid_summary import BaselineRow, FileRow, HybridReport
from mqnative.report.numbers import change, measured, share, significant, size_text, with_error
from mqnative.report.sentences import count

Rows = list[list[str]]

FILES = ("name", "provider", "family", "size:", "bpw:", "KLD, 95 % interval:", "PPL:", "top-1:", "replaced")
WHY = ("name", "why it is here", "below its chord on held-out text:", "v1 spec")
REMOVED = ("baseline", "size:", "KLD:", "reason", "by", "on held-out text KLD higher by:")


def file_rows(report: HybridReport) -> Rows:
    """One line for each published file."""
    return [_file(f) for f in report.files]


def why_rows(report: HybridReport) -> Rows:
    """Why each is here."""
    return [[f.name, f.why, _below(f), f.spec] for f in report.files]


def removed_rows(report: HybridReport) -> Rows:
    """Baselines that are not published, and who took their place."""
    return [_removed(b) for b in report.baselines if b.reason]


def group_head(report: HybridReport) -> Sequence[str]:
    """Headings of `group_rows`."""
    return ("name", *_groups(report))


def group_rows(report: HybridReport) -> Rows:
    """The types of each file's groups."""
    groups = _groups(report)
    return [[f.name, *(f.groups.get(g, "") for g in groups)] for f in report.files]


def headline(report: HybridReport) -> str:
    """What came out, in a sentence."""
    hybrids = [f for f in report.files if f.is_hybrid]
    replaced = {name for f in hybrids for name in f.replaced}
    if not hybrids:
        return f"No hybrid is worth its place beside {len(report.baselines)} baselines."
    best = max(
        hybrids, key=lambda f: 1.0 - f.figures.kld_mean / f.below_chord.reference if f.below_chord else 0.0
    )
    said = (
        f"{count(len(report.files), 'file')}, {count(len(hybrids), 'hybrid')} among them, in the place of "
        f"{len(replaced)} of {count(len(report.baselines), 'baseline')}."
    )
    if best.below_chord is not None and best.below_chord.reference > 0:
        lower = 1.0 - best.figures.kld_mean / best.below_chord.reference
        said += f" {best.name} loses {100 * lower:.0f} % less than the chord of its neighbours at its bytes."
    return said


def isolation_text(report: HybridReport) -> str:
    """What the isolation of groups took."""
    i = report.isolation
    return (
        f"{i['n_asked']:.0f} samples of groups ({i['n_patterns']:.0f} of them different) took "
        f"{i['n_whole']:.0f} whole forward passes, {100 * i['share']:.0f} % of one evaluation for each "
        f"sample on the same {i['n_chunks']:.0f} chunks. Bytes of models written before they survived: 0."
    )


def legend(report: HybridReport) -> str:
    """What the figures mean."""
    f = report.files[0].figures if report.files else None
    tokens = "" if f is None else f" Measured on {f.n_tokens:,} held-out tokens that chose nothing."
    return (
        "KLD is D(original || file) in nats per token. The original has PPL "
        f"{significant(report.ppl_ref, 5)}.{tokens} LM: llama.cpp's preset; MQ: hybrid; UD, EXT: others' "
        "mixes, built again from the same original with the same importances. A chord is the straight line "
        "between two neighbouring baselines. Intervals of differences hold for all claims together."
    )


def _groups(report: HybridReport) -> list[str]:
    return list(dict.fromkeys(g for f in report.files for g in f.groups))


def _file(f: FileRow) -> list[str]:
    figures = f.figures
    return [
        f.name,
        f.provider,
        f.family,
        size_text(f.size_bytes),
        f"{f.bpw:.2f}",
        measured(figures.kld_mean, *figures.kld_ci95).bracketed,
        f"{with_error(figures.ppl, figures.ppl_se)} ({change(figures.ppl_ratio)})",
        share(figures.top1_agreement, figures.top1_agreement_se),
        ", ".join(f.replaced),
    ]


def _below(f: FileRow) -> str:
    if f.below_chord is None:
        return ""
    found = measured(-f.below_chord.value, -f.below_chord.ci95[1], -f.below_chord.ci95[0]).bracketed
    return found if f.below_chord.is_proven else f"not proven: {found}"


def _removed(b: BaselineRow) -> list[str]:
    difference = ""
    if b.difference is not None:
        difference = measured(b.difference.value, *b.difference.ci95).bracketed
    kld = "" if b.figures is None else significant(b.figures.kld_mean)
    reason = b.reason.lower().replace("_", " ")
    return [b.name, size_text(b.size_bytes), kld, reason, b.by, difference]
