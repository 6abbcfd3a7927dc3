"""The tables of a release as HTML that sorts by what stands behind the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mqnative.report import hybrid_tables as rows_of
from mqnative.report.hybrid_summary import BaselineRow, FileRow, HybridReport
from mqnative.report.hybrid_tables import Rows
from mqnative.report.numbers import typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table

Keys = Sequence[float | str | None]


def release_tables(report: HybridReport) -> list[tuple[str, str]]:
    """Title and table; the table is empty where it would have no rows."""
    files, gone = report.files, [b for b in report.baselines if b.reason]
    groups = rows_of.group_rows(report)
    return [
        ("Files", _table("Files", rows_of.FILES, rows_of.file_rows(report), map(_file, files))),
        (
            "Why each file is here",
            _table("Why each file is here", rows_of.WHY, rows_of.why_rows(report), map(_why, files), "small"),
        ),
        ("Types by group", _table("Types by group", rows_of.group_head(report), groups, groups)),
        (
            "Baselines that were removed",
            _table(
                "Baselines that were removed", rows_of.REMOVED, rows_of.removed_rows(report), map(_gone, gone)
            ),
        ),
    ]


def _file(f: FileRow) -> Keys:
    figures = f.figures
    return (
        f.name, f.provider, f.family, f.size_bytes, f.bpw, figures.kld_mean, figures.ppl,
        figures.top1_agreement, None,
    )  # fmt: skip


def _why(f: FileRow) -> Keys:
    return f.name, None, None if f.below_chord is None else -f.below_chord.value, None


def _gone(b: BaselineRow) -> Keys:
    kld = None if b.figures is None else b.figures.kld_mean
    return b.name, b.size_bytes, kld, b.reason, b.by, None if b.difference is None else b.difference.value


def _table(name: str, head: Sequence[str], rows: Rows, keys: Iterable[Keys], kind: str = "dense") -> str:
    cells = [
        [Cell(escape(typeset(text)), key) for text, key in zip(row, of_row, strict=True)]
        for row, of_row in zip(rows, keys, strict=True)
    ]
    return table(name, head, cells, f"{kind} sortable") if cells else ""
