"""Dynamic programming over what the bounds leave open: exact, in integers.

Partial mixes are (bytes, damage) pairs. One that another matches or beats in both is dropped, and so is one
that the bounds show cannot be completed to a mix as good as the best known. Real models leave some thousands.

Source: Pisinger (1995), A minimal algorithm for the multiple-choice knapsack problem, European Journal of
Operational Research 83(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.solve.hull import F64Vector, I64Vector
from mqnative.solve.settle import ROUNDING, Remainder

I32Vector = npt.NDArray[np.int32]

# Partial mixes to look at: about a second in all, about a hundred megabytes at once.
MAX_WORK = 1 << 23
_MAX_AT_ONCE = 1 << 20
# However little work is left, this many are followed to the last item.
_MIN_AT_ONCE = 64
_NO_CHANGE = -1


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        changes: table positions of the changes that make the best mix; None if the known one is still best.
        is_proven: no mix within the budget is better.
        above_bound: every mix is at least this far above the remainder's lower bound, nats per token.
    """

    changes: tuple[int, ...] | None
    is_proven: bool
    above_bound: float


@dataclass(frozen=True, eq=False)
class _Partial:
    """Partial mixes over the items so far: from small to large, damage falling strictly.

    Attributes:
        more_bytes, damage: against the relaxation's mix, bytes and units.
        parent: which partial mix of the step before each comes from.
        change: the table position chosen in this step, or no change.
    """

    more_bytes: I64Vector
    damage: I64Vector
    parent: I32Vector
    change: I32Vector


