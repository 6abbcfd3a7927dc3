"""The mix with the least damage within a budget, and the proof.

Bounds first, which settle almost everything; then dynamic programming in integers, which on real models ends
in milliseconds with an optimum; and a mixed-integer program where it does not. A limit on the number of types
is branched on outside of that. Nothing depends on the order of tensors or types, and of equally good mixes
the smallest is taken.
"""

from __future__ import annotations

import math

import numpy as np

from mqnative.solve.distinct import solve_distinct
from mqnative.solve.dynamic import MAX_WORK, Found, search
from mqnative.solve.hull import I64Vector, Relaxation, Table, fill, relax, tabulate
from mqnative.solve.milp import solve_milp
from mqnative.solve.problem import Problem, Solution
from mqnative.solve.settle import settle

RELATIVE_GAP = 1e-6
TIME_LIMIT_S = 60.0


def solve_exact(
    problem: Problem,
    budget_bytes: int,
    *,
    relative_gap: float = RELATIVE_GAP,
    time_limit_s: float = TIME_LIMIT_S,
) -> Solution:
    """The least damaging mix of at most ``budget_bytes``.

    Almost always the optimum itself, with a gap of 0. Where millions of mixes are equally good per byte (all
    tensors with one and the same curve, say), the gap may be as large as ``relative_gap``, or what the time
    limit leaves; it is reported either way.

    Args:
        problem: what to choose.
        budget_bytes: whole-file bytes not to exceed; above the largest file it changes nothing.
        relative_gap: proven gap, as a share of the damage, that is good enough where the optimum is hard.
        time_limit_s: for the mixed-integer program.

    Raises:
        InfeasibleBudgetError: no mix fits; the message gives the feasible range.

    Accuracy: bytes are exact; damages are compared in units of 2^-61 of all that is undecided, and the sum is
        correctly rounded.
    """

    def inner(part: Problem) -> Solution:
        return solve_table(tabulate(part), budget_bytes, relative_gap=relative_gap, time_limit_s=time_limit_s)

    if problem.max_types is None:
        return inner(problem)
    return solve_distinct(problem, budget_bytes, inner, relative_gap=relative_gap, time_limit_s=time_limit_s)


def solve_table(
    table: Table,
    budget_bytes: int,
    *,
    relative_gap: float = RELATIVE_GAP,
    time_limit_s: float = TIME_LIMIT_S,
    max_work: int = MAX_WORK,
) -> Solution:
    """`solve_exact` on a prepared problem; ``max_work`` limits the dynamic programming."""
    picks, bound = best_picks(
        table, budget_bytes, relative_gap=relative_gap, time_limit_s=time_limit_s, max_work=max_work
    )
    return table.solution(picks, bound, "exact")


def best_picks(
    table: Table,
    budget_bytes: int,
    *,
    relative_gap: float = RELATIVE_GAP,
    time_limit_s: float = TIME_LIMIT_S,
    max_work: int = MAX_WORK,
) -> tuple[I64Vector, float]:
    """`solve_table` as positions in the table, and the proven bound; infinite for an optimum."""
    relaxation = relax(table, budget_bytes)
    known = fill(table, relaxation)
    remainder = settle(table, relaxation, known)
    found = search(remainder, max_work=max_work)
    best = _changed(table, relaxation, known, found)
    bound = remainder.lower_bound + found.above_bound
    allowed = relative_gap * abs(table.damage_of(best))
    if found.is_proven:
        bound = math.inf  # the solution cuts it to its damage
    elif table.damage_of(best) - bound > allowed:
        # A better mix is known by now, so that fewer choices are open.
        remainder = settle(table, relaxation, best)
        found = solve_milp(remainder, gap=allowed, time_limit_s=time_limit_s)
        best = _changed(table, relaxation, best, found)
        bound = max(bound, remainder.lower_bound + found.above_bound)
    return best, bound


def _changed(table: Table, relaxation: Relaxation, known: I64Vector, found: Found) -> I64Vector:
    """The mix that a search found; the known one where it found none better."""
    if found.changes is None:
        return known
    picks: I64Vector = relaxation.picks.copy()
    changes = np.array(found.changes, np.int64)
    picks[table.item[changes]] = changes
    return picks
