"""A mix that is given, such as a preset's, as an answer to the problem."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.errors import ConstraintError, InfeasibleBudgetError
from mqnative.solve.hull import relax, tabulate
from mqnative.solve.problem import Choice, Item, Problem, Solution, bytes_text, solution


def solve_fixed(
    problem: Problem, budget_bytes: int | None, types: Mapping[str, str], method: str
) -> Solution:
    """The mix with these types.

    Args:
        problem: what to choose.
        budget_bytes: whole-file bytes not to exceed; None for any size.
        types: tensor -> type; tensors that the problem does not hold are ignored.
        method: what to call it.

    Returns:
        The mix; its gap is against the best mix of its own size.

    Raises:
        ConstraintError: it gives a tensor a type that is none of its choices, or uses too many types.
        InfeasibleBudgetError: it does not fit.
    """
    chosen = {item.name: _named(item, types, method) for item in problem.items}
    used = frozenset[str]().union(*(c.used for c in chosen.values()))
    if problem.max_types is not None and len(used) > problem.max_types:
        raise ConstraintError(
            f"{method} uses {len(used)} types ({', '.join(sorted(used))}), more than --max-types "
            f"{problem.max_types} allows; choose another method",
            constraint=f"--max-types {problem.max_types}",
        )
    found = solution(problem, chosen, float("inf"), method)
    if budget_bytes is not None and found.size_bytes > budget_bytes:
        raise InfeasibleBudgetError(
            f"{method} takes {bytes_text(found.size_bytes)}, more than {bytes_text(budget_bytes)}; give it "
            "that, or choose another method",
            budget_bytes=budget_bytes,
            smallest_bytes=found.size_bytes,
            largest_bytes=found.size_bytes,
            constraint=method,
        )
    return solution(problem, chosen, relax(tabulate(problem), found.size_bytes).lower_bound, method)


def _named(item: Item, types: Mapping[str, str], method: str) -> Choice:
    for choice in item.choices:
        uses = item.uses(choice)
        given = dict(types)
        if item.second_use is not None:
            given.setdefault(item.second_use, types.get(item.name, ""))
        if all(given.get(name) == t for name, t in uses.items()):
            return choice
    wanted = ", ".join(f"{name} {types[name]}" for name in item.uses(item.choices[0]) if name in types)
    allowed = ", ".join(c.qtype for c in item.choices)
    raise ConstraintError(
        f"{method} wants {wanted or f'nothing for {item.name}'}, but the types it may have are {allowed}; "
        "choose another method, or allow more",
        constraint=method,
        tensor=item.name,
    )
