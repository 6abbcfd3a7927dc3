"""The frontier's points, its knees, and why a mix is as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from mqnative.solve.binding import MIB
from mqnative.solve.constraints import Constraints, Share
from mqnative.solve.exact import solve_exact
from mqnative.solve.explain import Move, explain, moves
from mqnative.solve.frontier import default_budgets, frontier, quantized
from mqnative.solve.hull import tabulate
from mqnative.solve.knees import find_knees, hull_curve, knees
from mqnative.solve.limits import Ceiling, Floor, Pin
from mqnative.solve.problem import Choice, Item, Problem
from mqnative.solve.restrict import Restricted, restrict
from mqnative.solve.solvers import solve
from test_solve import make_problem, model_like, share_of_range
from test_solve_properties import problems

FREE = Constraints()


def free(problem: Problem) -> Restricted:
    return restrict(problem, FREE)


# --- points ---


def test_default_budgets_run_from_the_smallest_to_the_largest_quantized_file() -> None:
    problem = make_problem(
        [(10, 2.0), (20, 1.0), (64, 0.0)], [(10, 1.0), (30, 0.5), (64, 0.0)], fixed_bytes=5
    )
    budgets = default_budgets(problem, problem.smallest_bytes, 10)
    assert (budgets[0], budgets[-1]) == (25, 55)
    assert budgets == sorted(set(budgets))
    assert quantized(problem).largest_bytes == 55


def test_few_types_have_a_frontier_too() -> None:
    problem = replace(model_like(40, 3), max_types=2)
    budgets = default_budgets(problem, share_of_range(problem, 0.02), 12)
    found = frontier(problem, budgets)
    assert [s.damage for s in found] == sorted((s.damage for s in found), reverse=True)
    for solution, budget in zip(found, budgets, strict=True):
        assert len(set(solution.types.values())) <= 2
        assert solution.size_bytes <= budget
    assert found[3].damage == solve_exact(problem, budgets[3]).damage
    assert found[2:4] == (found[2], found[3])


def test_arrays_of_a_frontier_are_its_mixes() -> None:
    problem = model_like(40, 3)
    found = frontier(problem, default_budgets(problem, problem.smallest_bytes, 30))
    assert found.sizes.tolist() == [s.size_bytes for s in found]
    assert found.damages.tolist() == [s.damage for s in found]
    assert found.lower_bounds.tolist() == [s.lower_bound for s in found]


@settings(max_examples=100)
@given(problems())
def test_every_step_of_the_relaxation_is_the_best_mix_of_its_size(problem: Problem) -> None:
    sizes, damages = hull_curve(tabulate(problem))
    for size, damage in zip(sizes.tolist(), damages.tolist(), strict=True):
        assert solve_exact(problem, size).damage == pytest.approx(damage, abs=1e-9)


# --- knees ---


def test_knee_of_an_even_curve_lies_where_the_slope_is_the_average_one() -> None:
    # The root of exp(-2kx) is exp(-kx), whose slope is the chord's at ln(k / (1 - exp(-k))) / k.
    k, n = 6.0, 4001
    x = np.linspace(0.0, 1.0, n)
    sizes = (10**6 * (1 + x)).astype(np.int64)
    found = {knee.rule: knee for knee in find_knees(sizes, np.exp(-2 * k * x))}
    where = math.log(k / (1 - math.exp(-k))) / k
    assert found["root"].size_bytes == pytest.approx(10**6 * (1 + where), rel=1e-3)
    where = math.log(2 * k / (1 - math.exp(-2 * k))) / (2 * k)
    assert found["linear"].size_bytes == pytest.approx(10**6 * (1 + where), rel=1e-3)
    assert all(knee.reason for knee in found.values())


def test_two_sigma_knee_is_the_last_mix_before_the_price_jumps() -> None:
    sizes = np.arange(100, 130, dtype=np.int64)
    prices = np.where(np.arange(29) < 9, 50.0, 1.0 + 0.1 * (np.arange(29) % 2))
    damages = np.concatenate([np.cumsum(prices[::-1])[::-1], [0.0]])
    found = {knee.rule: knee for knee in find_knees(sizes, damages)}
    assert found["two-sigma"].size_bytes == 109


def test_frontier_without_a_bend_has_no_knee() -> None:
    assert find_knees(np.array([5, 9]), np.array([1.0, 0.5])) == ()
    assert find_knees(np.array([5, 6, 7]), np.array([1.0, 1.0, 1.0])) == ()
    assert knees(Problem((), 3)) == ()


def test_knee_lies_on_the_frontier_and_within_its_interval() -> None:
    problem = model_like(60, 5)
    noisy = Problem(
        tuple(
            Item(i.name, tuple(replace(c, variance=(0.2 * c.damage) ** 2) for c in i.choices))
            for i in problem.items
        ),
        problem.fixed_bytes,
    )
    found = knees(noisy)
    assert found[0].rule == "root"
    for knee in found:
        best = solve_exact(noisy, knee.size_bytes)
        assert best.damage == pytest.approx(knee.damage)
        assert knee.ci95_bytes is not None
        low, high = knee.ci95_bytes
        assert low < high
    assert found[0].ci95_bytes is not None
    assert found[0].ci95_bytes[0] <= found[0].size_bytes <= found[0].ci95_bytes[1]
    assert knees(noisy) == found


# --- why ---


def test_moves_are_the_best_buy_up_and_the_cheapest_sale_down() -> None:
    choices = [Choice(*c) for c in [("A", 10, 9.0), ("B", 20, 5.0), ("C", 30, 4.0), ("D", 40, 1.0)]]
    item = Item("a", tuple(choices))
    up, down = moves(item, choices[1])
    assert up == Move("D", 20, -4.0)
    assert down == Move("A", -10, 4.0)
    assert up is not None
    assert up.price == 0.2
    assert down is not None
    assert down.price == 0.4
    assert moves(item, choices[0])[1] is None
    assert moves(item, choices[3])[0] is None


def test_explanation_tells_price_and_moves_of_every_tensor() -> None:
    problem = model_like(30, 2)
    budget = share_of_range(problem, 0.1)
    found = explain(free(problem), solve(problem, budget), budget, solve)
    assert found.price > 0
    assert found.budget_binds
    assert found.left_bytes == budget - solve(problem, budget).size_bytes
    assert {w.name for w in found.tensors} == {i.name for i in problem.items}
    for why in found.tensors:
        # No move pays: what could be bought costs more than the price, what could be sold brings less.
        assert why.up is None or why.up.price <= found.price * 1.5
        assert why.down is None or why.down.price >= found.price / 1.5
        assert why.qtype == solve(problem, budget).types[why.name]
        assert "price" in why.text
    assert found.more is not None
    assert found.more.more_bytes == MIB
    larger = solve_exact(problem, budget + MIB)
    assert found.more.less_damage == solve(problem, budget).damage - larger.damage > 0
    assert {(n, t) for n, _, t in found.more.changes} <= set(larger.types.items())


def test_budget_above_everything_has_no_price() -> None:
    problem = model_like(5, 2)
    found = explain(free(problem), solve(problem, 10**15), 10**15, solve)
    assert (found.price, found.budget_binds) == (0.0, False)
    assert found.more is not None
    assert (found.more.less_damage, found.more.changes) == (0.0, ())


def real(names: list[str]) -> Problem:
    """Tensors with real types; the first one matters most."""
    sizes = {"Q2_K": 263, "Q4_K": 450, "Q6_K": 656, "Q8_0": 850}
    items = [
        Item(n, tuple(Choice(t, s, 2.0 ** -(s / 50) * 10**-k) for t, s in sizes.items()))
        for k, n in enumerate(names)
    ]
    return Problem(tuple(items), 0)


def test_constraint_that_binds_is_named_with_what_it_costs() -> None:
    problem = real(["a.weight", "b.weight", "c.weight"])
    constraints = Constraints(
        (Ceiling("a.weight", "Q4_K"), Floor("b.weight", "Q2_K"), Pin("c.weight", "Q8_0"))
    )
    part = restrict(problem, constraints)
    budget = 1990
    found = explain(part, solve(part.problem, budget), budget, solve)
    by_text = {b.text: b for b in found.constraints}
    assert set(by_text) == set(constraints.texts)
    for k, text in enumerate(constraints.texts):
        rest = Constraints(tuple(limit for j, limit in enumerate(constraints.limits) if j != k))
        without = solve_exact(restrict(problem, rest).problem, budget).damage
        assert by_text[text].more_damage == pytest.approx(solve(part.problem, budget).damage - without)
    assert by_text["--ceiling a.weight=Q4_K"].binds
    assert by_text["--ceiling a.weight=Q4_K"].tensors == ("a.weight",)
    assert not by_text["--floor b.weight=Q2_K"].binds
    whys = {w.name: w for w in found.tensors}
    assert whys["a.weight"].limits == ("--ceiling a.weight=Q4_K",)
    assert whys["a.weight"].wanted in ("Q6_K", "Q8_0")
    assert "--ceiling a.weight=Q4_K keeps it from" in whys["a.weight"].text
    assert "it can have no other type" in whys["c.weight"].text


def test_tensors_that_share_a_type_are_explained_once() -> None:
    problem = real(["a.weight", "b.weight", "c.weight"])
    part = restrict(problem, Constraints(shares=(Share("[ab].weight"),)))
    found = explain(part, solve(part.problem, 1600), 1600, solve)
    whys = {w.name: w for w in found.tensors}
    assert set(whys) == {"a.weight", "c.weight"}
    assert whys["a.weight"].tensors == ("a.weight", "b.weight")
    assert "one type for 2 tensors" in whys["a.weight"].text
    assert found.constraints[0].more_damage is not None


def test_reason_of_a_heuristic_comes_first() -> None:
    problem = real(["a.weight", "b.weight"])
    solution = solve(problem, None, "knee")
    found = explain(free(problem), solution, None, solve)
    assert found.more is None
    for why in found.tensors:
        assert why.text.startswith(solution.reasons[why.name])


def test_explanation_of_few_types_prices_bytes_with_those_types() -> None:
    problem = real(["a.weight", "b.weight", "c.weight"])
    part = restrict(problem, Constraints(max_types=1))
    found = explain(part, solve(part.problem, 1500), 1500, solve)
    assert {w.qtype for w in found.tensors} == {"Q4_K"}
    assert found.constraints[0].text == "--max-types 1"
    assert found.constraints[0].binds
