"""Too many files: which of those that are too close in size, or beyond a number, is worth least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from mqnative.hybrids.chords import gains
from mqnative.hybrids.entries import Entry, in_order


def too_close(kept: Sequence[Entry], spacing: float) -> tuple[Entry, Entry] | None:
    """The loser and the winner of the two files nearest in size; None if all are far enough apart.

    Args:
        kept: the files.
        spacing: the share that the larger of two must be larger by. Two that were both asked for may be near.
    """
    near = [
        (b.size_bytes / a.size_bytes, a.name, a, b)
        for a, b in pairwise(sorted(kept, key=in_order))
        if b.size_bytes < (1.0 + spacing) * a.size_bytes and not (a.is_asked and b.is_asked)
    ]
    if not near:
        return None
    _, _, small, large = min(near, key=lambda pair: pair[:2])

    def rank(entry: Entry, other: Entry) -> tuple[bool, float, float, int]:
        # Each as if the other were not there. Of two ends the better one stays.
        worth = gains([e.point for e in kept if e.name != other.name])[entry.name]
        return entry.is_asked, worth, -entry.point.kld, -entry.size_bytes

    return (small, large) if rank(small, large) < rank(large, small) else (large, small)


def least_worth(kept: Sequence[Entry]) -> tuple[Entry, Entry]:
    """The file whose loss is felt least, and the one nearest to it in size; of at least two."""
    worth = gains([e.point for e in kept])
    loser = min(kept, key=lambda e: (e.is_asked, worth[e.name], -e.size_bytes, e.name))
    rest = [e for e in kept if e.name != loser.name]
    return loser, min(rest, key=lambda e: (abs(math.log(e.size_bytes / loser.size_bytes)), e.name))
