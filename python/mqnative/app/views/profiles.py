"""Sensitivity profiles: how much the weights of each role matter by depth, of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from mqnative.report.roles import by_role
from mqnative.report.summary import TensorRow
from mqnative.report.svg import escape, figure, line, linear_axis, log_axis, path, text, tick_text

_WIDTH, _HEIGHT = 250.0, 168.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 242.0, 10.0, 140.0
# A type in the middle, at which most tensors of most models are measured.
PROBE_TYPES = ("Q3_K", "Q2_K", "Q4_K")
_LINES = 6

Profile = list[tuple[float, float]]


def profile(tensors: Sequence[TensorRow], role: str) -> Profile:
    """Relative depth, 0 to 1, against damage per million weights at one type, nats per token.

    Args:
        tensors: of one model.
        role: of the tensors.
    """
    depth = max((t.layer for t in tensors if t.layer is not None), default=0) or 1
    found = []
    for tensor in tensors:
        if tensor.role != role or tensor.layer is None:
            continue
        damage = _damage(tensor)
        if damage is not None and damage > 0:
            found.append((tensor.layer / depth, 1e6 * damage / tensor.n_weights))
    return sorted(found)


def _damage(tensor: TensorRow) -> float | None:
    by_type = {p.qtype: p.damage for p in tensor.curve}
    return next((by_type[t] for t in PROBE_TYPES if t in by_type), None)


def profile_plots(models: Mapping[str, Sequence[TensorRow]]) -> dict[str, str]:
    """Role -> a plot with a line for each model; all plots have the same axes.

    Args:
        models: name -> tensors, at most six are drawn.
    """
    shown = dict(list(models.items())[:_LINES])
    roles: dict[str, None] = {}
    for tensors in shown.values():
        roles |= dict.fromkeys(by_role(t for t in tensors if t.curve and t.layer is not None))
    profiles = {r: {m: profile(t, r) for m, t in shown.items()} for r in roles}
    values = [y for lines in profiles.values() for points in lines.values() for _, y in points]
    if not values:
        return {}
    found = {}
    for role, lines in profiles.items():
        drawing = _plot(role, lines, list(shown), values)
        if drawing:
            found[role] = drawing
    return found


def _plot(role: str, lines: Mapping[str, Profile], names: Sequence[str], values: list[float]) -> str:
    x = linear_axis([0.0, 1.0], _LEFT, _RIGHT, pad=0.03)
    y = log_axis(values, _BOTTOM, _TOP, pad=0.05)
    parts = []
    for tick in y.ticks(4):
        parts.append(line(_LEFT, y(tick), _RIGHT, y(tick), "grid"))
        parts.append(text(_LEFT - 5, y(tick) + 3.5, tick_text(tick), "tick", "end"))
    for tick, said in ((0.0, "first layer"), (1.0, "last")):
        parts.append(text(x(tick), _BOTTOM + 16, said, "tick", "start" if tick == 0 else "end"))
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    for i, name in enumerate(names):
        points = [(x(at), y(value)) for at, value in lines[name]]
        if not points:
            continue
        middle = median(value for _, value in lines[name])
        marks = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>' for a, b in points)
        parts.append(
            f'<g class="profile p{i}"><title>{escape(f"{name}: median {middle:.2g}")}</title>'
            f"{path(points, 'line')}{marks}</g>"
        )
    said = "; ".join(f"{n}: {len(lines[n])} layers" for n in names)
    title = f"Damage of {role} per million weights by depth"
    return figure(f"profile-{_slug(role)}", (_WIDTH, _HEIGHT), title, said, "".join(parts))


def _slug(role: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in role)


def legend(names: Sequence[str]) -> str:
    """Which line is whose."""
    items = "".join(f'<li class="p{i}">{escape(name)}</li>' for i, name in enumerate(names[:_LINES]))
    return f'<ul class="profile-legend">{items}</ul>'
