"""One tensor's curve over all types: damage or weight error against bits per weight, knees and choice marked.

Every type is a button, so that a click or Enter chooses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mqnative.report.labels import Box, Label, place_labels
from mqnative.report.numbers import measured, significant, typeset
from mqnative.report.summary import CurvePoint, TensorRow
from mqnative.report.svg import Axis, escape, figure, line, log_axis, path, text, text_width, tick_text

Kind = Literal["damage", "error"]
_NAMES = {
    "damage": "KLD if this tensor alone has the type, nats per token",
    "error": "weight error, weighted by importance (share of the weights' energy)",
}
_SHORT_NAMES = {"damage": "KLD, nats per token", "error": "weight error"}
# Narrower plots have short names, and labels on the best types only.
_WIDE = 480
_BPW_TICKS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)
_LEFT, _TOP, _BOTTOM, _RIGHT = 58.0, 28.0, 66.0, 14.0
_LINE = 15.0
_RADIUS = 5.0
# Damage below this share of the largest is as good as none.
_DECADES = 7.0


@dataclass(frozen=True)
class Spot:
    """One type in the plot.

    Attributes:
        qtype, bpw: the type.
        value, low, high: with its 95 % interval.
        measured: by a probe of its own.
        chosen: what the tensor has.
    """

    qtype: str
    bpw: float
    value: float
    low: float
    high: float
    measured: bool
    chosen: bool


def spots_of(tensor: TensorRow, chosen: str, kind: Kind) -> list[Spot]:
    """The types that a plot can show: those with a value above zero."""
    found = []
    for point in tensor.curve:
        values = _values(point, kind)
        if values is not None and values[0] > 0 and point.legal:
            measured_here = point.measured or kind == "error"
            found.append(Spot(point.qtype, point.bpw, *values, measured_here, point.qtype == chosen))
    return sorted(found, key=lambda s: (s.bpw, s.value))


def _values(point: CurvePoint, kind: Kind) -> tuple[float, float, float] | None:
    if kind == "damage":
        return point.damage, point.low, point.high
    if point.error is None:
        return None
    half = point.error * (point.error_half_width or 0.0)
    return point.error, max(0.0, point.error - half), point.error + half


def curve_plot(
    tensor: TensorRow,
    chosen: str,
    kind: Kind,
    knees: Mapping[str, tuple[str, ...]],
    *,
    width: float = 570,
    height: float = 380,
    name: str = "curve",
) -> str:
    """The plot; empty where nothing is known.

    Args:
        tensor: with its curve.
        chosen: its type in the recipe.
        kind: which figure.
        knees: type -> rules that stop there.
        width: pixels.
        height: pixels.
        name: CSS class and id.
    """
    spots = spots_of(tensor, chosen, kind)
    if not spots:
        return ""
    box = Box(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    bpws = [s.bpw for s in spots]
    x = log_axis(bpws, box.left, box.right, pad=0.06)
    y = log_axis([v for s in spots for v in (s.value, s.high)], box.bottom, box.top, decades=_DECADES)
    best = _best(spots)
    body = _axes(x, y, box, kind)
    body += _knee_marks(knees, {s.qtype: s.bpw for s in spots}, x, box)
    body += path([(x(s.bpw), y(s.value)) for s in best], "pareto")
    body += "".join(_spot(s, x, y, box) for s in sorted(spots, key=lambda s: s.chosen))
    named = [s for s in spots if width > _WIDE or s.chosen or s in best]
    body += _labels(named, x, y, box)
    said = "; ".join(f"{s.qtype} {s.bpw:g} bpw: {significant(s.value, 2)}" for s in spots)
    return figure(name, (width, height), f"{_NAMES[kind]}: {tensor.name}", said, body)


def _best(spots: list[Spot]) -> list[Spot]:
    """Those that no smaller one beats."""
    kept: list[Spot] = []
    for spot in spots:
        if not kept or spot.value < kept[-1].value:
            if kept and kept[-1].bpw == spot.bpw:
                kept.pop()
            kept.append(spot)
    return kept


def _axes(x: Axis, y: Axis, box: Box, kind: Kind) -> str:
    parts = []
    for tick in y.ticks(5):
        parts.append(line(box.left, y(tick), box.right, y(tick), "grid"))
        parts.append(text(box.left - 7, y(tick) + 4, tick_text(tick), "tick", "end"))
    # The axis' name stands in the row of its numbers.
    room = x.end - text_width("bits per weight") - 16
    for tick in (t for t in _BPW_TICKS if x.low <= t <= x.high and x(t) < room):
        parts.append(line(x(tick), box.bottom, x(tick), box.bottom + 5, "axis"))
        parts.append(text(x(tick), box.bottom + 19, tick_text(tick), "tick", "middle"))
    parts.append(line(box.left, box.bottom, box.right, box.bottom, "axis"))
    parts.append(text(box.right, box.bottom + 19, "bits per weight", "name", "end"))
    title = _NAMES if box.right > _WIDE else _SHORT_NAMES
    parts.append(text(0, 13, escape(title[kind]), "name"))
    return "".join(parts)


def _knee_marks(knees: Mapping[str, tuple[str, ...]], bpws: Mapping[str, float], x: Axis, box: Box) -> str:
    """A line at every type where a rule stops, the rules' names below the axis."""
    parts, free = [], [0.0, 0.0, 0.0]
    for qtype in sorted((t for t in knees if t in bpws), key=lambda t: bpws[t]):
        at, said = x(bpws[qtype]), ", ".join(knees[qtype])
        half = text_width(said, 12.5) / 2
        start = min(max(at - half, 0.0), box.right - 2 * half)
        row = next((i for i, end in enumerate(free) if end <= start), free.index(min(free)))
        free[row] = start + 2 * half + 12
        parts.append(line(at, box.top, at, box.bottom, "knee"))
        parts.append(text(start, box.bottom + 36 + 14 * row, escape(said), "kneename"))
    return "".join(parts)


