"""Size against damage: the best mix at each of many budgets."""

from __future__ import annotations

from collections.abc import Iterable

from mqnative.solve.exact import RELATIVE_GAP, TIME_LIMIT_S, solve_table
from mqnative.solve.hull import tabulate
from mqnative.solve.problem import Problem, Solution


def frontier(
    problem: Problem,
    budgets: Iterable[int],
    *,
    relative_gap: float = RELATIVE_GAP,
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[Solution, ...]:
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
    solved: dict[int, Solution] = {}
    best: Solution | None = None
    for budget in sorted(set(wanted)):
        found = solve_table(table, budget, relative_gap=relative_gap, time_limit_s=time_limit_s)
        if best is None or found.damage < best.damage:
            best = found
        solved[budget] = best
    return tuple(solved[budget] for budget in wanted)
