"""The plot of a frontier: predicted KLD of the best mix of every size, its knee, and others' mixes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mqnative.report.choices import FrontierFacts, FrontierPoint, PlacedRow
from mqnative.report.frame import UNITS, Frame, Mark, along, axes, labels
from mqnative.report.labels import Box
from mqnative.report.numbers import measured, plain, significant, size_text, typeset
from mqnative.report.svg import Axis, at, escape, figure, line, linear_axis, log_axis, path

# More named mixes than this hide each other; the ones farthest from the line keep a marker only.
_MOST_NAMES = 14
_KNEE_RADIUS, _RADIUS = 8.0, 4.5
# Presets that people look for first.
_KNOWN = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
_MARKS = {"preset": "mark preset", "hybrid": "mark hybrid", "recipe": "mark drafted"}


def frontier_plot(facts: FrontierFacts, name: str, width: float, height: float) -> str:
    """File size against predicted KLD, on a logarithmic axis; empty with fewer than two sizes."""
    points = [p for p in facts.points if p.kld > 0 and math.isfinite(p.kld)]
    if len(points) < 2:
        return ""
    unit, bytes_per_unit = next(u for u in UNITS if points[-1].size_bytes >= u[1] or u[1] == 1.0)
    placed = [p for p in facts.placed if p.kld is not None and 0 < p.kld < math.inf]
    placed = [p for p in placed if p.size_bytes <= 1.15 * points[-1].size_bytes]
    box = Box(52, 26, width - 12, height - 40)
    sizes = [b / bytes_per_unit for b in (*(p.size_bytes for p in points), *(p.size_bytes for p in placed))]
    klds = [p.kld for p in points] + [p.kld for p in placed if p.kld is not None]
    frame = Frame(
        box, linear_axis(sizes, box.left, box.right, pad=0.03), log_axis(klds, box.bottom, box.top, pad=0.04)
    )
    body = axes(frame, f"file size, {unit}", "predicted KLD, nats per token: lower is better")
    line_at = [frame.point(p.size_bytes / bytes_per_unit, p.kld) for p in points]
    body += _band(points, frame.x, frame.y, bytes_per_unit)
    presets = [(p.name, p.size_bytes, p.kld or 0.0) for p in placed if p.kind == "preset"]
    front = [frame.point(size / bytes_per_unit, kld) for _, size, kld in front_of(presets)]
    body += path(front, "front") + path(line_at, "median")
    marks, obstacles = [], []
    for knee in facts.knees[:1]:
        x, y = frame.point(knee.size_bytes / bytes_per_unit, knee.kld)
        marks.append(Mark(x, y, _KNEE_RADIUS, f"knee, {knee.bpw:.2f} bpw", strong=True))
        corners = [(x, y - _KNEE_RADIUS), (x + _KNEE_RADIUS, y), (x, y + _KNEE_RADIUS), (x - _KNEE_RADIUS, y)]
        shown = f"<g><title>{_said(knee.rule, knee.size_bytes, knee.kld)}</title>"
        shown += path(corners, "mark result", closed=True) + "</g>"
        if knee.ci95_bytes is not None:
            low, high = (frame.x(b / bytes_per_unit) for b in knee.ci95_bytes)
            shown = line(low, y, high, y, "whisker") + shown
            obstacles.append(Box(low, y - 3, high, y + 3))
        body += shown
    drawn: list[str] = []
    for p in sorted(placed, key=_excess):
        x, y = frame.point(p.size_bytes / bytes_per_unit, p.kld or 0.0)
        kind, radius = _MARKS.get(p.kind, "mark uniform"), _RADIUS + 1.5 * (p.kind == "recipe")
        marker = f'<circle class="{kind}" cx="{at(x)}" cy="{at(y)}" r="{at(radius)}"/>'
        drawn.append(f"<g><title>{_said(p.name, p.size_bytes, p.kld or 0.0)}</title>{marker}</g>")
        if len(marks) <= _MOST_NAMES:
            marks.append(Mark(x, y, _RADIUS, plain(p.name)))
        else:
            obstacles.append(Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS))
    body += "".join(reversed(drawn))  # what matters most lies on top
    body += labels(marks, Box(box.left + 2, box.top, width, box.bottom - 2), obstacles, along(line_at))
    said = "; ".join(f"{size_text(p.size_bytes)}: {significant(p.kld)} nats per token" for p in _some(points))
    return figure(name, (width, height), "File size against the predicted KLD of the best mix", said, body)


def front_of(mixes: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """The mixes (name, bytes, KLD) that no smaller one beats, by size; chords lie between neighbours."""
    front: list[tuple[str, int, float]] = []
    for mix in sorted((m for m in mixes if m[2] > 0), key=lambda m: (m[1], m[2])):
        if not front or mix[2] < front[-1][2]:
            front.append(mix)
    return front


def _excess(p: PlacedRow) -> tuple[int, bool, float, str]:
    """The recipe and other candidates first, then the best-known presets, then those nearest to the line."""
    ratio = (p.kld or math.inf) / p.best if p.best else math.inf
    rank = {"recipe": 0, "preset": 2}.get(p.kind, 1)
    return (rank, p.name not in _KNOWN, ratio, p.name)


def _band(points: Sequence[FrontierPoint], x: Axis, y: Axis, unit: float) -> str:
    """The interval of the prediction."""
    known = [p for p in points if all(map(math.isfinite, p.ci95))]
    if len(known) < 2:
        return ""
    upper = [(x(p.size_bytes / unit), y(p.ci95[1])) for p in known]
    lower = [(x(p.size_bytes / unit), y(max(p.ci95[0], 0.0))) for p in reversed(known)]
    return path(upper + lower, "band", closed=True)


def _some(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    step = max(1, len(points) // 8)
    return [*points[::step]]


def _said(name: str, size_bytes: int, kld: float) -> str:
    return escape(f"{name}: {size_text(size_bytes)}, predicted {typeset(measured(kld, kld, kld).value)}")