def _spot(spot: Spot, x: Axis, y: Axis, box: Box) -> str:
    at, up = x(spot.bpw), y(spot.value)
    low, high = y(spot.low) if spot.low > 0 else box.bottom, y(spot.high)
    whisker = line(at, low, at, high, "whisker")
    figures = typeset(measured(spot.value, spot.low, spot.high).bracketed)
    how = "measured" if spot.measured else "scaled from a probe"
    state = ", chosen" if spot.chosen else ""
    said = escape(f"{spot.qtype}: {spot.bpw:g} bits per weight, {figures}, {how}{state}")
    kind = "probed" if spot.measured else "scaled"
    if spot.chosen:
        r = 8.0
        shape = path([(at, up - r), (at + r, up), (at, up + r), (at - r, up)], "mark own", closed=True)
    else:
        shape = f'<circle class="mark {kind}" cx="{at:.1f}" cy="{up:.1f}" r="{_RADIUS:g}"/>'
    target = f'<circle class="target" cx="{at:.1f}" cy="{up:.1f}" r="13"/>'
    pressed = "true" if spot.chosen else "false"
    return (
        f'<g class="pick" role="button" tabindex="0" aria-pressed="{pressed}" aria-label="{said}" '
        f'data-type="{escape(spot.qtype)}"><title>{said}</title>{target}{whisker}{shape}</g>'
    )


def _labels(spots: list[Spot], x: Axis, y: Axis, box: Box) -> str:
    order = sorted(spots, key=lambda s: not s.chosen)
    wanted = [Label(x(s.bpw), y(s.value), text_width(s.qtype, 11), _LINE - 2, _RADIUS) for s in order]
    frame = Box(box.left + 2, box.top - 6, box.right + _RIGHT, box.bottom - 2)
    parts = []
    for spot, place in zip(order, place_labels(wanted, frame, [], []), strict=True):
        at, up = x(spot.bpw), y(spot.value)
        if place.leader is not None:
            parts.append(line(at, up, *place.leader, "leader"))
        middle = (place.box.left + place.box.right) / 2
        anchor, where = ("middle", middle) if abs(middle - at) < 1 else ("start", place.box.left)
        if anchor == "start" and middle < at:
            anchor, where = "end", place.box.right
        kind = "label own" if spot.chosen else "label"
        parts.append(text(where, place.box.bottom - 3.5, escape(spot.qtype), kind, anchor))
    return "".join(parts)
