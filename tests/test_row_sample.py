"""Totals of tensors from samples of their rows: exact where they can be, honest where they cannot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mqnative.measure.row_sample import Regression, RowOrder, Total, rows_needed
from mqnative.measure.uncertainty import student_t95

Floats = npt.NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def regression_total(y: Floats, known: Floats, known_sums: Floats, n_total: int) -> Total:
    return Regression(known, known_sums, n_total).total(y)


@given(st.integers(1, 6), st.integers(1, 40), seeds)
def test_an_order_has_every_row_once(n_slices: int, n_rows: int, seed: int) -> None:
    energies = np.random.default_rng(seed).pareto(1.5, n_slices * n_rows)
    order = RowOrder.of(energies[None], n_slices, seed)
    assert sorted([*order.certain, *order.rest]) == list(range(n_slices * n_rows))
    assert len(order.certain) <= len(energies) / 8
    again = RowOrder.of(energies[None], n_slices, seed)
    assert np.array_equal(again.rest, order.rest)


def test_unusual_rows_are_certain_and_the_most_unusual_come_first() -> None:
    energies = np.ones(800)
    energies[[5, 700]] = 1000.0, 2000.0
    assert RowOrder.of(energies[None], 1, 1).certain.tolist() == [5, 700]
    # Of 120 rows above three times the mean, an eighth of all 800 rows is taken.
    many = np.zeros(800)
    many[:120] = 1000.0 + np.arange(120)
    assert RowOrder.of(many[None], 1, 1).certain.tolist() == list(range(20, 120))


def test_a_row_unusual_in_any_figure_is_certain() -> None:
    known = np.ones((3, 400))
    known[0, 7], known[2, 11] = 50.0, 40.0
    assert RowOrder.of(known, 1, 1).certain.tolist() == [7, 11]
    known[1] = 0.0
    assert RowOrder.of(known, 1, 1).certain.tolist() == [7, 11]


@pytest.mark.parametrize("n_slices", [1, 2, 8, 128])
def test_any_beginning_samples_all_experts_alike(n_slices: int) -> None:
    order = RowOrder.of(np.ones((1, n_slices * 12)), n_slices, 7)
    for n in range(n_slices, 12 * n_slices + 1, n_slices):
        counts = np.bincount(order.rest[:n] // 12, minlength=n_slices)
        assert counts.min() == counts.max()


def test_fewer_rows_than_experts_are_from_random_experts() -> None:
    firsts = [set(RowOrder.of(np.ones((1, 128 * 4)), 128, seed).rest[:8] // 4) for seed in range(40)]
    assert all(len(f) == 8 for f in firsts)
    assert len(set().union(*firsts)) > 100


@given(seeds, st.integers(5, 50))
def test_what_is_linear_in_the_known_is_known_exactly(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.pareto(2, (200, 2)) + 0.1
    y = 3.0 + known @ [2.0, 0.5]
    total = regression_total(y[:n], known[:n], known.sum(axis=0), 200)
    assert total.value == pytest.approx(y.sum(), rel=1e-9)
    assert total.half_width == pytest.approx(0, abs=1e-6 * y.sum())


def test_every_row_leaves_no_doubt() -> None:
    y = np.array([1.0, 5.0, 0.25])
    total = regression_total(y, y[:, None], y.sum()[None], 3)
    assert (total.value, total.half_width) == (6.25, 0.0)


def test_too_few_rows_leave_every_doubt() -> None:
    one = regression_total(np.array([2.0]), np.ones((1, 1)), np.array([9.0]), 9)
    assert (one.value, one.half_width) == (18.0, np.inf)
    two = regression_total(np.array([1.0, 2.0]), np.array([[1.0], [3.0]]), np.array([9.0]), 9)
    assert two.half_width == np.inf
    assert regression_total(np.zeros(0), np.zeros((0, 1)), np.array([9.0]), 9).half_width == np.inf


def test_figures_that_are_zero_everywhere_are_left_out() -> None:
    y = np.array([1.0, 2.0, 4.0, 3.0])
    plain = regression_total(y, np.ones((4, 0)), np.zeros(0), 40)
    padded = regression_total(y, np.zeros((4, 2)), np.zeros(2), 40)
    assert plain == padded
    assert plain.value == pytest.approx(25.0 * 4)


@pytest.mark.parametrize("degrees", [8, 10, 28, 60, 1000])
def test_the_quantile_is_students(degrees: int) -> None:
    assert student_t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)


@pytest.mark.parametrize("n", [32, 100, 300])
@pytest.mark.parametrize("shape", [1.0, 4.0])
def test_intervals_cover_the_truth_as_often_as_they_say(n: int, shape: float) -> None:
    """400 samples of a skewed population whose errors grow with their energy."""
    rng = np.random.default_rng([n, int(shape)])
    energy = rng.gamma(shape, 1.0, 1000)
    y = energy * rng.gamma(20.0, 0.05, 1000)
    covered = 0
    for seed in range(400):
        rows = RowOrder.of(energy[None], 1, seed)
        sample = rows.rest[:n]
        found = regression_total(
            y[sample], energy[sample, None], energy[rows.rest].sum()[None], len(rows.rest)
        )
        covered += abs(found.value - y[rows.rest].sum()) <= found.half_width
    assert 0.92 <= covered / 400 <= 0.98


def test_the_rows_needed_give_the_width_wanted() -> None:
    assert rows_needed(0.01, 0.02, 50, 1000) == 50
    assert rows_needed(np.inf, 0.02, 2, 1000) == 1000
    # Without end, half the width takes four times the rows.
    assert rows_needed(0.04, 0.02, 50, 10**9) == pytest.approx(200, abs=1)
    for n_total in (100, 400, 5000):
        n = rows_needed(0.08, 0.02, 40, n_total)

        def width(rows: int, n_total: int = n_total) -> float:
            return float(np.sqrt((1 - rows / n_total) / rows))

        assert width(n) / width(40) <= 0.25
        assert width(n - 1) / width(40) > 0.25
