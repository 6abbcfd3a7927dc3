"""A release as a model card, as a page that needs nothing else, and on a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mqnative.report import hybrid_tables as tables
from mqnative.report.html import head, script
from mqnative.report.hybrid_html import release_tables
from mqnative.report.hybrid_plot import hybrid_plot, plot_style
from mqnative.report.hybrid_summary import HybridReport
from mqnative.report.markdown import escape, fenced, table
from mqnative.report.numbers import duration, plain, plain_lines, typeset
from mqnative.report.tables import facts

if TYPE_CHECKING:
    from rich.console import Console

PLOT = "size-kld.svg"
_WIDTH = 110
_ON_TERMINAL = ("name", "size:", "bpw:", "KLD, 95 % interval:", "top-1:", "replaced")


def to_markdown(report: HybridReport) -> str:
    """The model card, as GitHub-flavoured Markdown."""
    parts = [
        f"# {escape(report.title)}",
        f"**{escape(tables.headline(report))}**",
        _facts(report),
        "## Files",
        _markdown(tables.FILES, tables.file_rows(report)),
        escape(tables.legend(report)),
        f"![Size against KLD, with the chords of the baselines]({PLOT})",
        "## Why each file is here",
        _markdown(tables.WHY, tables.why_rows(report)),
        "## Types by group",
        _markdown(tables.group_head(report), tables.group_rows(report)),
        "## Baselines that were removed",
        _markdown(tables.REMOVED, tables.removed_rows(report)),
        "## How it was found",
        escape(tables.isolation_text(report)),
        *(f"- {escape(note)}" for note in report.notes),
        _markdown(("step", "time:", "what"), _steps(report)),
        "## How to rebuild",
        fenced(report.rebuild_command),
        "Each file's manifest (`NAME.manifest.json`) makes its very bytes again with `mqnative build "
        "--manifest`.",
        "## Provenance and credit",
        "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in report.provenance.items()),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def to_html(report: HybridReport) -> str:
    """The page: nothing else is needed to read it, and its script only sorts tables."""
    made = [(title, drawn or "<p>None.</p>") for title, drawn in release_tables(report)]
    sections = (
        (made[0][0], f"{made[0][1]}<p>{_text(tables.legend(report))}</p>"),
        *made[1:],
        ("How it was found", f"<p>{_text(tables.isolation_text(report))}</p>" + _notes(report)),
        ("How to rebuild", f"<pre>{html.escape(plain_lines(report.rebuild_command))}</pre>"),
        ("Provenance and credit", facts(report.provenance, "Provenance and credit")),
    )
    body = "".join(f"<section><h2>{title}</h2>{inner}</section>" for title, inner in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">{head(report.title, plot_style())}<body><main>'
        f"<header><h1>{_text(report.title)}</h1>"
        f'<p class="answer">{_text(tables.headline(report))}</p></header>'
        f'<figure class="hero">{hybrid_plot(report, "hybrids size-wide", 860, 480)}'
        f"{hybrid_plot(report, 'hybrids size-narrow', 370, 380)}<figcaption>Filled: published. "
        "Dashed: chords between baselines. Lines from hybrids to the chord: proven wins.</figcaption>"
        "</figure>"
        f"{body}</main><footer>Made by mqnative.</footer>{script()}</body></html>\n"
    )


def print_text(report: HybridReport, console: Console) -> None:
    """The table of files, and the answer."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(plain(report.title)), title_justify="left")
    columns = [i for i, name in enumerate(tables.FILES) if name in _ON_TERMINAL]
    for i in columns:
        name = tables.FILES[i]
        grid.add_column(
            name.removesuffix(":"), justify="right" if name.endswith(":") else "left", overflow="fold"
        )
    for row, file in zip(tables.file_rows(report), report.files, strict=True):
        grid.add_row(*(Text(plain(row[i])) for i in columns), style="bold" if file.is_hybrid else None)
    console.print(grid, width=min(console.width, _WIDTH))
    for line in (tables.headline(report), tables.isolation_text(report)):
        console.print(Text(line), width=min(console.width, _WIDTH))


def _facts(report: HybridReport) -> str:
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in report.model.items() if value)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(head, [[escape(cell) for cell in row] for row in rows]) if rows else "None."


def _steps(report: HybridReport) -> list[list[str]]:
    return [[s.name, duration(s.elapsed_s), s.detail] for s in report.steps]


def _notes(report: HybridReport) -> str:
    return "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in report.notes) + "</ul>"


def _text(content: str) -> str:
    return typeset(html.escape(plain(content)))
