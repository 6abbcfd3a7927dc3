"""The exact mix of at most N different types.

With the set of types given, the rest is the ordinary problem. At any price of a byte, what a set costs
(damage and bytes at that price) bounds the damage of its mixes from below, so that of thousands of sets only
those remain whose bound is below a known mix. Each of these gets a price of its own; what is left is solved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mqnative.errors import InfeasibleBudgetError
from mqnative.solve.cover import Costs, good_set, sets_below
from mqnative.solve.grid import Grid, TypeSet, with_types
from mqnative.solve.problem import Problem, Solution, bytes_text, solution

# Solves a problem without a limit on the number of types.
Inner = Callable[[Problem], Solution]

# Branches looked at before the bound found so far must do: some seconds.
MAX_NODES = 100_000
_ROUNDS = 4


def solve_distinct(
    problem: Problem, budget_bytes: int, inner: Inner, *, relative_gap: float, time_limit_s: float
) -> Solution:
    """The least damaging mix of at most ``problem.max_types`` types.

    Args:
        problem: with a limit on the number of types.
        budget_bytes: whole-file bytes not to exceed.
        inner: solves the problem with the types given; its bound is used.
        relative_gap: proven gap that is good enough.
        time_limit_s: stop then, with the bound proven so far.

    Raises:
        InfeasibleBudgetError: no mix of so few types fits.
    """
    assert problem.max_types is not None
    deadline = time.monotonic() + time_limit_s
    free = inner(replace(problem, max_types=None))
    if len(frozenset[str]().union(*(c.used for c in free.choices.values()))) <= problem.max_types:
        return solution(problem, free.choices, free.lower_bound, free.method)
    grid = Grid.of(problem)
    require_few(problem, budget_bytes, grid)
    best, price = _good(problem, grid, budget_bytes, inner)
    spent = price * (budget_bytes - problem.fixed_bytes)

    def enough() -> float:
        return best.damage - relative_gap * abs(best.damage)

    sets, missed = sets_below(grid.costs(price), problem.max_types, best.damage + spent, max_nodes=MAX_NODES)
    bound = missed - spent
    fitting = [types for _, types in sets if _fits(grid, types, budget_bytes)]
    bounds = [grid.bound(types, budget_bytes, price)[0] for types in fitting]
    for k in sorted(range(len(fitting)), key=lambda k: bounds[k]):
        if bounds[k] >= enough() or time.monotonic() > deadline:
            bound = min(bound, bounds[k])
            break
        found = inner(with_types(problem, grid.named(fitting[k])))
        bound = min(bound, found.lower_bound)
        if (found.damage, found.size_bytes) < (best.damage, best.size_bytes):
            best = found
    return solution(problem, best.choices, max(bound, free.lower_bound), best.method)


def require_few(problem: Problem, budget_bytes: int, grid: Grid | None = None) -> None:
    """Refuse a budget that no mix of so few types fits.

    Raises:
        InfeasibleBudgetError: with the smallest size, if there is any; its constraint is the number of types.
    """
    smallest = smallest_bytes(problem, grid)
    if smallest is not None and smallest <= budget_bytes:
        return
    why = (
        f"no {problem.max_types} types give every tensor one that it can have"
        if smallest is None
        else f"no mix of at most {problem.max_types} types fits {bytes_text(budget_bytes)}; the smallest "
        f"takes {bytes_text(smallest)}"
    )
    raise InfeasibleBudgetError(
        f"{why}; allow more types",
        budget_bytes=budget_bytes,
        smallest_bytes=smallest,
        largest_bytes=problem.largest_bytes,
        constraint=f"--max-types {problem.max_types}",
    )


def smallest_bytes(problem: Problem, grid: Grid | None = None) -> int | None:
    """The smallest file of at most ``max_types`` types; None if there is no mix of so few."""
    if problem.max_types is None:
        return problem.smallest_bytes
    grid = Grid.of(problem) if grid is None else grid
    found = _smallest_set(grid.bytes(), problem.max_types)
    return None if found is None else int(grid.bytes().of(found)) + problem.fixed_bytes


def _good(problem: Problem, grid: Grid, budget_bytes: int, inner: Inner) -> tuple[Solution, float]:
    """A good mix of few types, and the price of a byte in it."""
    assert problem.max_types is not None
    _, price = grid.bound(np.ones(len(grid.types), np.bool_), budget_bytes, 0.0)
    seen: set[bytes] = set()
    found: list[tuple[Solution, float]] = []
    for _ in range(_ROUNDS):
        types = good_set(grid.costs(price), problem.max_types)
        if types.tobytes() in seen or not _fits(grid, types, budget_bytes):
            break
        seen.add(types.tobytes())
        _, price = grid.bound(types, budget_bytes, price)
        found.append((inner(with_types(problem, grid.named(types))), price))
    if not found:
        smallest = _smallest_set(grid.bytes(), problem.max_types)
        assert smallest is not None  # require_few has seen to it
        _, price = grid.bound(smallest, budget_bytes, price)
        found.append((inner(with_types(problem, grid.named(smallest))), price))
    return min(found, key=lambda f: (f[0].damage, f[0].size_bytes))


def _smallest_set(costs: Costs, n_types: int) -> TypeSet | None:
    """The set whose smallest file is smallest; None if every set leaves an item without a choice."""
    best = good_set(costs, n_types)
    size = costs.of(best)
    # Bytes are whole: a smaller file is smaller by one.
    limit = size - 0.5 if np.isfinite(size) else costs.penalty
    sets, _ = sets_below(costs, n_types, limit, max_nodes=MAX_NODES)
    if sets:
        return sets[0][1]
    return best if np.isfinite(size) else None


def _fits(grid: Grid, types: TypeSet, budget_bytes: int) -> bool:
    return grid.bytes().of(types) + grid.fixed_bytes <= budget_bytes
