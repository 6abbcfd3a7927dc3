"""Size against KLD of a release: baselines, the chords between them, and the hybrids below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from mqnative.report.hybrid_summary import HybridReport
from mqnative.report.labels import Box, Label, place_labels
from mqnative.report.numbers import measured, significant, size_text, typeset
from mqnative.report.palette import stylesheet
from mqnative.report.summary import Figures
from mqnative.report.svg import (
    Axis,
    escape,
    figure,
    line,
    linear_axis,
    log_axis,
    path,
    text,
    text_width,
    tick_text,
)

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
# A chord is straight where KLD is linear, so that it is drawn in steps on a logarithmic axis.
_STEPS = 24
_STYLE = (
    "text{font:12px sans-serif;fill:var(--ink)}.tick,.name{fill:var(--soft)}.grid{stroke:var(--grid)}"
    ".axis{stroke:var(--line)}.chord{fill:none;stroke:var(--rival);stroke-dasharray:4 3}"
    ".win{stroke:var(--good);stroke-width:1.5}.whisker{stroke:var(--soft)}.leader{stroke:var(--line)}"
    ".mark.hybrid{fill:var(--accent)}.mark.kept{fill:var(--rival)}"
    ".mark.removed{fill:var(--page);stroke:var(--rival);stroke-width:1.5}.label.hybrid{font-weight:600}"
)


@dataclass(frozen=True)
class _Dot:
    name: str
    kind: str
    size: float
    figures: Figures
    x: float
    y: float


def hybrid_plot(report: HybridReport, name: str, width: float, height: float) -> str:
    """An inline drawing; see `standalone` for one that is a file of its own."""
    found = [
        (b.name, "kept" if not b.reason else "removed", b.size_bytes, b.figures) for b in report.baselines
    ]
    found += [(f.name, "hybrid", f.size_bytes, f.figures) for f in report.files if f.is_hybrid]
    shown = [(n, k, s, f) for n, k, s, f in found if f is not None and f.kld_mean > 0]
    largest = max(s for _, _, s, _ in shown)
    unit, per_unit = next(u for u in _UNITS if largest >= u[1] or u[1] == 1.0)
    box = Box(52, 26, width - 12, height - 40)
    x = linear_axis([s / per_unit for _, _, s, _ in shown], box.left, box.right, pad=0.06)
    y = log_axis([f.kld_mean for *_, f in shown], box.bottom, box.top, pad=0.08)
    dots = [_Dot(n, k, s, f, x(s / per_unit), y(f.kld_mean)) for n, k, s, f in shown]
    chords, wins = _chords(report, x, y, per_unit), _wins(report, dots, y)
    body = _axes(box, x, y, f"file size, {unit}") + path(chords, "chord")
    body += "".join(line(d.x, d.y, d.x, top, "win") for d, top in wins)
    for dot in dots:
        body += f"<g><title>{_tooltip(dot)}</title>{_whisker(dot, y)}{_marker(dot)}</g>"
    obstacles = [Box(d.x - 3, min(d.y, top), d.x + 3, max(d.y, top)) for d, top in wins]
    soft = [Box(px - 5, py - 5, px + 5, py + 5) for px, py in chords]
    body += _labels(dots, Box(box.left, box.top, width, box.bottom), obstacles, soft)
    said = "; ".join(f"{d.name}, {size_text(d.size)}: {significant(d.figures.kld_mean)}" for d in dots)
    return figure(name, (width, height), "File size against KL divergence", said, body)


def standalone(report: HybridReport, width: float = 860, height: float = 480) -> str:
    """The drawing as an SVG file, light or dark as its reader is."""
    drawn = hybrid_plot(report, "hybrids", width, height)
    head, _, rest = drawn.partition(">")
    # The namespace is a name, not a place; it is put together so that no file holds an address.
    namespace = "http" + "://www.w3.org/2000/svg"
    background = '<rect width="100%" height="100%" fill="var(--page)"/>'
    return f'{head} xmlns="{namespace}"><style>{stylesheet()}{_STYLE}</style>{background}{rest}\n'


def plot_style(of: str = ".hybrids ") -> str:
    """The rules that the drawing needs in a page.

    Args:
        of: what they are for, as a CSS selector.
    """
    return "".join(f"{of}{rule}}}" for rule in _STYLE.split("}") if rule)


def _axes(box: Box, x: Axis, y: Axis, x_name: str) -> str:
    parts = []
    for tick in y.ticks():
        at = y(tick)
        parts.append(line(box.left, at, box.right, at, "grid"))
        parts.append(text(box.left - 7, at + 4, tick_text(tick), "tick", "end"))
    for tick in x.ticks(max(2, int((box.right - box.left) / 90))):
        at = x(tick)
        parts.append(line(at, box.bottom, at, box.bottom + 5, "axis"))
        parts.append(text(at, box.bottom + 18, tick_text(tick), "tick", "middle"))
    parts.append(line(box.left, box.bottom, box.right, box.bottom, "axis"))
    parts.append(text(box.right, box.bottom + 34, escape(x_name), "name", "end"))
    parts.append(text(0, 13, escape("KLD, nats per token: lower is better"), "name"))
    return "".join(parts)


def _chords(report: HybridReport, x: Axis, y: Axis, per_unit: float) -> list[tuple[float, float]]:
    """Points along the chords, the smallest file first."""
    anchors = [(b.size_bytes, b.figures.kld_mean) for b in report.baselines if b.is_anchor and b.figures]
    points = []
    for (s1, k1), (s2, k2) in pairwise(anchors):
        for i in range(_STEPS + 1):
            t = i / _STEPS
            kld = k1 + t * (k2 - k1)
            if kld > 0:
                points.append((x((s1 + t * (s2 - s1)) / per_unit), y(kld)))
    return points


def _wins(report: HybridReport, dots: list[_Dot], y: Axis) -> list[tuple[_Dot, float]]:
    """Each hybrid that is below its chord beyond doubt, and where the chord is."""
    below = {f.name: f.below_chord for f in report.files}
    found = [(d, below.get(d.name)) for d in dots if d.kind == "hybrid"]
    return [(d, y(b.reference)) for d, b in found if b is not None and b.is_proven]


def _whisker(dot: _Dot, y: Axis) -> str:
    low, high = dot.figures.kld_ci95
    return line(dot.x, y(low), dot.x, y(high), "whisker") if 0 < low < high < math.inf else ""


def _marker(dot: _Dot) -> str:
    if dot.kind == "hybrid":
        corners = [(dot.x + dx * 7, dot.y + dy * 7) for dx, dy in ((0, -1), (1, 0), (0, 1), (-1, 0))]
        return path(corners, "mark hybrid", closed=True)
    return f'<circle class="mark {dot.kind}" cx="{dot.x:.1f}" cy="{dot.y:.1f}" r="4"/>'


def _labels(dots: list[_Dot], frame: Box, obstacles: list[Box], soft: list[Box]) -> str:
    ordered = sorted(dots, key=lambda d: (d.kind != "hybrid", d.size))
    wanted = [Label(d.x, d.y, text_width(d.name), 15.0, 6.0) for d in ordered]
    parts = []
    for dot, place in zip(ordered, place_labels(wanted, frame, obstacles, soft), strict=True):
        if place.leader is not None:
            parts.append(line(dot.x, dot.y, *place.leader, "leader"))
        parts.append(text(place.box.left, place.box.bottom - 4, escape(dot.name), f"label {dot.kind}"))
    return "".join(parts)


def _tooltip(dot: _Dot) -> str:
    kld = typeset(measured(dot.figures.kld_mean, *dot.figures.kld_ci95).bracketed)
    return escape(f"{dot.name}: {size_text(dot.size)}, KLD {kld} nats per token")
