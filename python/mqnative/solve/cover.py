"""Which few types serve all tensors best: every set of types whose cost is below a limit.

Each tensor takes the cheapest type of the set. A Lagrangian bound says how little any set in a branch costs;
a branch that cannot get below the limit is left.

Source: Cornuejols, Fisher and Nemhauser (1977), Location of bank accounts to optimize float, Management
Science 23(8): the same problem, with banks for types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64Matrix = npt.NDArray[np.float64]
F64Vector = npt.NDArray[np.float64]
I64Vector = npt.NDArray[np.int64]
BoolMatrix = npt.NDArray[np.bool_]
TypeSet = npt.NDArray[np.bool_]

# Rounding of sums of some thousand float64, with room.
ROUNDING = 1e-12
# Of the bound's ascent: relative steps, halved after so many without progress.
_FIRST_STEP, _LAST_STEP, _PATIENCE, _STEPS = 1.0, 0.02, 6, 100


@dataclass(frozen=True, eq=False)
class Costs:
    """What each type costs each tensor.

    Attributes:
        single: float64, shape (n_items, n_types): of items that take one type; infinite where one has no
            such choice.
        several: of items whose choices use several types: for each its choices' costs, float64, shape (n,),
            and the types they use, bool, shape (n, n_types).
    """

    single: F64Matrix
    several: tuple[tuple[F64Vector, BoolMatrix], ...]

    @property
    def n_types(self) -> int:
        """How many types there are."""
        return int(self.single.shape[1])

    def of(self, types: TypeSet) -> float:
        """The cost with these types alone; infinite if an item is left without one."""
        if not types.any():
            return np.inf if len(self.single) or self.several else 0.0
        cost = float(self.single[:, types].min(axis=1).sum()) if len(self.single) else 0.0
        return cost + self.of_several(types)

    def of_several(self, types: TypeSet) -> float:
        """The part of the items whose choices use several types."""
        return float(
            sum(costs[~(used & ~types).any(axis=1)].min(initial=np.inf) for costs, used in self.several)
        )

    @property
    def penalty(self) -> float:
        """More than everything together: what an item without a choice counts as."""
        finite = float(np.abs(self.single[np.isfinite(self.single)]).sum())
        return 1.0 + 2.0 * (finite + sum(float(np.abs(costs).sum()) for costs, _ in self.several))

    def soft(self, types: TypeSet) -> float:
        """The cost with these types, where items may be left without one at the penalty."""
        cost = 0.0
        if len(self.single):
            cost += float(np.minimum(self.single[:, types].min(axis=1, initial=np.inf), self.penalty).sum())
        return cost + min(self.of_several(types), self.penalty * len(self.several))


def good_set(costs: Costs, n_types: int) -> TypeSet:
    """A cheap set: types added one by one, then exchanged one by one while that helps."""
    chosen = np.zeros(costs.n_types, np.bool_)
    for _ in range(min(n_types, costs.n_types)):
        chosen = _grown(costs, chosen)
    improved = True
    while improved:
        improved = False
        for k in np.flatnonzero(chosen):
            fewer = chosen.copy()
            fewer[k] = False
            other = _grown(costs, fewer)
            if costs.soft(other) < costs.soft(chosen):
                chosen, improved = other, True
                break
    return chosen


def _grown(costs: Costs, base: TypeSet) -> TypeSet:
    """The cheapest set with one more type."""

    def with_type(k: int) -> TypeSet:
        more: TypeSet = base.copy()
        more[k] = True
        return more

    return min((with_type(int(k)) for k in np.flatnonzero(~base)), key=costs.soft, default=base)


def sets_below(
    costs: Costs, n_types: int, limit: float, *, max_nodes: int
) -> tuple[list[tuple[float, TypeSet]], float]:
    """Every set of ``n_types`` types that costs at most ``limit``.

    Args:
        costs: of each type for each tensor.
        n_types: the size of the sets.
        limit: sets that cost more are not wanted.
        max_nodes: branches to look at.

    Returns:
        The sets, as masks, with their costs, cheapest first; and the least cost that a set which is not
        among them may have: above ``limit``, unless the search was cut short.
    """
    search = _Search(costs, n_types, limit, max_nodes)
    found = list(search.run())
    found.sort(key=lambda pair: (pair[0], tuple(np.flatnonzero(pair[1]).tolist())))
    return found, search.least_missed


class _Search:
    """Depth first: the type that saves most is first put into the set, then left out of it."""

    def __init__(self, costs: Costs, n_types: int, limit: float, max_nodes: int) -> None:
        self._costs, self._limit, self._nodes_left = costs, limit, max_nodes
        self._n_types = min(n_types, costs.n_types)
        self._penalty = costs.penalty
        self._single = np.where(np.isfinite(costs.single), costs.single, self._penalty)
        self.least_missed = np.inf

    def run(self) -> Iterator[tuple[float, TypeSet]]:
        n = self._costs.n_types
        nothing = np.full(len(self._single), self._penalty)
        free = np.ones(n, np.bool_)
        yield from self._visit(nothing, self._cheapest(free), np.zeros(n, np.bool_), free)

    def _cheapest(self, types: TypeSet) -> F64Vector:
        cheapest: F64Vector = self._single[:, types].min(axis=1, initial=self._penalty)
        return cheapest

    def _visit(
        self,
        cheapest: F64Vector,
        worth: F64Vector,
        chosen: TypeSet,
        free: TypeSet,
    ) -> Iterator[tuple[float, TypeSet]]:
        n_left = self._n_types - int(chosen.sum())
        open_types = np.flatnonzero(free)
        if n_left >= len(open_types):
            yield from self._leaf(chosen | free)
            return
        if n_left == 0:
            yield from self._leaf(chosen)
            return
        bound, worth, saved = self._bound(cheapest, worth, open_types, n_left)
        bound += self._costs.of_several(chosen | free)
        if self._nodes_left <= 0 or bound > self._limit:
            self.least_missed = min(self.least_missed, bound)
            return
        self._nodes_left -= 1
        best = int(open_types[np.argmax(saved)])
        others = free.copy()
        others[best] = False
        with_best = chosen.copy()
        with_best[best] = True
        yield from self._visit(np.minimum(cheapest, self._single[:, best]), worth, with_best, others)
        yield from self._visit(cheapest, worth, chosen, others)

    def _bound(
        self,
        cheapest: F64Vector,
        worth: F64Vector,
        open_types: I64Vector,
        n_left: int,
    ) -> tuple[float, F64Vector, F64Vector]:
        """What every set in a branch costs at least.

        If serving an item is worth ``worth`` to it, a type is worth the sum of what it is cheaper by, and no
        set is worth more than its types together. Worths are raised where too few of the best types serve an
        item and lowered where more than one does, until the bound is out of reach or stays.

        Args:
            cheapest: what each item costs with the types chosen so far.
            worth: where to begin.
            open_types: the types not decided.
            n_left: how many of them a set takes.

        Returns:
            The bound, the worths that give it, and what each open type is worth.
        """
        single = self._single[:, open_types]
        best = (-np.inf, worth, np.zeros(len(open_types)))
        step, since = _FIRST_STEP, 0
        for _ in range(_STEPS):
            worth = np.minimum(worth, cheapest)
            gains = worth[:, None] - single
            served = gains > 0
            saved = np.where(served, gains, 0.0).sum(axis=0)
            taken = np.argpartition(-saved, n_left - 1)[:n_left]
            total, most = float(worth.sum()), float(saved[taken].sum())
            bound = total - most - ROUNDING * (abs(total) + most)
            since += 1
            if bound > best[0]:
                best, since = (bound, worth, saved), 0
            if bound > self._limit:
                break
            if since >= _PATIENCE:
                step, since, worth = step / 2, 0, best[1]
                if step < _LAST_STEP:
                    break
                continue
            slope = 1.0 - served[:, taken].sum(axis=1)
            # No worth may exceed what the chosen types already offer.
            slope = np.where((worth >= cheapest) & (slope > 0), 0.0, slope)
            square = float(slope @ slope)
            if square == 0.0:
                break
            worth = worth + step * max(self._limit - bound, 0.0) / square * slope
        return best

    def _leaf(self, types: TypeSet) -> Iterator[tuple[float, TypeSet]]:
        cost = self._costs.of(types)
        if cost <= self._limit:
            yield cost, types
        else:
            self.least_missed = min(self.least_missed, cost)
