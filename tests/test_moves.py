"""Moves about a solution: which are worth measuring, and what a measurement changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.refine.moves import Measured, Move, boundary, change, near_problem, posterior
from mqnative.solve.exact import solve_exact
from mqnative.solve.problem import Choice, Item, Problem

SIZES = {"Q2_K": 20, "Q3_K": 30, "Q4_K": 40, "Q6_K": 60, "Q8_0": 80}


def problem(*scales: float) -> Problem:
    """Tensors whose damage falls by four with every 10 bytes, from a scale of their own."""
    items = [
        Item(f"t{i}", tuple(Choice(t, s, scale * 4.0 ** (-s / 10)) for t, s in SIZES.items()))
        for i, scale in enumerate(scales)
    ]
    return Problem(tuple(items), 0)


def test_moves_are_the_neighbours_whose_price_is_near() -> None:
    asked = problem(1.0, 1.1, 1e6)
    solved = solve_exact(asked, 40 + 40 + 80)
    moves = boundary(asked, solved.types, most=10)
    assert {m.name for m in moves} == {"t0", "t1"}
    assert {(m.before, m.after) for m in moves} <= {("Q4_K", "Q3_K"), ("Q4_K", "Q6_K")}
    for move in moves:
        assert (move.n_bytes > 0) == (move.predicted < 0)
    assert len(boundary(asked, solved.types, most=1)) == 1


def test_a_type_that_is_larger_and_no_better_is_no_move() -> None:
    choices = (
        Choice("Q4_K", 40, 1.0),
        Choice("Q4_1", 50, 1.2),
        Choice("Q5_K", 55, 0.5),
        Choice("Q3_K", 30, 2.0),
    )
    asked = Problem((Item("t", choices), Item("u", choices)), 0)
    found = boundary(asked, {"t": "Q4_K", "u": "Q4_K"}, most=10)
    assert {m.after for m in found} == {"Q5_K", "Q3_K"}


def test_at_the_end_of_the_types_there_is_nothing_to_weigh() -> None:
    asked = problem(1.0, 1.0)
    assert boundary(asked, {"t0": "Q8_0", "t1": "Q8_0"}, most=5) == []


def test_changes_are_paired() -> None:
    rng = np.random.default_rng(1)
    base = rng.gamma(2.0, 1.0, 16)
    found = change(base + 0.01 + rng.normal(0, 1e-3, 16), base)
    assert found.mean == pytest.approx(0.01, abs=1e-3)
    assert found.error < 1e-3
    assert math.isinf(change(base[:1], base[:1]).error)


def moves(*predicted: float) -> list[Move]:
    return [Move(f"t{i}", "Q4_K", "Q3_K", -10, p) for i, p in enumerate(predicted)]


def test_what_is_known_exactly_is_believed_and_what_is_not_is_predicted() -> None:
    asked = moves(0.01, 0.02, 0.03)
    sure = [Measured(v, 1e-9) for v in (0.02, 0.01, 0.03)]
    assert posterior(asked, sure) == pytest.approx([0.02, 0.01, 0.03], rel=1e-4)
    unsure = [Measured(m.predicted, 1.0) for m in asked]
    assert posterior(asked, unsure) == pytest.approx([0.01, 0.02, 0.03], rel=1e-4)


def test_a_common_factor_is_taken_from_all() -> None:
    asked = moves(*np.linspace(0.01, 0.03, 30))
    found = posterior(asked, [Measured(1.2 * m.predicted, 0.02) for m in asked])
    assert found == pytest.approx([1.2 * m.predicted for m in asked], rel=1e-6)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.floats(1e-6, 1e-1))
def test_belief_lies_between_prediction_and_measurement(predicted: list[float], error: float) -> None:
    asked = moves(*predicted)
    rng = np.random.default_rng(len(predicted))
    measured = [Measured(p * rng.uniform(0.5, 1.5), error) for p in predicted]
    weight = sum((p / error) ** 2 for p in predicted)
    slope = sum(p * m.mean / error**2 for p, m in zip(predicted, measured, strict=True)) / weight
    for p, m, b in zip(predicted, measured, posterior(asked, measured), strict=True):
        low, high = sorted((slope * p, m.mean))
        assert low - 1e-12 <= b <= high + 1e-12


def test_the_near_problem_offers_what_was_measured_and_the_solver_takes_it() -> None:
    asked = problem(1.0, 1.0)
    types = {"t0": "Q4_K", "t1": "Q4_K"}
    own = {c.qtype: c.damage for c in asked.items[0].choices}
    steps = [
        Move("t0", "Q4_K", "Q3_K", -10, own["Q3_K"] - own["Q4_K"]),
        Move("t1", "Q4_K", "Q6_K", 20, own["Q6_K"] - own["Q4_K"]),
    ]
    # What the probes said was wrong: t0 loses nothing at Q3_K, t1 gains much at Q6_K.
    near = near_problem(asked, types, steps, [1e-9, -0.9 * own["Q4_K"]])
    assert [len(i.choices) for i in near.items] == [2, 2]
    assert solve_exact(near, 90).types == {"t0": "Q3_K", "t1": "Q6_K"}
    assert solve_exact(near, 80).types == types or solve_exact(near, 80).size_bytes <= 80
