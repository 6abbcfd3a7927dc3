"""One type for everything, as far as the tensors allow it: the mix that all others must beat."""

from __future__ import annotations

from mqnative.errors import InfeasibleBudgetError
from mqnative.formats.qtypes import qtype as known_type
from mqnative.solve.hull import relax, tabulate
from mqnative.solve.problem import Choice, Item, Problem, Solution, bytes_text, solution


def solve_uniform(problem: Problem, qtype: str) -> Solution:
    """Every tensor at ``qtype``, or where that is no choice at the next larger type, or else at its largest.

    The next larger is also what llama.cpp takes where rows do not fill a type's blocks.

    Args:
        problem: what to choose.
        qtype: the type's name, in any case.

    Returns:
        The mix; its gap is against the best mix of the same size.

    Raises:
        UnsupportedTypeError: ggml knows no such type.
    """
    wanted = known_type(qtype).name
    chosen = {item.name: _nearest(item, wanted) for item in problem.items}
    mix = solution(problem, chosen, float("inf"), "uniform")
    bound = relax(tabulate(problem), mix.size_bytes).lower_bound
    return solution(problem, chosen, bound, "uniform")


def best_uniform(problem: Problem, budget_bytes: int) -> Solution:
    """`solve_uniform` at the type that does least damage of those that fit.

    Args:
        problem: what to choose.
        budget_bytes: whole-file bytes not to exceed.

    Raises:
        InfeasibleBudgetError: no single type fits; the smallest of their files is attached.
    """
    types = sorted({t for i in problem.items for c in i.choices for t in c.used})
    mixes = [solve_uniform(problem, t) for t in types] or [solution(problem, {}, 0.0, "uniform")]
    fitting = [m for m in mixes if m.size_bytes <= budget_bytes]
    if not fitting:
        smallest = min(m.size_bytes for m in mixes)
        raise InfeasibleBudgetError(
            f"no single type fits {bytes_text(budget_bytes)}; the smallest takes {bytes_text(smallest)}",
            budget_bytes=budget_bytes,
            smallest_bytes=smallest,
            largest_bytes=max(m.size_bytes for m in mixes),
        )
    return min(fitting, key=lambda m: (m.damage, m.size_bytes))


def _nearest(item: Item, wanted: str) -> Choice:
    choices = sorted(item.choices, key=lambda c: (c.size_bytes, c.damage, c.qtype))
    for choice in choices:
        if choice.used == {wanted}:
            return choice
    bpw = known_type(wanted).bpw
    by_bpw = sorted(choices, key=lambda c: (c.bpw, c.size_bytes, c.damage, c.qtype))
    larger = [c for c in by_bpw if c.bpw >= bpw]
    return larger[0] if larger else by_bpw[-1]
