"""The chord: what a trade between two neighbouring files would give at the bytes between them.

A hybrid that is worth its place loses less than the straight line between its neighbours at its own size;
else the user could as well take the smaller neighbour, or wait for the larger one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mqnative.hybrids.contrast import Weights

# The unquantized model: the end of the last chord, with a KLD of 0.
ORIGINAL = ""


@dataclass(frozen=True)
class Point:
    """A file as chords see it: its name, its whole size, its KLD in nats per token."""

    name: str
    size_bytes: int
    kld: float


@dataclass(frozen=True)
class Chord:
    """The straight line between two files.

    Attributes:
        below, above: names of the smaller and the larger one; `ORIGINAL` is the unquantized model.
        share: where the size lies between them, 0 at the smaller one.
        kld: of the line at that size, nats per token.
    """

    below: str
    above: str
    share: float
    kld: float

    @property
    def weights(self) -> Weights:
        """The line as a contrast."""
        if self.below == self.above:
            return {self.below: 1.0}
        ends = {self.below: 1.0 - self.share, self.above: self.share}
        return {name: factor for name, factor in ends.items() if name != ORIGINAL}

    def against(self, name: str) -> Weights:
        """KLD of ``name`` minus that of the line; negative if it is below the chord."""
        found = {name: 1.0}
        for end, factor in self.weights.items():
            found[end] = found.get(end, 0.0) - factor
        return found


def chord_at(size_bytes: int, points: Sequence[Point], original_bytes: int | None = None) -> Chord | None:
    """The chord of the two neighbours of a size.

    Args:
        size_bytes: where; a point of exactly this size is its upper neighbour.
        points: the files that chords go between.
        original_bytes: of the unquantized model, the end of the chord above the largest file.

    Returns:
        Below the smallest file, the KLD of that file: nothing may be worse than it. None where nothing is
        larger.
    """
    smaller = [p for p in points if p.size_bytes < size_bytes]
    larger = [p for p in points if p.size_bytes >= size_bytes]
    if original_bytes is not None and original_bytes > size_bytes:
        larger.append(Point(ORIGINAL, original_bytes, 0.0))
    if not larger:
        return None
    high = min(larger, key=lambda p: (p.size_bytes, p.kld))
    if not smaller:
        return Chord(high.name, high.name, 1.0, high.kld) if high.name != ORIGINAL else None
    low = max(smaller, key=lambda p: (p.size_bytes, -p.kld))
    share = (size_bytes - low.size_bytes) / (high.size_bytes - low.size_bytes)
    return Chord(low.name, high.name, share, low.kld + share * (high.kld - low.kld))


def gains(points: Sequence[Point]) -> Mapping[str, float]:
    """How much each of some files is worth: ln(chord of its neighbours / its own KLD); ends are infinite."""
    ordered = sorted(points, key=lambda p: (p.size_bytes, p.name))
    found = {}
    for i, point in enumerate(ordered):
        if i in (0, len(ordered) - 1):
            found[point.name] = math.inf
            continue
        chord = chord_at(point.size_bytes, (ordered[i - 1], ordered[i + 1]))
        if chord is None or chord.kld <= 0:
            found[point.name] = -math.inf
        else:
            found[point.name] = math.log(chord.kld / point.kld) if point.kld > 0 else math.inf
    return found
