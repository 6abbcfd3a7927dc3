"""Walking down from the least damaging types: the cheapest step, again and again, until the file fits.

A step is cheap if it adds little damage for the bytes it saves. Dividing an error's increase by a tensor's
importance would begin with the most important tensors; damage is importance and error in one figure.
"""

from __future__ import annotations

import heapq

from mqnative.solve.hull import Relaxation, Table, relax, tabulate
from mqnative.solve.problem import Problem, Solution


def solve_greedy(problem: Problem, budget_bytes: int) -> Solution:
    """Steps to the next smaller type, in the order of damage added per byte saved.

    Steps go over neighbouring types, so that a good step behind a bad one comes late: this is the plain
    method, not the exact one.

    Args:
        problem: what to choose.
        budget_bytes: whole-file bytes not to exceed.

    Returns:
        The first mix on the way down that fits; its gap is against the best mix of the budget.

    Raises:
        InfeasibleBudgetError: no mix fits.
    """
    table = tabulate(problem)
    relaxation: Relaxation = relax(table, budget_bytes)
    # A choice's successors are smaller: positions of an item run from small to large.
    picks = table.first[1:] - 1
    left = table.budget_left(picks, budget_bytes)
    steps = [step for item in range(len(picks)) if (step := _step(table, item, int(picks[item]))) is not None]
    heapq.heapify(steps)
    while left < 0:
        _, item, to = heapq.heappop(steps)
        left += int(table.size[picks[item]] - table.size[to])
        picks[item] = to
        following = _step(table, item, to)
        if following is not None:
            heapq.heappush(steps, following)
    return table.solution(picks, relaxation.lower_bound, "greedy")


def _step(table: Table, item: int, position: int) -> tuple[float, int, int] | None:
    """Damage per byte of the step down from a choice, the item, and the choice it leads to."""
    to = position - 1
    if to < table.first[item]:
        return None
    added = float(table.damage[to] - table.damage[position])
    return added / float(table.size[position] - table.size[to]), item, to
