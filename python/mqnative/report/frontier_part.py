"""The frontier as part of a page: the plot, its knees in words, and tables."""

from __future__ import annotations

from mqnative.report.choices import FrontierFacts
from mqnative.report.frontier_plot import frontier_plot
from mqnative.report.numbers import measured, significant, size_text, typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table


def frontier_part(facts: FrontierFacts) -> str:
    """The section that shows the frontier; empty without one."""
    plot = frontier_plot(facts, "frontier size-wide", 760, 400)
    if not plot:
        return ""
    plot += frontier_plot(facts, "frontier size-narrow", 370, 360)
    said = "".join(f"<p>{escape(typeset(s))}</p>" for s in knee_sentences(facts))
    return (
        f'<figure class="hero">{plot}<figcaption>Line and band: the best mix of every size with the 95 % '
        f"interval of its prediction. Thin: the best presets.</figcaption></figure>{said}"
    )


def knee_sentences(facts: FrontierFacts) -> list[str]:
    """Every knee with its reason."""
    found = []
    for knee in facts.knees:
        kld = measured(knee.kld, knee.kld, knee.kld).value
        where = f"{size_text(knee.size_bytes)} ({knee.bpw:.2f} bits per weight, predicted KLD {kld})"
        spread = ""
        if knee.ci95_bytes is not None:
            low, high = map(size_text, knee.ci95_bytes)
            spread = f" Within the uncertainty of the damages it lies between {low} and {high}."
        found.append(f"Knee by the rule {knee.rule}: {where}. Why: {knee.reason}.{spread}")
    return found


def placed_table(facts: FrontierFacts) -> str:
    """Others' mixes beside the best ones of their size; empty without any."""
    rows = []
    for p in facts.placed:
        kld = "" if p.kld is None else _number(significant(p.kld))
        best = "" if p.best is None else _number(significant(p.best))
        ratio = p.kld / p.best if p.kld is not None and p.best else None
        rows.append(
            [
                Cell(escape(p.name), p.name),
                Cell(escape(size_text(p.size_bytes)), p.size_bytes),
                Cell(f"{p.bpw:.2f}", p.bpw),
                Cell(kld, p.kld),
                Cell(best, p.best),
                Cell("" if ratio is None else _number(significant(ratio)), ratio),
            ]
        )
    head = ("mix", "size:", "bpw:", "predicted KLD:", "best of its size:", "ratio:")
    return table("Others' mixes", head, rows, "dense sortable") if rows else ""


def points_table(facts: FrontierFacts) -> str:
    """The frontier's mixes."""
    rows = [
        [
            Cell(escape(size_text(p.size_bytes)), p.size_bytes),
            Cell(f"{p.bpw:.3f}", p.bpw),
            Cell(_number(measured(p.kld, *p.ci95).bracketed), p.kld),
        ]
        for p in facts.points
    ]
    return table(
        "The best mix of every size", ("size:", "bpw:", "predicted KLD, 95 %:"), rows, "dense sortable"
    )


def _number(text: str) -> str:
    return escape(typeset(text))
