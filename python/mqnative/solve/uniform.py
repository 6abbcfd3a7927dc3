"""One type for everything, as far as the tensors allow it: the mix that all others must beat."""

from __future__ import annotations

from mqnative.formats.qtypes import qtype as known_type
from mqnative.solve.hull import relax, tabulate
from mqnative.solve.problem import Choice, Item, Problem, Solution, solution


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


def _nearest(item: Item, wanted: str) -> Choice:
    for choice in item.choices:
        if choice.qtype == wanted:
            return choice
    bpw = known_type(wanted).bpw
    by_bpw = sorted(item.choices, key=lambda c: (known_type(c.qtype).bpw, c.damage, c.qtype))
    larger = [c for c in by_bpw if known_type(c.qtype).bpw >= bpw]
    return larger[0] if larger else by_bpw[-1]
