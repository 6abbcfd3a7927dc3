"""Damage curves: one small plot for each role, all with the same axes, so that roles can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from mqnative.report.numbers import significant, typeset
from mqnative.report.sentences import count, types_used
from mqnative.report.summary import CurvePoint, TensorRow
from mqnative.report.svg import Axis, escape, figure, line, log_axis, path, text, tick_text

_WIDTH, _HEIGHT = 250.0, 176.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 244.0, 10.0, 150.0
_BPW_TICKS = (2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
# Damage below this share of the largest is as good as none.
_DECADES = 7.0
# More circles than this are drawn smaller.
_MANY = 12


class Rung(NamedTuple):
    """One type over the tensors of a role."""

    qtype: str
    bpw: float
    low: float
    middle: float
    high: float
    n_tensors: int
    legal: bool


def rungs(tensors: Sequence[TensorRow]) -> list[Rung]:
    """The types of a role by bits per weight, with the median and the range of damage."""
    points: dict[str, list[CurvePoint]] = {}
    for tensor in tensors:
        for point in tensor.curve:
            points.setdefault(point.qtype, []).append(point)
    found = []
    for qtype, all_points in points.items():
        legal = [p for p in all_points if p.legal]
        damages = [p.damage for p in legal or all_points]
        bpw = min(p.bpw for p in all_points)
        found.append(Rung(qtype, bpw, min(damages), median(damages), max(damages), len(damages), bool(legal)))
    return sorted(found, key=lambda r: (r.bpw, r.middle, r.qtype))


def curve_plots(roles: Mapping[str, Sequence[TensorRow]]) -> dict[str, str]:
    """A plot for each role that has curves."""
    curved = {role: [t for t in tensors if t.curve] for role, tensors in roles.items()}
    curved = {role: tensors for role, tensors in curved.items() if tensors}
    points = [p for tensors in curved.values() for t in tensors for p in t.curve]
    chosen = [t.damage for tensors in curved.values() for t in tensors]
    x = log_axis([p.bpw for p in points], _LEFT, _RIGHT, pad=0.06)
    y = log_axis([p.damage for p in points] + chosen, _BOTTOM, _TOP, pad=0.05, decades=_DECADES)
    return {role: _plot(f"curve{i}", role, tensors, x, y) for i, (role, tensors) in enumerate(curved.items())}


def _plot(name: str, role: str, tensors: Sequence[TensorRow], x: Axis, y: Axis) -> str:
    steps = rungs(tensors)
    legal = [s for s in steps if s.legal]
    body = _axes(x, y)
    if len(tensors) > 1:
        upper = [(x(s.bpw), y(s.high)) for s in _best(legal)]
        lower = [(x(s.bpw), y(s.low)) for s in _best(legal)]
        body += path(upper + lower[::-1], "band", closed=True) if len(upper) > 1 else ""
    body += path([(x(s.bpw), y(s.middle)) for s in _best(legal)], "median")
    for s in steps:
        said = f"{s.qtype}: median {significant(s.middle)} nats per token, {count(s.n_tensors, 'tensor')}"
        kind = "dot" if s.legal else "dot illegal"
        body += (
            f'<circle class="{kind}" cx="{x(s.bpw):.1f}" cy="{y(s.middle):.1f}" r="2.2">'
            f"<title>{escape(typeset(said))}</title></circle>"
        )
    radius = 3.6 if len(tensors) <= _MANY else 2.4
    for tensor in tensors:
        said = f"{tensor.name}: {tensor.qtype}, {significant(tensor.damage)} nats per token"
        body += (
            f'<circle class="chosen" cx="{x(tensor.bpw):.1f}" cy="{y(tensor.damage):.1f}" r="{radius}">'
            f"<title>{escape(typeset(said))}</title></circle>"
        )
    return figure(name, (_WIDTH, _HEIGHT), f"Damage of {role}", _description(tensors, legal), body)


def _best(steps: Sequence[Rung]) -> list[Rung]:
    """The least harmful type at each number of bits."""
    found: dict[float, Rung] = {}
    for s in steps:
        found.setdefault(s.bpw, s)
    return list(found.values())


def _axes(x: Axis, y: Axis) -> str:
    parts = []
    for tick in y.ticks(4):
        parts.append(line(_LEFT, y(tick), _RIGHT, y(tick), "grid"))
        parts.append(text(_LEFT - 5, y(tick) + 3.5, tick_text(tick), "tick", "end"))
    for tick in (t for t in _BPW_TICKS if x.low <= t <= x.high):
        parts.append(line(x(tick), _BOTTOM, x(tick), _BOTTOM + 4, "axis"))
        parts.append(text(x(tick), _BOTTOM + 16, tick_text(tick), "tick", "middle"))
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    return "".join(parts)


def _description(tensors: Sequence[TensorRow], legal: Sequence[Rung]) -> str:
    medians = ", ".join(f"{s.qtype} {significant(s.middle, 2)}" for s in legal)
    n_tensors = count(len(tensors), "tensor")
    return f"Median damage in nats per token: {medians}. Chosen for {n_tensors}: {types_used(tensors)}."
