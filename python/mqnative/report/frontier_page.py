"""A frontier as a page, or as a drawing on its own, that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from mqnative.report.choices import FrontierFacts
from mqnative.report.frontier_part import frontier_part, placed_table, points_table
from mqnative.report.frontier_plot import frontier_plot
from mqnative.report.html import head, script
from mqnative.report.numbers import significant, size_text, typeset
from mqnative.report.speed_table import SpeedRow, speed_table
from mqnative.report.standalone import standalone
from mqnative.report.svg import escape

_WIDTH, _HEIGHT = 900.0, 520.0


def frontier_page(facts: FrontierFacts, title: str, speeds: Sequence[SpeedRow] = ()) -> str:
    """The page, as text to be written in UTF-8; the same facts give the same bytes."""
    parts = [
        ("Others' mixes on it", placed_table(facts)),
        ("Speed at the knee's size", speed_table(speeds)),
        ("Every size", points_table(facts)),
    ]
    sections = "".join(f"<section><h2>{name}</h2>{body}</section>" for name, body in parts if body)
    return (
        f'<!DOCTYPE html>\n<html lang="en">{head(title)}<body><main>'
        f"<header><h1>{escape(title)}</h1>{_answer(facts)}</header>"
        f"{frontier_part(facts)}{sections}</main>"
        "<footer>Made by mqnative. KLD is D(original || mix), in nats per token, predicted.</footer>"
        f"{script()}</body></html>\n"
    )


def _answer(facts: FrontierFacts) -> str:
    """The first knee in a sentence; empty without one."""
    if not facts.knees:
        return ""
    knee = facts.knees[0]
    size, kld = escape(typeset(size_text(knee.size_bytes))), escape(typeset(significant(knee.kld)))
    return (
        f'<p class="answer">The knee lies at <strong>{size}</strong>: {knee.bpw:.2f} bits per weight, '
        f"predicted to lose {kld} nats per token.</p>"
    )


def frontier_svg(facts: FrontierFacts) -> str:
    """The drawing alone; empty with fewer than two sizes."""
    plot = frontier_plot(facts, "frontier", _WIDTH, _HEIGHT)
    if not plot:
        return ""
    return standalone(plot)
