"""Greedy, knee, bins, uniform: what each promises, and where each stops."""

from __future__ import annotations

import math

import pytest

from mqnative.errors import ConstraintError, InfeasibleBudgetError
from mqnative.solve.bins import Bin, solve_bins
from mqnative.solve.greedy import solve_greedy
from mqnative.solve.hull import solve_greedy_hull
from mqnative.solve.knee import RULES, Rule, solve_knee
from mqnative.solve.problem import Choice, Item, Problem
from mqnative.solve.solvers import SOLVERS, Settings, has_own_size, solve
from test_solve import check, make_problem, model_like, share_of_range

LADDER = (("Q8_0", 850), ("Q6_K", 656), ("Q5_K", 550), ("Q4_K", 450), ("Q3_K", 344), ("Q2_K", 263))


def ladder(*damages: list[float], importance: list[float | None] | None = None) -> Problem:
    """Tensors with six types from Q8_0 to Q2_K and these damages."""
    known = importance or [None] * len(damages)
    return Problem(
        tuple(
            Item(
                f"t{i}",
                tuple(Choice(t, s, d) for (t, s), d in zip(LADDER, row, strict=True)),
                importance=known[i],
            )
            for i, row in enumerate(damages)
        ),
        0,
    )


EVEN = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


# --- greedy ---


def test_greedy_steps_down_where_a_byte_saved_costs_least() -> None:
    problem = make_problem([(10, 5.0), (20, 1.0)], [(10, 9.0), (40, 0.0)])
    # 4 nats for 10 bytes against 9 for 30: the second is cheaper per byte, although it costs more.
    assert solve_greedy(problem, 59).types == {"t0": "B", "t1": "A"}
    assert solve_greedy(problem, 29).types == {"t0": "A", "t1": "A"}
    assert solve_greedy(problem, 60).types == {"t0": "B", "t1": "B"}


def test_greedy_takes_neighbouring_types_one_by_one() -> None:
    # A cheap step waits behind a dear one, which the hull would leap over.
    problem = make_problem([(0, 2.0), (8, 1.9), (10, 0.0)], [(0, 3.0), (10, 0.0)])
    assert solve_greedy(problem, 10).types == {"t0": "C", "t1": "A"}
    assert solve_greedy_hull(problem, 10).types == {"t0": "A", "t1": "B"}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_heuristics_fit_and_bound_themselves(share: float) -> None:
    problem = model_like(120, 4)
    budget = share_of_range(problem, share)
    best = solve(problem, budget)
    for method in ("greedy", "knee"):
        found = solve(problem, budget, method)
        check(problem, found, budget)
        assert found.damage >= best.damage >= found.lower_bound
        with pytest.raises(InfeasibleBudgetError):
            solve(problem, problem.smallest_bytes - 1, method)


# --- knee ---


def test_relative_knee_stops_before_the_first_jump() -> None:
    problem = ladder(EVEN, [1.0, 2.0, 4.0, 20.0, 21.0, 22.0])
    found = solve_knee(problem, None, "relative", 1.5)
    assert found.types == {"t0": "Q2_K", "t1": "Q5_K"}
    assert "Q4_K would be the first jump: 4 times" in found.reasons["t1"]
    assert found.reasons["t0"] == "no smaller type jumps"


def test_absolute_knee_stops_at_so_many_nats() -> None:
    assert solve_knee(ladder(EVEN), None, "absolute", 3.9).types == {"t0": "Q5_K"}
    assert solve_knee(ladder(EVEN), None, "absolute", 4.1).types == {"t0": "Q4_K"}


def test_two_sigma_knee_compares_a_step_with_those_before_it() -> None:
    steady = [1.0, 2.0, 3.1, 4.0, 5.0, 6.1]
    sudden = [1.0, 2.0, 3.1, 4.0, 9.0, 9.5]
    found = solve_knee(ladder(steady, sudden), None, "two-sigma")
    assert found.types == {"t0": "Q2_K", "t1": "Q4_K"}


def test_importance_makes_the_threshold_stricter() -> None:
    problem = ladder(EVEN, EVEN, EVEN, importance=[0.0, 1.0, None])
    # Each step adds as much as there was: 1 time the damage. 0.5 / 0.1 = 5 and 0.5 / 1.1 = 0.45.
    found = solve_knee(problem, None, "importance", 0.5)
    assert found.types == {"t0": "Q2_K", "t1": "Q8_0", "t2": "Q8_0"}


def test_curvature_knee_stops_where_ln_damage_steepens() -> None:
    even = [math.exp(-s / 100) for _, s in LADDER]
    bent = [*even[:4], even[4] * math.e, even[5] * math.e]
    found = solve_knee(ladder(even, bent), None, "curvature", 5.0)
    assert found.types == {"t0": "Q2_K", "t1": "Q4_K"}


def test_jump_counts_by_the_least_it_may_be() -> None:
    certain = Item("a", (Choice("Q8_0", 20, 1.0, 0.0), Choice("Q4_K", 10, 4.0, 0.0)))
    doubtful = Item("b", (Choice("Q8_0", 20, 1.0, 1.0), Choice("Q4_K", 10, 4.0, 16.0)))
    found = solve_knee(Problem((certain, doubtful), 0), None, "relative", 1.0)
    assert found.types == {"a": "Q8_0", "b": "Q4_K"}


