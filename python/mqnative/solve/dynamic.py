"""Dynamic programming over what the bounds leave open: exact, in integers.

Partial mixes are (bytes, damage) pairs. One that another matches or beats in both is dropped, and so is one
that the bounds show cannot be completed to a mix as good as the best known. Real models leave some thousands.

Source: Pisinger (1995), A minimal algorithm for the multiple-choice knapsack problem, European Journal of
Operational Research 83(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mqnative.solve.hull import F64Vector, I64Vector
from mqnative.solve.settle import ROUNDING, Remainder

# Partial mixes to look at: about a second in all, about a hundred megabytes at once.
MAX_WORK = 1 << 23
_MAX_AT_ONCE = 1 << 20
# However little work is left, this many are followed to the last item.
_MIN_AT_ONCE = 64


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
    """Partial mixes after some items: no two alike, from small to large, damage falling strictly.

    Attributes:
        more_bytes, damage: against the relaxation's mix, bytes and units.
        parent: the partial mix before the last item that each comes from.
        change: the table position chosen for that item, or -1.
    """

    more_bytes: I64Vector
    damage: I64Vector
    parent: I64Vector
    change: I64Vector


def search(remainder: Remainder, *, max_work: int = MAX_WORK) -> Found:
    """The best mix, and of equally good ones the smallest.

    Args:
        remainder: what is open.
        max_work: partial mixes to look at; past half of it, or when they get too many at once, only the most
            promising are followed. The bound says what that may have missed.
    """
    grow, shrink = _slopes(remainder)
    zero, none = np.zeros(1, np.int64), np.full(1, -1, np.int64)
    stages = [_Partial(zero, zero, none, none)]
    best, best_at, n_best = (remainder.known_damage, remainder.known_bytes), -1, 0
    work = 0
    missed = np.inf
    for i in range(remainder.n_items):
        rounding = remainder.rounding(best[0])
        room = remainder.above_bound(best[0]) + rounding
        at, end = remainder.first[i], remainder.first[i + 1]
        useful = at + np.flatnonzero(remainder.cost[at:end] <= room)
        # Later items' changes cost no less; and no mix is better than one at the bound.
        if not len(useful) or room <= 2 * rounding or not len(stages[-1].damage):
            break
        at_once = _MAX_AT_ONCE
        if work > max_work // 2:
            at_once = max(_MIN_AT_ONCE, (max_work - work) // (len(remainder.position) - int(at)))
        n_kept = at_once // (len(useful) + 1) + 1
        if len(stages[-1].damage) > n_kept:
            least = _least(remainder, stages[-1].more_bytes, stages[-1].damage, grow[i], shrink[i])
            stages.append(_thinned(stages[-1], least, n_kept))
            missed = min(missed, float(np.partition(least, n_kept)[n_kept]))
        work += len(stages[-1].damage) * (len(useful) + 1)
        stages.append(_extend(remainder, stages[-1], useful, room, grow[i + 1], shrink[i + 1]))
        fits = int(np.searchsorted(stages[-1].more_bytes, remainder.left_bytes, side="right")) - 1
        if fits >= 0:
            found = (int(stages[-1].damage[fits]), int(stages[-1].more_bytes[fits]))
            if found < best:
                best, best_at, n_best = found, fits, len(stages)
    above, rounding = remainder.above_bound(best[0]), remainder.rounding(best[0])
    changes = _trace(stages[:n_best], best_at) if best_at >= 0 else None
    if missed > above + rounding:
        return Found(changes, is_proven=True, above_bound=above * remainder.unit)
    return Found(changes, is_proven=False, above_bound=max(missed - rounding, 0.0) * remainder.unit)


def _thinned(partial: _Partial, least: F64Vector, n_kept: int) -> _Partial:
    """The most promising partial mixes."""
    kept = np.sort(np.argsort(least, kind="stable")[:n_kept])
    unchanged = np.full(n_kept, -1, np.int64)
    return _Partial(partial.more_bytes[kept], partial.damage[kept], kept, unchanged)


def _slopes(remainder: Remainder) -> tuple[F64Vector, F64Vector]:
    """From each item on, the least cost per byte of growing (or of leaving it unspent) and of shrinking."""
    n = remainder.n_items
    grow, shrink = np.full(n + 1, remainder.price), np.full(n + 1, np.inf)
    if n:
        with np.errstate(divide="ignore", invalid="ignore"):
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


def _extend(
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
    sorted_damage = damage[kept]
    beats = np.ones(len(kept), np.bool_)
    beats[1:] = sorted_damage[1:] < np.minimum.accumulate(sorted_damage)[:-1]
    kept = kept[beats]
    change = np.concatenate([[-1], remainder.position[useful]])
    return _Partial(sizes[kept], damage[kept], kept % n, change[kept // n])


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


def _trace(stages: list[_Partial], at: int) -> tuple[int, ...]:
    """The changes that led to one partial mix of the last stage."""
    changes = []
    for stage in reversed(stages):
        if stage.change[at] >= 0:
            changes.append(int(stage.change[at]))
        at = int(stage.parent[at])
    return tuple(changes)
