"""Speed against damage at one size, as a table of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mqnative.report.numbers import significant, size_text, typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table


@dataclass(frozen=True)
class SpeedRow:
    """The least damaging mix of a speed.

    Attributes:
        tps: generated tokens per second, predicted for this machine.
        kld: predicted, nats per token.
        size_bytes: of the file.
    """

    tps: float
    kld: float
    size_bytes: int


def speed_table(rows: Sequence[SpeedRow]) -> str:
    """From the least damaging to the fastest; empty without rows."""
    if not rows:
        return ""
    least = rows[0]
    cells = [
        [
            Cell(f"{r.tps:.1f}", r.tps),
            Cell(escape(typeset(f"{100 * (r.tps / least.tps - 1):+.0f} %")), r.tps),
            Cell(escape(typeset(significant(r.kld))), r.kld),
            Cell(escape(size_text(r.size_bytes)), r.size_bytes),
        ]
        for r in rows
    ]
    head = ("tokens/s, predicted:", "against the first:", "predicted KLD:", "size:")
    note = (
        "<p>The least damaging mix of at most the knee's size at each speed of generation, on the machine "
        "that this was made on.</p>"
    )
    return note + table("Speed against damage", head, cells, "dense sortable")