def test_walk_goes_over_pareto_types_only_and_not_from_the_stored_one() -> None:
    item = Item(
        "a",
        (
            Choice("BF16", 1600, 0.0),
            Choice("Q8_0", 850, 1.0),
            Choice("Q5_1", 600, 50.0),  # beaten by Q5_K in both
            Choice("Q5_K", 550, 2.0),
            Choice("Q4_K", 450, 40.0),
        ),
    )
    found = solve_knee(Problem((item,), 0), None, "relative", 5.0)
    assert found.types == {"a": "Q5_K"}


@pytest.mark.parametrize("rule", RULES)
def test_thresholds_move_until_the_file_fits(rule: Rule) -> None:
    problem = model_like(60, 1)
    before = math.inf
    for share in (0.05, 0.2, 0.5, 0.9):
        budget = share_of_range(problem, share)
        found = solve_knee(problem, budget, rule)
        check(problem, found, budget)
        assert found.damage <= before
        before = found.damage
        assert set(found.reasons) == set(found.types)
    # As much of the budget is used as the rule can.
    assert solve_knee(problem, problem.largest_bytes, rule).size_bytes > share_of_range(problem, 0.4)


# --- bins ---


def test_bins_give_the_important_more() -> None:
    problem = ladder(*[EVEN] * 10, importance=[k / 9 for k in range(10)])
    found = solve_bins(problem, None)
    assert found.types == {f"t{k}": t for k, t in enumerate(["Q4_K"] * 6 + ["Q5_K"] * 3 + ["Q6_K"])}
    assert found.reasons["t9"] == "importance percentile 100: bin 1, at least Q6_K"


def test_tensor_of_unknown_importance_counts_as_the_most_important() -> None:
    problem = ladder(*[EVEN] * 10, importance=[*[k / 9 for k in range(9)], None])
    assert solve_bins(problem, None).types["t9"] == "Q6_K"


def test_best_of_the_smallest_types_allowed_is_taken() -> None:
    item = Item("a", (Choice("Q4_0", 45, 3.0), Choice("Q4_K", 45, 1.0), Choice("Q8_0", 85, 0.1)))
    assert solve_bins(Problem((item,), 0), None, (Bin(1.0, "Q4_0"),)).types == {"a": "Q4_K"}


def test_bins_move_together_and_the_rest_goes_to_the_important() -> None:
    problem = ladder(*[EVEN] * 10, importance=[k / 9 for k in range(10)])
    sizes = dict(LADDER)
    own = solve_bins(problem, None).size_bytes
    assert solve_bins(problem, own).types == solve_bins(problem, None).types
    more = solve_bins(problem, own + sizes["Q8_0"] - sizes["Q6_K"])
    assert more.types["t9"] == "Q8_0"
    for budget in range(problem.smallest_bytes, problem.largest_bytes + 1, 211):
        found = solve_bins(problem, budget)
        check(problem, found, budget)
        by_importance = [sizes[found.types[f"t{k}"]] for k in range(10)]
        assert by_importance == sorted(by_importance)


@pytest.mark.parametrize("bins", [(), (Bin(0.0, "Q4_K"),), (Bin(0.7, "Q4_K"), Bin(0.7, "Q2_K"))])
def test_bins_without_sense_are_refused(bins: tuple[Bin, ...]) -> None:
    with pytest.raises(ConstraintError, match="shares"):
        solve_bins(ladder(EVEN), None, bins)


# --- the registry ---


def test_uniform_is_the_best_single_type_that_fits() -> None:
    problem = ladder(EVEN, EVEN)
    assert set(solve(problem, 1000, "uniform").types.values()) == {"Q4_K"}
    assert set(solve(problem, None, "uniform:q6_k").types.values()) == {"Q6_K"}
    with pytest.raises(InfeasibleBudgetError):
        solve(problem, 1000, "uniform:Q6_K")
    with pytest.raises(InfeasibleBudgetError) as refused:
        solve(problem, 10, "uniform")
    assert refused.value.smallest_bytes == 526


def test_methods_with_a_size_of_their_own_need_no_budget() -> None:
    problem = ladder(EVEN, EVEN, importance=[0.0, 1.0])
    mixes = {"preset:X": {"t0": "Q4_K", "t1": "Q8_0"}}
    for method in (*SOLVERS, "uniform:Q4_K", "preset:X"):
        if has_own_size(method):
            assert solve(problem, None, method, Settings(mixes=mixes)).size_bytes > 0
        else:
            with pytest.raises(ConstraintError, match="budget"):
                solve(problem, None, method)


def test_no_method_depends_on_the_order_of_the_tensors() -> None:
    problem = model_like(40, 7)
    shuffled = Problem(
        tuple(Item(i.name, i.choices[::-1], i.importance) for i in problem.items[::-1]), problem.fixed_bytes
    )
    budget = share_of_range(problem, 0.3)
    for method in ("exact", "greedy", "knee"):
        assert solve(problem, budget, method) == solve(shuffled, budget, method)
