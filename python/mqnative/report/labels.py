"""Where labels go: beside their point, never on another label or marker, with a leader line if far away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    def within(self, other: Box) -> bool:
        """Whether this lies inside another box."""
        inside = self.left >= other.left and self.right <= other.right
        return inside and self.top >= other.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Label:
    """A label to be placed: its point, its own size, and the radius of the point's marker."""

    x: float
    y: float
    width: float
    height: float
    radius: float


@dataclass(frozen=True)
class Place:
    """Where a label landed, and where its leader line ends if it needs one."""

    box: Box
    leader: tuple[float, float] | None


# Directions in the order people expect them: right, left, above, below, then the diagonals.
_DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))
_DISTANCES = (5.0, 14.0, 26.0, 40.0, 58.0, 80.0, 110.0)
_LEADER_FROM = 14.0


def place_labels(
    labels: Sequence[Label], frame: Box, obstacles: Sequence[Box], soft: Sequence[Box]
) -> list[Place]:
    """Place labels one after another, so that earlier ones get the better places.

    Args:
        labels: in order of importance.
        frame: where they must stay.
        obstacles: what they must not cover (markers, whiskers, other text).
        soft: what they should rather not cover (lines).

    Returns:
        One place for each label; the least bad one where everything is full.
    """
    taken = [*obstacles, *(_marker(label) for label in labels)]
    places = []
    for label in labels:
        place = _best(label, frame, taken, soft)
        taken.append(place.box)
        places.append(place)
    return places


def _best(label: Label, frame: Box, taken: Sequence[Box], soft: Sequence[Box]) -> Place:
    """The cheapest candidate, the earlier of equal ones; each costs its rank besides what it covers."""
    best, least = None, math.inf
    for rank, place in enumerate(_candidates(label)):
        if least <= rank:  # no later one can be cheaper
            break
        cost = rank + _cost(place.box, frame, taken, soft)
        if cost < least:
            best, least = place, cost
    assert best is not None
    return best


def _candidates(label: Label) -> Iterator[Place]:
    for distance in _DISTANCES:
        for dx, dy in _DIRECTIONS:
            away = label.radius + distance
            reach = away if not (dx and dy) else 0.72 * away
            x, y = label.x + dx * reach, label.y + dy * reach
            left = x - label.width * (1 - dx) / 2
            top = y - label.height * (1 - dy) / 2
            far = distance >= _LEADER_FROM
            yield Place(
                Box(left, top, left + label.width, top + label.height),
                (x, y) if far else None,
            )


def _cost(box: Box, frame: Box, taken: Sequence[Box], soft: Sequence[Box]) -> float:
    outside = 0.0 if box.within(frame) else 1e6
    hard = sum(box.overlap(other) for other in taken)
    gentle = sum(box.overlap(other) for other in soft)
    return outside + (1000.0 + 100.0 * hard if hard else 0.0) + 0.1 * gentle


def _marker(label: Label) -> Box:
    r = label.radius + 1
    return Box(label.x - r, label.y - r, label.x + r, label.y + r)
