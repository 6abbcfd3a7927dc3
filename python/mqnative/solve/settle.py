"""What the bounds leave open: most tensors are settled before any search begins.

A choice whose reduced cost exceeds what separates a known mix from the lower bound is in no better mix. For a
thousand tensors that leaves some dozens with two or three choices each, in exact integers from here on.

Source: Dyer, Kayal and Walker (1984), A branch and bound algorithm for solving the multiple-choice knapsack
problem, Journal of Computational and Applied Mathematics 11(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mqnative.solve.hull import F64Vector, I64Vector, Relaxation, Table

# Sums over the remainder stay below 2^61 and so are exact in int64, the best mix's own sum included.
_SUM_BITS = 61
# Units of 2^-1000 nats need no more range below.
_LEAST_EXPONENT = -1000
# Costs are float64 sums of three terms, each rounded to 2^-53 of itself; nothing is discarded for less.
ROUNDING = 2.0**-48


@dataclass(frozen=True, eq=False)
class Remainder:
    """The open choices, as changes from the relaxation's mix.

    A mix's damage is above the lower bound by the sum of its changes' ``cost`` and ``price`` per byte left
    over. Vectors run over the open choices, item after item, the items with the cheapest change first.

    Attributes:
        position: of the choice in the table.
        more_bytes: bytes added by the change.
        damage: damage added by the change, in units.
        cost: reduced cost in units, rounded down, at least 0.
        first: where each item's choices begin, and at the end their number.
        step_bytes: all changes are whole numbers of these.
        left_bytes: budget that the relaxation's mix leaves, in whole steps.
        lower_bound: of the damage of any mix as good as the known one, nats per token. It counts the part of
            a step that no such mix can use.
        price: of a byte, in units.
        unit: nats per token; a power of two.
        known_damage, known_bytes: changes, in units and bytes, of the best mix known.
    """

    position: I64Vector
    more_bytes: I64Vector
    damage: I64Vector
    cost: F64Vector
    first: I64Vector
    step_bytes: int
    left_bytes: int
    lower_bound: float
    price: float
    unit: float
    known_damage: int
    known_bytes: int

    @property
    def n_items(self) -> int:
        """How many tensors are not settled."""
        return len(self.first) - 1

    def above_bound(self, damage: float) -> float:
        """What a change in damage is above the lower bound's, both in units."""
        return damage + self.price * self.left_bytes

    def rounding(self, damage: float) -> float:
        """How wrong `above_bound` of ``damage`` may be, in units."""
        return ROUNDING * (abs(damage) + self.price * self.left_bytes)


def reduced_costs(table: Table, relaxation: Relaxation) -> F64Vector:
    """What each choice adds to the lower bound when forced: nats per token, rounded down, not negative."""
    base = relaxation.picks[table.item]
    more_damage = table.damage - table.damage[base]
    more_bytes = (table.size - table.size[base]).astype(np.float64)
    costs: F64Vector = more_damage + relaxation.price * more_bytes - ROUNDING * np.abs(more_damage)
    return np.maximum(costs, 0.0)


def settle(table: Table, relaxation: Relaxation, known: I64Vector) -> Remainder:
    """Drop every choice that cannot be in a mix as good as ``known``.

    Args:
        table: the problem.
        relaxation: its relaxed optimum at the budget.
        known: a mix within the budget.
    """
    base = relaxation.picks[table.item]
    is_known = np.zeros(len(base), np.bool_)
    is_known[known[known != relaxation.picks]] = True
    changes = table.damage[is_known] - table.damage[base[is_known]]
    spared = relaxation.price * relaxation.left_bytes
    room = math.fsum([*changes.tolist(), spared])
    room += ROUNDING * (float(np.abs(changes).sum()) + spared)
    is_open = (reduced_costs(table, relaxation) <= room) | is_known
    is_open[relaxation.picks] = False
    position = np.flatnonzero(is_open)
    if not len(position):
        return _empty(relaxation)
    owner = table.item[position]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    more = table.damage[position] - table.damage[base[position]]
    unit = _unit(np.maximum.reduceat(np.abs(more), starts))
    damage = np.rint(more / unit).astype(np.int64)
    more_bytes = table.size[position] - table.size[base[position]]
    step_bytes = int(np.gcd.reduce(more_bytes))
    unused = relaxation.left_bytes % step_bytes
    price = relaxation.price / unit
    cost = np.maximum(damage + price * more_bytes - ROUNDING * np.abs(damage), 0.0)

    # Cheap changes first: they decide, and good mixes found early settle the rest.
    order = np.argsort(np.minimum.reduceat(cost, starts), kind="stable")
    counts = np.diff(starts, append=len(position))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    by_rank = np.argsort(np.repeat(rank, counts), kind="stable")
    changed = is_known[position]
    return Remainder(
        position=position[by_rank],
        more_bytes=more_bytes[by_rank],
        damage=damage[by_rank],
        cost=cost[by_rank],
        first=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[order])]),
        step_bytes=step_bytes,
        left_bytes=relaxation.left_bytes - unused,
        lower_bound=relaxation.lower_bound + relaxation.price * unused,
        price=price,
        unit=unit,
        known_damage=int(damage[changed].sum()),
        known_bytes=int(more_bytes[changed].sum()),
    )


def _empty(relaxation: Relaxation) -> Remainder:
    """Nothing is open: the relaxation's mix is the best there is."""
    none = np.zeros(0, np.int64)
    return Remainder(
        position=none,
        more_bytes=none,
        damage=none,
        cost=np.zeros(0),
        first=np.zeros(1, np.int64),
        step_bytes=1,
        left_bytes=relaxation.left_bytes,
        lower_bound=relaxation.lower_bound,
        price=relaxation.price,
        unit=1.0,
        known_damage=0,
        known_bytes=0,
    )


def _unit(widest: F64Vector) -> float:
    """The power of two in which no sum of one change per item overflows.

    Args:
        widest: each item's largest change in damage, at least 0, nats per token.
    """
    total = math.fsum(widest.tolist())
    return math.ldexp(1.0, max(math.frexp(total)[1] - _SUM_BITS, _LEAST_EXPONENT))
