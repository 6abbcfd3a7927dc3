"""Size against damage: the best mix at each of many budgets, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from mqnative.solve.exact import RELATIVE_GAP, TIME_LIMIT_S, best_picks, solve_exact
from mqnative.solve.hull import F64Vector, I64Vector, Table, tabulate
from mqnative.solve.problem import Problem, Solution

N_POINTS = 200


class Frontier(Sequence[Solution]):
    """The best mixes within budgets, in the order the budgets were given; types are named when asked for.

    Attributes:
        budgets: whole-file bytes.
        sizes, damages, lower_bounds: of the mixes.
    """

    def __init__(self, budgets: Sequence[int], mixes: Sequence[_Mix]) -> None:
        self.budgets = tuple(budgets)
        self._mixes = tuple(mixes)
        self.sizes: I64Vector = np.array([m.size_bytes for m in mixes], np.int64)
        self.damages: F64Vector = np.array([m.damage for m in mixes], np.float64)
        self.lower_bounds: F64Vector = np.array([m.lower_bound for m in mixes], np.float64)

    def __len__(self) -> int:
        return len(self._mixes)

    @overload
    def __getitem__(self, index: int) -> Solution: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Solution, ...]: ...
    def __getitem__(self, index: int | slice) -> Solution | tuple[Solution, ...]:
        if isinstance(index, slice):
            return tuple(m.solution() for m in self._mixes[index])
        return self._mixes[index].solution()


def frontier(
    problem: Problem,
    budgets: Iterable[int],
    *,
    relative_gap: float = RELATIVE_GAP,
    time_limit_s: float = TIME_LIMIT_S,
) -> Frontier:
    """The least damaging mix within each budget, in the order given.

    Hulls are found once for all budgets, and more budget never gives more damage, whatever gap was left.

    Args:
        problem: what to choose.
        budgets: whole-file bytes not to exceed.
        relative_gap: as for `solve_exact`.
        time_limit_s: the same, for each budget.

    Raises:
        InfeasibleBudgetError: no mix fits one of them.
    """
    wanted = list(budgets)
    table = tabulate(problem)
    solved: dict[int, _Mix] = {}
    best: _Mix | None = None
    for budget in sorted(set(wanted)):
        found: _Mix
        if problem.max_types is None:
            picks, bound = best_picks(table, budget, relative_gap=relative_gap, time_limit_s=time_limit_s)
            found = _Picks(table, picks, bound)
        else:
            found = _Solved(
                solve_exact(problem, budget, relative_gap=relative_gap, time_limit_s=time_limit_s)
            )
        if best is None or found.damage < best.damage:
            best = found
        solved[budget] = best
    return Frontier(wanted, [solved[budget] for budget in wanted])


def quantized(problem: Problem) -> Problem:
    """The problem without the stored types, which cost nothing: where a frontier is worth looking at."""
    items = tuple(
        replace(i, choices=tuple(c for c in i.choices if c.damage > 0) or i.choices) for i in problem.items
    )
    return replace(problem, items=items)


def default_budgets(problem: Problem, smallest_bytes: int, n_points: int = N_POINTS) -> list[int]:
    """Budgets of equal ratios, from the smallest file to the largest that is quantized.

    Args:
        problem: what to choose.
        smallest_bytes: of the smallest mix; `Problem.smallest_bytes` unless the number of types is limited.
        n_points: how many.
    """
    top = max(quantized(problem).largest_bytes, smallest_bytes)
    ratios = np.linspace(0.0, 1.0, max(n_points, 2))
    sizes = smallest_bytes * (top / max(smallest_bytes, 1)) ** ratios
    return sorted({smallest_bytes, top, *(int(np.ceil(s)) for s in sizes[1:-1])})


class _Mix:
    """One point."""

    size_bytes: int
    damage: float
    lower_bound: float

    def solution(self) -> Solution:
        """The whole mix."""
        raise NotImplementedError


class _Picks(_Mix):
    """A mix as positions in a table."""

    def __init__(self, table: Table, picks: I64Vector, lower_bound: float) -> None:
        self._table, self._picks = table, picks.astype(np.int32)
        self.size_bytes = table.problem.fixed_bytes + int(table.size[picks].sum())
        self.damage = table.damage_of(picks)
        self.lower_bound = min(lower_bound, self.damage)

    def solution(self) -> Solution:
        return self._table.solution(self._picks.astype(np.int64), self.lower_bound, "exact")


class _Solved(_Mix):
    """A mix as it was solved."""

    def __init__(self, found: Solution) -> None:
        self._found = found
        self.size_bytes, self.damage = found.size_bytes, found.damage
        self.lower_bound = found.lower_bound

    def solution(self) -> Solution:
        return self._found
