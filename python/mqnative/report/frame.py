"""What all plots of mixes are drawn on: two axes with a grid, and names that keep clear of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mqnative.report.labels import Box, Label, place_labels
from mqnative.report.svg import FONT_SIZE, Axis, escape, line, text, text_width, tick_text

# Units of a size axis, the largest first.
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
_LINE_HEIGHT = 16.0
_BOLD = 1.06
_NAME_SHARE = 0.45


@dataclass(frozen=True)
class Frame:
    """The area inside the axes, with its axes."""

    box: Box
    x: Axis
    y: Axis

    def point(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a pair of values."""
        return self.x(x), self.y(y)


@dataclass(frozen=True)
class Mark:
    """A marker with a name: its pixel, the marker's radius, and whether it stands out."""

    x: float
    y: float
    radius: float
    name: str
    strong: bool = False


def axes(frame: Frame, x_name: str, y_name: str) -> str:
    """Ticks, grid and names of both axes."""
    box, parts = frame.box, []
    for tick in frame.y.ticks():
        y = frame.y(tick)
        parts.append(line(box.left, y, box.right, y, "grid"))
        parts.append(text(box.left - 7, y + 4, tick_text(tick), "tick", "end"))
    free = 0.0
    for tick in frame.x.ticks(max(2, int((box.right - box.left) / 75))):
        x, half = frame.x(tick), text_width(tick_text(tick)) / 2
        parts.append(line(x, box.bottom, x, box.bottom + 5, "axis"))
        if x - half > free:
            parts.append(text(x, box.bottom + 18, tick_text(tick), "tick", "middle"))
            free = x + half + 6
    parts.append(line(box.left, box.bottom, box.right, box.bottom, "axis"))
    parts.append(text(box.right, box.bottom + 34, escape(x_name), "name", "end"))
    parts.append(text(0, 13, escape(y_name), "name"))
    return "".join(parts)


def labels(marks: Sequence[Mark], frame: Box, obstacles: Sequence[Box], soft: Sequence[Box]) -> str:
    """The names of marks, placed so that none covers another.

    Args:
        marks: in order of importance.
        frame: where names must stay.
        obstacles: what they must not cover.
        soft: what they should rather not cover.
    """
    names = [_short(m.name, (frame.right - frame.left) * _NAME_SHARE) for m in marks]
    wanted = [
        Label(m.x, m.y, text_width(n) * (_BOLD if m.strong else 1.0), _LINE_HEIGHT, m.radius)
        for m, n in zip(marks, names, strict=True)
    ]
    parts = []
    for mark, name, place in zip(marks, names, place_labels(wanted, frame, obstacles, soft), strict=True):
        if place.leader is not None:
            parts.append(line(mark.x, mark.y, *place.leader, "leader"))
        kind = "label result" if mark.strong else "label"
        middle = (place.box.left + place.box.right) / 2
        anchor, x = ("middle", middle) if abs(middle - mark.x) < 1 else ("start", place.box.left)
        if anchor == "start" and middle < mark.x:
            anchor, x = "end", place.box.right
        parts.append(text(x, place.box.bottom - 0.3 * FONT_SIZE, escape(name), kind, anchor))
    return "".join(parts)


def _short(name: str, room: float) -> str:
    if text_width(name) <= room:
        return name
    while name and text_width(name) > room:
        name = name[:-1]
    return f"{name.rstrip()}…"


def along(points: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a line, for labels to keep clear of."""
    boxes = []
    for (x1, y1), (x2, y2) in pairwise(points):
        n = max(1, int(math.hypot(x2 - x1, y2 - y1) / 6))
        for i in range(n):
            x, y = x1 + (x2 - x1) * i / n, y1 + (y2 - y1) * i / n
            boxes.append(Box(x - 3, y - 3, x + 3, y + 3))
    return boxes
