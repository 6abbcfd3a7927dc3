"""The report on a terminal: one table and a few lines, at most 100 columns, and fewer figures on less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqnative.report.numbers import measured, plain, share, significant, size_text
from mqnative.report.sentences import break_down, claims, headline, held_out, text_of, time_spent
from mqnative.report.summary import MixRow, Report

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
# Left out on narrower terminals.
_EXTRA = ("bpw", "PPL", "top-1")
_STYLES = {"better": "green", "worse": "red"}


def print_text(report: Report, console: Console) -> None:
    """Print the mixes as a table, then the answer, what is proven, and what it stands on."""
    from rich.table import Table
    from rich.text import Text

    width = min(console.width, WIDTH)
    table = Table(title=Text(plain(report.title)), title_justify="left")
    for name in _cells(report.result, width):
        first = name == "mix"
        table.add_column(name, justify="left" if first else "right", overflow="fold", no_wrap=not first)
    table.add_column("verdict", no_wrap=True)
    for mix in report.mixes:
        cells = [Text(c) for c in _cells(mix, width).values()]
        verdict = Text(mix.verdict or "", style=_STYLES.get(mix.verdict or "", ""))
        table.add_row(*cells, verdict, style="bold" if mix.kind == "result" else None)
    console.print(table, width=width)
    for line in _lines(report):
        console.print(Text(line), width=width)


def _cells(mix: MixRow, width: int) -> dict[str, str]:
    f = mix.figures
    cells = {
        "mix": plain(mix.name),
        "size": size_text(mix.size_bytes),
        "bpw": f"{mix.bpw:.2f}",
        "KLD, nats/token, 95 %": measured(f.kld_mean, *f.kld_ci95).bracketed,
        "PPL": significant(f.ppl, 4),
        "top-1": share(f.top1_agreement),
    }
    return cells if width >= WIDTH else {k: v for k, v in cells.items() if k not in _EXTRA}


def _lines(report: Report) -> list[str]:
    steps = plain(break_down(report))
    facts = [
        "Verdict: this file against the mix, paired on the same tokens, 95 %",
        held_out(report),
        time_spent(report) + (f": {steps}" if steps else ""),
    ]
    budget = "" if report.choice is None else plain(report.choice.budget)
    lines = (text_of(headline(report)), claims(report), budget, ". ".join(f for f in facts if f) + ".")
    return [line for line in lines if line]
