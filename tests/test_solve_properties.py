"""Random problems: the exact solver equals trying everything, and keeps what it promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.solve import dynamic
from mqnative.solve.exact import solve_exact, solve_table
from mqnative.solve.frontier import frontier
from mqnative.solve.hull import fill, relax, solve_greedy_hull, tabulate
from mqnative.solve.milp import solve_milp
from mqnative.solve.problem import Choice, Item, Problem, Solution, relative_gap
from mqnative.solve.settle import settle

# Multiples of 1/64 have exact sums: equal is equal, and ties are real.
dyadic = st.integers(0, 640).map(lambda n: n / 64)
# From far below to far above what models show; sums are rounded, so that only near-equality can be asked.
ranging = st.builds(lambda m, e: m * 10.0**e, st.integers(0, 999), st.integers(-15, 9))
NEAR = 1e-12


@st.composite
def problems(
    draw: st.DrawFn, damages: st.SearchStrategy[float] = dyadic, max_size: int = 40, max_items: int = 5
) -> Problem:
    pairs = draw(
        st.sampled_from(
            [
                st.tuples(st.integers(0, max_size), damages),
                # Ties all over.
                st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0, 2.0, 3.0])),
                # Every byte worth the same, so that bounds settle nothing.
                st.integers(0, 40).map(lambda size: (size, (40 - size) / 64)),
            ]
        )
    )
    items = draw(st.lists(st.lists(pairs, min_size=1, max_size=5), max_size=max_items))
    return Problem(
        tuple(
            Item(f"t{i}", tuple(Choice(f"Q{j}", *pair) for j, pair in enumerate(choices)))
            for i, choices in enumerate(items)
        ),
        draw(st.integers(0, 10)),
    )


def budgets_of(problem: Problem) -> st.SearchStrategy[int]:
    return st.integers(problem.smallest_bytes, problem.largest_bytes + 1)


def brute_force(problem: Problem, budget_bytes: int) -> tuple[float, int]:
    """Damage and bytes of the best mix by trying all; the smaller of equally good ones."""
    best = (math.inf, 0)
    for mix in itertools.product(*(i.choices for i in problem.items)):
        size = problem.fixed_bytes + sum(c.size_bytes for c in mix)
        if size <= budget_bytes:
            best = min(best, (math.fsum(c.damage for c in mix), size))
    return best


def check(problem: Problem, solution: Solution, budget_bytes: int) -> None:
    """What every solution promises, counted from the problem alone."""
    picked = [next(c for c in i.choices if c.qtype == solution.types[i.name]) for i in problem.items]
    assert list(solution.types) == [i.name for i in problem.items]
    assert solution.size_bytes == problem.fixed_bytes + sum(c.size_bytes for c in picked) <= budget_bytes
    assert solution.damage == math.fsum(c.damage for c in picked)
    assert solution.lower_bound <= solution.damage
    assert solution.gap == relative_gap(solution.damage, solution.lower_bound)


@settings(max_examples=500)
@given(problems(), st.data())
def test_exact_equals_trying_everything(problem: Problem, data: st.DataObject) -> None:
    budget = data.draw(budgets_of(problem))
    solution = solve_exact(problem, budget)
    check(problem, solution, budget)
    assert (solution.damage, solution.size_bytes) == brute_force(problem, budget)
    assert solution.gap == 0.0


@settings(max_examples=300)
@given(problems(ranging, 10**9), st.data())
def test_exact_equals_trying_everything_over_any_range(problem: Problem, data: st.DataObject) -> None:
    budget = data.draw(budgets_of(problem))
    solution = solve_exact(problem, budget)
    check(problem, solution, budget)
    best, _ = brute_force(problem, budget)
    assert best <= solution.damage <= best * (1 + NEAR)


@settings(max_examples=200)
@given(problems(max_items=6), st.data())
def test_bounds_and_greedy_enclose_the_optimum(problem: Problem, data: st.DataObject) -> None:
    budget = data.draw(budgets_of(problem))
    best, _ = brute_force(problem, budget)
    greedy = solve_greedy_hull(problem, budget)
    check(problem, greedy, budget)
    assert relax(tabulate(problem), budget).lower_bound <= best + NEAR
    assert best <= greedy.damage


@settings(max_examples=200)
@given(problems(), st.data())
def test_more_budget_is_never_worse(problem: Problem, data: st.DataObject) -> None:
    budgets = sorted(data.draw(st.lists(budgets_of(problem), min_size=2, max_size=6)))
    damages = [solve_exact(problem, b).damage for b in budgets]
    assert damages == sorted(damages, reverse=True)
    assert [s.damage for s in frontier(problem, budgets)] == damages


@settings(max_examples=200)
@given(problems(), st.data())
def test_order_decides_nothing(problem: Problem, data: st.DataObject) -> None:
    budget = data.draw(budgets_of(problem))
    shuffled = [Item(i.name, tuple(data.draw(st.permutations(i.choices)))) for i in problem.items]
    other = Problem(tuple(data.draw(st.permutations(shuffled))), problem.fixed_bytes)
    assert solve_exact(other, budget) == solve_exact(problem, budget)


@settings(max_examples=200)
@given(problems(), st.data())
def test_nothing_is_settled_that_a_best_mix_needs(problem: Problem, data: st.DataObject) -> None:
    budget = data.draw(budgets_of(problem))
    table = tabulate(problem)
    relaxation = relax(table, budget)
    remainder = settle(table, relaxation, fill(table, relaxation))
    is_left = set(remainder.position.tolist()) | set(relaxation.picks.tolist())
    left = Problem(
        tuple(
            Item(name, tuple(c for p, c in enumerate(table.choices) if p in is_left and table.item[p] == i))
            for i, name in enumerate(table.names)
        ),
        problem.fixed_bytes,
    )
    assert brute_force(left, budget) == brute_force(problem, budget)
    assert remainder.lower_bound <= brute_force(problem, budget)[0] + NEAR


@settings(max_examples=300)
@given(problems(max_items=7), st.integers(0, 40), st.integers(1, 6), st.data())
def test_search_cut_short_claims_no_more_than_is_true(
    problem: Problem, work: int, at_once: int, data: st.DataObject
) -> None:
    budget = data.draw(budgets_of(problem))
    table = tabulate(problem)
    relaxation = relax(table, budget)
    # Starting from nothing better than the relaxation's mix leaves more to search.
    remainder = settle(table, relaxation, relaxation.picks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic, "_MIN_AT_ONCE", at_once)
        found = dynamic.search(remainder, max_work=work)
        solution = solve_table(table, budget, max_work=work, relative_gap=math.inf)
    best, _ = brute_force(problem, budget)
    check(problem, solution, budget)
    assert solution.damage >= best >= solution.lower_bound - NEAR
    assert remainder.lower_bound + found.above_bound <= best + NEAR
    if found.is_proven:
        assert remainder.lower_bound + found.above_bound >= best - NEAR
    if solution.gap == 0.0:
        assert solution.damage == best


@settings(max_examples=60, deadline=None)
@given(problems(ranging, 10**6), st.data())
def test_mixed_integer_program_claims_no_more_than_is_true(problem: Problem, data: st.DataObject) -> None:
    budget = data.draw(budgets_of(problem))
    table = tabulate(problem)
    relaxation = relax(table, budget)
    # The relaxation's own mix: the program has all the work to do.
    remainder = settle(table, relaxation, relaxation.picks)
    best, _ = brute_force(problem, budget)
    found = solve_milp(remainder, gap=1e-7 * best, time_limit_s=10.0)
    picks = relaxation.picks.copy()
    changes = np.array(found.changes or (), np.int64)
    picks[table.item[changes]] = changes
    assert table.budget_left(picks, budget) >= 0
    assert best <= table.damage_of(picks) * (1 + NEAR)
    assert table.damage_of(picks) <= best * (1 + 1e-6)
    assert remainder.lower_bound + found.above_bound <= best * (1 + NEAR)
