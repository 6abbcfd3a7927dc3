"""A release as a model card, as a page that needs nothing else, and on a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from mqnative.report import hybrid_tables as tables
from mqnative.report.hybrid_plot import hybrid_plot, plot_style
from mqnative.report.hybrid_summary import HybridReport
from mqnative.report.markdown import escape, fenced, table
from mqnative.report.numbers import duration, plain, plain_lines, typeset
from mqnative.report.palette import stylesheet

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
    """The page: no script, no network, no other file."""
    css = (files("mqnative.report") / "templates" / "report.css").read_text(encoding="utf-8").strip()
    sections = (
        ("Files", _html(tables.FILES, tables.file_rows(report)) + f"<p>{_text(tables.legend(report))}</p>"),
        ("Why each file is here", _html(tables.WHY, tables.why_rows(report))),
        ("Types by group", _html(tables.group_head(report), tables.group_rows(report))),
        ("Baselines that were removed", _html(tables.REMOVED, tables.removed_rows(report))),
        ("How it was found", f"<p>{_text(tables.isolation_text(report))}</p>" + _notes(report)),
        ("How to rebuild", f"<pre>{html.escape(plain_lines(report.rebuild_command))}</pre>"),
        ("Provenance and credit", _html(("what", "which"), [list(p) for p in report.provenance.items()])),
    )
    body = "".join(f"<section><h2>{title}</h2>{inner}</section>" for title, inner in sections)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{_text(report.title)}</title>\n'
        f"<style>{stylesheet()}{css}{plot_style()}.scroll{{overflow-x:auto}}</style></head><body><main>"
        f"<header><h1>{_text(report.title)}</h1>"
        f'<p class="answer">{_text(tables.headline(report))}</p></header>'
        f'<figure class="hero">{hybrid_plot(report, "hybrids", 860, 480)}<figcaption>Filled: published. '
        "Dashed: chords between baselines. Lines from hybrids to the chord: proven wins.</figcaption>"
        "</figure>"
        f"{body}</main><footer>Made by mqnative.</footer></body></html>\n"
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


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>None.</p>"
    heads = "".join(f'<th scope="col">{_text(name.removesuffix(":"))}</th>' for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _text(content: str) -> str:
    return typeset(html.escape(plain(content)))