def search(remainder: Remainder, *, max_work: int = MAX_WORK) -> Found:
    """The best mix, and of equally good ones the smallest.

    Args:
        remainder: what is open.
        max_work: partial mixes to look at; past half of it, or when they get too many at once, only the most
            promising are followed. The bound says what that may have missed.
    """
    grow, shrink = _slopes(remainder)
    partial = _start()
    trail: list[tuple[I32Vector, I32Vector]] = []
    best, best_at, n_best = (remainder.known_damage, remainder.known_bytes), -1, 0
    work = 0
    missed = np.inf
    for i in range(remainder.n_items):
        rounding = remainder.rounding(best[0])
        room = remainder.above_bound(best[0]) + rounding
        at, end = int(remainder.first[i]), int(remainder.first[i + 1])
        useful = at + np.flatnonzero(remainder.cost[at:end] <= room)
        # Later items' changes cost no less; and no mix is better than one at the bound.
        if not len(useful) or room <= 2 * rounding or not len(partial.damage):
            break
        at_once = _MAX_AT_ONCE
        if work > max_work // 2:
            at_once = max(_MIN_AT_ONCE, (max_work - work) // (len(remainder.position) - at))
        n_kept = at_once // (len(useful) + 1) + 1
        if len(partial.damage) > n_kept:
            least = _least(remainder, partial.more_bytes, partial.damage, grow[i], shrink[i])
            missed = min(missed, float(np.partition(least, n_kept)[n_kept]))
            partial = _thinned(partial, least, n_kept)
            trail.append((partial.parent, partial.change))
        work += len(partial.damage) * (len(useful) + 1)
        partial = _extended(remainder, partial, useful, room, grow[i + 1], shrink[i + 1])
        trail.append((partial.parent, partial.change))
        fits = int(np.searchsorted(partial.more_bytes, remainder.left_bytes, side="right")) - 1
        if fits >= 0:
            found = (int(partial.damage[fits]), int(partial.more_bytes[fits]))
            if found < best:
                best, best_at, n_best = found, fits, len(trail)
    above, rounding = remainder.above_bound(best[0]), remainder.rounding(best[0])
    changes = _changes(trail[:n_best], best_at) if n_best else None
    if missed > above + rounding:
        return Found(changes, is_proven=True, above_bound=above * remainder.unit)
    return Found(changes, is_proven=False, above_bound=max(missed - rounding, 0.0) * remainder.unit)


def _start() -> _Partial:
    """The relaxation's own mix."""
    nothing = np.zeros(1, np.int64)
    return _Partial(nothing, nothing, np.zeros(1, np.int32), np.full(1, _NO_CHANGE, np.int32))


def _slopes(remainder: Remainder) -> tuple[F64Vector, F64Vector]:
    """From each item on, the least cost per byte of growing (or of leaving it unspent) and of shrinking."""
    n = remainder.n_items
    grow, shrink = np.full(n + 1, remainder.price), np.full(n + 1, np.inf)
    if n:
        # No change leaves the bytes as they are: an item's choices all differ in size.
        per_byte = remainder.cost / np.abs(remainder.more_bytes)
        grows = np.where(remainder.more_bytes > 0, per_byte, np.inf)
        shrinks = np.where(remainder.more_bytes < 0, per_byte, np.inf)
        starts = remainder.first[:-1]
        grow[:n] = np.minimum(grow[:n], np.minimum.reduceat(grows, starts))
        shrink[:n] = np.minimum.reduceat(shrinks, starts)
    backwards = slice(None, None, -1)
    return (
        np.minimum.accumulate(grow[backwards])[backwards],
        np.minimum.accumulate(shrink[backwards])[backwards],
    )


def _least(
    remainder: Remainder, more_bytes: I64Vector, damage: I64Vector, grow: float, shrink: float
) -> F64Vector:
    """How far above the bound the best completion of each partial mix is at least, in units.

    Bytes left over cost at least ``grow`` each, bytes over the budget at least ``shrink``.
    """
    left = (remainder.left_bytes - more_bytes).astype(np.float64)
    per_byte = np.where(left < 0, -shrink, grow)
    # No bytes over or left cost nothing, whatever a byte costs.
    future = np.multiply(left, per_byte, out=np.zeros_like(left), where=left != 0)
    least: F64Vector = damage + remainder.price * more_bytes + future
    return least


def _extended(
    remainder: Remainder, partial: _Partial, useful: I64Vector, room: float, grow: float, shrink: float
) -> _Partial:
    """Every partial mix with every change of the next item, without those that lead to nothing new."""
    n = len(partial.damage)
    more = np.concatenate([[0], remainder.more_bytes[useful]])
    damages = np.concatenate([[0], remainder.damage[useful]])
    sizes = (partial.more_bytes + more[:, None]).ravel()
    damage = (partial.damage + damages[:, None]).ravel()
    least = _least(remainder, sizes, damage, grow, shrink)
    kept = np.flatnonzero(least <= room + ROUNDING * np.abs(damage))
    kept = kept[np.lexsort((damage[kept], sizes[kept]))]
    in_order = damage[kept]
    is_new = np.ones(len(kept), np.bool_)
    is_new[1:] = in_order[1:] < np.minimum.accumulate(in_order)[:-1]
    kept = kept[is_new]
    change = np.concatenate([[_NO_CHANGE], remainder.position[useful]])[kept // n]
    return _Partial(sizes[kept], damage[kept], (kept % n).astype(np.int32), change.astype(np.int32))


def _thinned(partial: _Partial, least: F64Vector, n_kept: int) -> _Partial:
    """The most promising partial mixes."""
    kept = np.sort(np.argsort(least, kind="stable")[:n_kept])
    change = np.full(n_kept, _NO_CHANGE, np.int32)
    return _Partial(partial.more_bytes[kept], partial.damage[kept], kept.astype(np.int32), change)


def _changes(trail: list[tuple[I32Vector, I32Vector]], at: int) -> tuple[int, ...]:
    """The changes that led to one partial mix of the last step."""
    changes = []
    for parent, change in reversed(trail):
        if change[at] != _NO_CHANGE:
            changes.append(int(change[at]))
        at = int(parent[at])
    return tuple(changes)
