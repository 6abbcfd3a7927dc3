"""The tables of the page: mixes, predictions, tensors, steps, facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mqnative.report.curves import rungs
from mqnative.report.numbers import (
    TIMES,
    change,
    correlation,
    duration,
    measured,
    significant,
    size_text,
    typeset,
    with_error,
)
from mqnative.report.palette import step
from mqnative.report.sentences import relative
from mqnative.report.summary import MixRow, Report, TensorRow
from mqnative.report.svg import escape

# Damage by type is written in millionths of a nat, which are short numbers.
_MICRO = 1e-6
_NUMERIC = ' class="n"'
_SIGNS = {"better": "▲", "worse": "▼", "tie": "≈"}


class Cell(NamedTuple):
    """A cell's HTML, the value it sorts by, and its class."""

    html: str
    sort: float | str | None = None
    kind: str = ""


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], kind: str = "") -> str:
    """A table in a box that scrolls where the page is narrow; the first cell of a row is its heading.

    Args:
        name: the caption, for those who cannot see where the table stands.
        head: headings; one that ends in ``:`` stands over numbers.
        rows: cells; columns whose cells have a ``sort`` value can be sorted.
        kind: classes of the table.
    """
    numeric = [h.endswith(":") for h in head]
    heads = "".join(
        f'<th scope="col"{_NUMERIC if n else ""}>{escape(h.removesuffix(":"))}</th>'
        for h, n in zip(head, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(_cell(c, i == 0, n) for i, (c, n) in enumerate(zip(row, numeric, strict=True)))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">'
        f'<table class="{kind}"><caption class="hidden">{escape(name)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell, first: bool, numeric: bool) -> str:
    classes = " ".join(c for c in (cell.kind, "n" if numeric else "") if c)
    attributes = f' class="{classes}"' if classes else ""
    if cell.sort is not None:
        key = cell.sort if isinstance(cell.sort, str) else f"{cell.sort:.6g}"
        attributes += f' data-sort="{escape(key)}"'
    return f'<th scope="row"{attributes}>{cell.html}</th>' if first else f"<td{attributes}>{cell.html}</td>"


def mixes(report: Report) -> str:
    """Every mix with its figures, intervals and the verdict."""
    head = ("mix", "size:", "KLD, nats/token:", "this file against it", "of single tokens:", "PPL:", "top-1:")
    return table("Mixes", head, [_mix(report.result, m) for m in report.mixes], "mixes sortable")


def _mix(result: MixRow, mix: MixRow) -> list[Cell]:
    f = mix.figures
    kld = measured(f.kld_mean, *f.kld_ci95)
    agreement, _, se = with_error(100 * f.top1_agreement, 100 * f.top1_agreement_se).partition(" ± ")
    why = f"<small>{escape(mix.why)}</small>" if mix.why else ""
    return [
        Cell(escape(mix.name) + why, mix.name, f"name {mix.kind}"),
        _two(size_text(mix.size_bytes), f"{mix.bpw:.2f} bpw", mix.size_bytes),
        _two(kld.value, kld.interval, f.kld_mean),
        _verdict(result, mix),
        _two(f"median {significant(f.kld_median)}", f"p99 {significant(f.kld_p99)}", f.kld_p99),
        _two(with_error(f.ppl, f.ppl_se), f"{change(f.ppl_ratio)}, r {correlation(f.ppl_cor_ln)}", f.ppl),
        _two(f"{agreement} %", f"± {se} %", f.top1_agreement),
    ]


def _verdict(result: MixRow, mix: MixRow) -> Cell:
    if mix.verdict is None:
        return Cell("")
    ratio = relative(result, mix)
    ratio_text = "" if ratio is None else f" <b>{_number(_versus(ratio))}</b>"
    difference = ""
    if mix.kld_difference is not None:
        difference = f"<small>difference {_number(measured(*mix.kld_difference).interval)}</small>"
    word = f'<span class="verdict {mix.verdict}">{_SIGNS[mix.verdict]} {mix.verdict}</span>'
    return Cell(word + ratio_text + difference, -1.0 if ratio is None else ratio)


def _versus(ratio: float) -> str:
    return change(ratio) if ratio < 2 else f"{TIMES} {significant(ratio, 2)}"


def predictions(report: Report) -> str:
    """Predicted beside measured; empty where nothing was predicted."""
    rows = []
    for mix in (m for m in report.mixes if m.predicted_kld is not None):
        value, f = mix.predicted_kld or 0.0, mix.figures
        said = measured(value, *(mix.predicted_ci95 or (value, value)))
        ratio = value / f.kld_mean if f.kld_mean > 0 else 0.0
        kld = measured(f.kld_mean, *f.kld_ci95)
        rows.append(
            [
                Cell(escape(mix.name), mix.name, f"name {mix.kind}"),
                _two(said.value, said.interval if mix.predicted_ci95 else "", value),
                _two(kld.value, kld.interval, f.kld_mean),
                Cell(_number(significant(ratio)) if ratio else "", ratio),
            ]
        )
    head = ("mix", "predicted:", "measured:", "ratio:")
    return table("Predicted against measured KLD", head, rows, "mixes sortable") if rows else ""


def tensors(rows: Sequence[TensorRow]) -> str:
    """Every tensor: what it is, what it became, what that costs."""
    most = max((t.damage for t in rows), default=0.0)
    head = (
        "tensor",
        "type",
        "size:",
        "bpw:",
        "damage:",
        "share of the largest",
        "importance percentile:",
        "was",
        "shape:",
    )
    cells = [
        [
            Cell(escape(t.name), t.name, "mono"),
            Cell(escape(t.qtype), t.bpw, f"q{step(t.bpw)}"),
            Cell(escape(size_text(t.size_bytes)), t.size_bytes),
            Cell(f"{t.bpw:.2f}", t.bpw),
            Cell(_number(significant(t.damage)), t.damage),
            Cell(_bar(t.damage / most if most > 0 else 0.0), t.damage),
            Cell(
                "" if t.importance_percentile is None else f"{t.importance_percentile:.0f}",
                t.importance_percentile,
            ),
            Cell(escape(t.source_type)),
            Cell(f" {TIMES} ".join(str(n) for n in t.shape), t.n_weights),
        ]
        for t in rows
    ]
    return table("Every tensor", head, cells, "dense sortable")


def role_curves(role: str, rows: Sequence[TensorRow]) -> str:
    """The damage of every tensor of a role at every type; the chosen type stands out, probes are marked."""
    types = [r.qtype for r in rungs(rows)]
    cells = []
    for t in rows:
        points = {p.qtype: p for p in t.curve}
        row = [Cell(escape(t.name), t.name, "mono")]
        for qtype in types:
            p = points.get(qtype)
            if p is None:
                row.append(Cell(""))
                continue
            kind = " ".join(
                k
                for k, on in (("picked", qtype == t.qtype), ("probe", p.measured), ("illegal", not p.legal))
                if on
            )
            row.append(
                Cell(
                    _number(significant(p.damage / _MICRO, 2)) + ("<sup>m</sup>" if p.measured else ""),
                    p.damage,
                    kind,
                )
            )
        cells.append(row)
    return table(f"Damage of {role} by type", ["tensor", *(f"{q}:" for q in types)], cells, "dense sortable")


def steps(report: Report) -> str:
    """Where the time went."""
    most = max((s.elapsed_s for s in report.steps), default=0.0)
    rows = [
        [
            Cell(escape(s.name)),
            Cell(
                '<span class="soft">from the store</span>' if s.reused else duration(s.elapsed_s), s.elapsed_s
            ),
            Cell(_bar(0.0 if s.reused or most <= 0 else s.elapsed_s / most)),
            Cell(escape(s.detail)),
        ]
        for s in report.steps
    ]
    return table("Where the time went", ("step", "time:", "share of the longest", "what"), rows, "steps")


def facts(values: Mapping[str, str], name: str) -> str:
    """Names and values; empty without any."""
    rows = [[Cell(escape(key)), Cell(escape(value))] for key, value in values.items()]
    return table(name, ("what", "value"), rows, "facts") if rows else ""


def _two(first: str, second: str, sort: float) -> Cell:
    return Cell(_number(first) + (f"<small>{_number(second)}</small>" if second else ""), sort)


def _number(text: str) -> str:
    return escape(typeset(text))


def _bar(part: float) -> str:
    return f'<span class="bar" style="width:{100 * min(part, 1.0):.1f}%"></span>' if part > 0 else ""
