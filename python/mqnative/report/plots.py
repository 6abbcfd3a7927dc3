"""The two plots of mixes: size against KLD, and predicted against measured KLD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mqnative.report.frame import UNITS, Frame, Mark, along, axes, labels
from mqnative.report.labels import Box
from mqnative.report.numbers import measured, plain, significant, size_text, typeset
from mqnative.report.sentences import SAME_SIZE, outcome, rival
from mqnative.report.summary import Interval, MixRow, Report
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
)

_RADIUS = {"result": 8.0, "preset": 5.0, "uniform": 4.5}
# Longer whiskers are cut at the frame.
_WHISKER_ROOM = 2.5


def size_plot(report: Report, name: str, width: float, height: float) -> str:
    """Size of the file against its KLD, one point for each mix; the result stands out."""
    unit, bytes_per_unit = next(u for u in UNITS if report.result.size_bytes >= u[1] or u[1] == 1.0)
    sizes = [m.size_bytes / bytes_per_unit for m in report.mixes]
    box = Box(52, 26, width - 12, height - 40)
    frame = Frame(
        box,
        linear_axis(sizes, box.left, box.right),
        _kld_axis(report.mixes, box.bottom, box.top),
    )
    spots = [
        _Spot(m, *frame.point(size, m.figures.kld_mean)) for m, size in zip(report.mixes, sizes, strict=True)
    ]
    body = axes(frame, f"file size, {unit}", "KLD, nats per token: lower is better")
    front, soft = _front(spots)
    body += front
    gap, obstacles = _gap(report, spots)
    body += gap
    for spot in reversed(spots):
        f = spot.mix.figures
        whisker, extent = _whisker(spot, frame.y, f.kld_ci95)
        obstacles.append(extent)
        body += f"<g><title>{_tooltip(spot.mix)}</title>{whisker}{_marker(spot)}</g>"
    body += _labels(spots, Box(box.left + 2, box.top, width, box.bottom - 2), obstacles, soft)
    return figure(name, (width, height), "File size against KL divergence", _description(report), body)


def _kld_axis(mixes: Sequence[MixRow], start: float, end: float) -> Axis:
    """Room for every mean, and for whiskers up to a factor."""
    means = [m.figures.kld_mean for m in mixes if m.figures.kld_mean > 0]
    ends = [v for m in mixes for v in m.figures.kld_ci95]
    near = [v for v in ends if means and min(means) / _WHISKER_ROOM < v < max(means) * _WHISKER_ROOM]
    return log_axis(means + near, start, end, pad=0.1)


def prediction_plot(report: Report, name: str, width: float, height: float) -> str:
    """Predicted against measured KLD on equal logarithmic axes; empty with fewer than two predictions."""
    known = [m for m in report.mixes if m.predicted_kld is not None and m.predicted_kld > 0]
    if len(known) < 2:
        return ""
    values = [v for m in known for v in (m.predicted_kld or 0.0, m.figures.kld_mean)]
    box = Box(52, 26, width - 12, height - 40)
    x = log_axis(values, box.left, box.right)
    y = log_axis(values, box.bottom, box.top)
    frame = Frame(box, x, y)
    spots = [_Spot(m, *frame.point(m.predicted_kld or 0.0, m.figures.kld_mean)) for m in known]
    diagonal = line(box.left, box.bottom, box.right, box.top, "diagonal")
    body = axes(frame, "predicted KLD", "measured KLD, nats per token") + diagonal
    obstacles, soft = [], along([(box.left, box.bottom), (box.right, box.top)])
    for spot in reversed(spots):
        whisker, extent = _whisker(spot, y, spot.mix.figures.kld_ci95)
        obstacles.append(extent)
        if spot.mix.predicted_ci95 is not None:
            low, high = spot.mix.predicted_ci95
            whisker += line(x(low), spot.y, x(high), spot.y, "whisker")
            obstacles.append(Box(x(low), spot.y - 2, x(high), spot.y + 2))
        body += f"<g><title>{_tooltip(spot.mix)}</title>{whisker}{_marker(spot)}</g>"
    body += _labels(spots, Box(box.left + 2, box.top, width, box.bottom - 2), obstacles, soft)
    said = "; ".join(
        f"{m.name}: {significant(m.predicted_kld or 0.0)} against {significant(m.figures.kld_mean)}"
        for m in known
    )
    return figure(name, (width, height), "Predicted against measured KL divergence", said, body)


@dataclass(frozen=True)
class _Spot:
    """A mix and its pixel."""

    mix: MixRow
    x: float
    y: float

    @property
    def radius(self) -> float:
        return _RADIUS[self.mix.kind]


def _front(spots: Sequence[_Spot]) -> tuple[str, list[Box]]:
    """The line through the mixes that no smaller one beats, the result aside."""
    others = sorted((s for s in spots if s.mix.kind != "result"), key=lambda s: (s.x, -s.y))
    front = [s for i, s in enumerate(others) if all(s.y > o.y for o in others[:i])]
    points = [(s.x, s.y) for s in front]
    return (path(points, "front"), along(points)) if len(points) > 1 else ("", [])


def _gap(report: Report, spots: Sequence[_Spot]) -> tuple[str, list[Box]]:
    """The distance between the result and its rival of the same size, in words."""
    other, result = rival(report), spots[0]
    spot = next((s for s in spots if s.mix is other), None)
    if spot is None or spot.mix.verdict in (None, "tie") or abs(spot.y - result.y) < 34:
        return "", []
    if abs(spot.mix.size_bytes / max(result.mix.size_bytes, 1) - 1) > SAME_SIZE:
        return "", []
    down = math.copysign(1.0, result.y - spot.y)
    start, end = spot.y + down * 9, result.y - down * 12
    said = outcome(result.mix, spot.mix)
    middle = (start + end) / 2
    arrow = line(result.x, start, result.x, end, "gap")
    arrow += path([(result.x - 4, end - down * 6), (result.x, end), (result.x + 4, end - down * 6)], "gap")
    size = text_width(said)
    arrow += text(result.x - 8, middle + 4, escape(said), "gaptext", "end")
    return arrow, [
        Box(result.x - 10 - size, middle - 9, result.x - 6, middle + 9),
        Box(result.x - 3, min(start, end), result.x + 3, max(start, end)),
    ]


def _whisker(spot: _Spot, axis: Axis, interval: Interval) -> tuple[str, Box]:
    low, high = axis(interval[0]), axis(interval[1])
    marks = line(spot.x, low, spot.x, high, "whisker")
    marks += "".join(
        line(spot.x - 4, y, spot.x + 4, y, "whisker") for y in (low, high) if y not in (axis.start, axis.end)
    )
    return marks, Box(spot.x - 5, min(low, high), spot.x + 5, max(low, high))


def _marker(spot: _Spot) -> str:
    r = spot.radius
    if spot.mix.kind == "result":
        corners = [(spot.x, spot.y - r), (spot.x + r, spot.y), (spot.x, spot.y + r), (spot.x - r, spot.y)]
    elif spot.mix.kind == "uniform":
        corners = [(spot.x + dx * r, spot.y + dy * r) for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    else:
        return f'<circle class="mark preset" cx="{spot.x:.1f}" cy="{spot.y:.1f}" r="{r:g}"/>'
    return path(corners, f"mark {spot.mix.kind}", closed=True)


def _labels(spots: Sequence[_Spot], frame: Box, obstacles: Sequence[Box], soft: Sequence[Box]) -> str:
    marks = [Mark(s.x, s.y, s.radius, _name(s.mix), s.mix.kind == "result") for s in spots]
    return labels(marks, frame, obstacles, soft)


def _name(mix: MixRow) -> str:
    # What a logarithmic axis cannot show is said.
    kld = mix.figures.kld_mean
    return plain(mix.name) if 0 < kld < math.inf else f"{plain(mix.name)} ({significant(kld)})"


def _tooltip(mix: MixRow) -> str:
    kld = typeset(measured(mix.figures.kld_mean, *mix.figures.kld_ci95).bracketed)
    return escape(f"{mix.name}: {size_text(mix.size_bytes)}, KLD {kld} nats per token")


def _description(report: Report) -> str:
    return "; ".join(
        f"{m.name}, {size_text(m.size_bytes)}: {significant(m.figures.kld_mean)} nats per token"
        for m in report.mixes
    )
