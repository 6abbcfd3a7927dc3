"""Figures on each of several texts, mixes side by side: a mix can lose on one domain and not on another."""

from __future__ import annotations

from mqnative.report.numbers import measured, share, significant, typeset
from mqnative.report.summary import Report, TextRow
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table


def by_text(report: Report) -> dict[str, list[TextRow | None]]:
    """Text -> a row for each mix of the report, in its order; None where there is none."""
    known = {(row.text, row.mix): row for row in report.texts}
    texts = dict.fromkeys(row.text for row in report.texts)
    return {text: [known.get((text, mix.name)) for mix in report.mixes] for text in texts}


def text_table(report: Report) -> str:
    """KLD of every mix on every text with interval, PPL and top-1; empty for a single text."""
    rows = []
    for text, found in by_text(report).items():
        cells = [Cell(escape(text), text, "name")]
        cells += [Cell("") if row is None else _cell(row) for row in found]
        rows.append(cells)
    head = ("text", *(f"{mix.name}:" for mix in report.mixes))
    key = (
        '<p class="soft">KLD in nats per token with its 95 % interval, perplexity, and the share of tokens '
        "where mix and original put the same token first. In the mean every text counts alike.</p>"
    )
    return table("Figures on each text", head, rows, "mixes sortable") + key if rows else ""


def _cell(row: TextRow) -> Cell:
    kld = measured(row.kld_mean, *row.kld_ci95)
    lines = (kld.interval, f"PPL {significant(row.ppl, 4)}, top-1 {share(row.top1_agreement)}")
    small = "".join(f"<small>{escape(typeset(text))}</small>" for text in lines)
    return Cell(escape(typeset(kld.value)) + small, row.kld_mean)
