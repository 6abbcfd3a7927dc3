"""The link from the sum of damages to the KLD of a mix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.predict.curve import Damage
from mqnative.predict.link import Link, fit_link

sums = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12)


def test_what_lies_on_the_line_keeps_it() -> None:
    x = np.array([0.001, 0.002, 0.004, 0.02])
    link = fit_link(list(x), list(x))
    assert (link.slope, link.intercept) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))
    assert 0.02 < link.spread < 0.1


def test_a_wide_range_shows_the_slope_and_a_narrow_one_does_not() -> None:
    wide = np.geomspace(1e-4, 1.0, 12)
    assert fit_link(list(wide), list(wide**1.2)).slope == pytest.approx(1.2, abs=0.01)
    narrow = np.geomspace(0.01, 0.0101, 4)
    assert fit_link(list(narrow), list(narrow**1.2)).slope == pytest.approx(1.0, abs=0.01)


def test_a_common_factor_is_learned_and_nothing_measured_is_unsure() -> None:
    x = [0.01, 0.02, 0.03]
    assert fit_link(x, [1.3 * v for v in x]).apply(Damage(0.02, 0.0)).mean == pytest.approx(0.026)
    nothing = fit_link([], [])
    assert (nothing.slope, nothing.intercept) == (1.0, 0.0)
    assert nothing.apply(Damage(1.0, 0.0)).variance == pytest.approx(0.01)


@given(sums)
def test_the_link_rises_and_what_scatters_widens_the_interval(x: list[float]) -> None:
    rng = np.random.default_rng(len(x))
    link = fit_link(x, list(np.array(x) * np.exp(rng.normal(0, 0.3, len(x)))))
    assert link.slope > 0
    assert link.apply(Damage(0.02, 0.0)).mean > link.apply(Damage(0.01, 0.0)).mean
    assert link.spread >= fit_link(x, x).spread * 0.999


@given(sums)
def test_order_does_not_matter(x: list[float]) -> None:
    y = [v * 1.1 for v in x]
    a, b = fit_link(x, y), fit_link(x[::-1], y[::-1])
    assert math.isclose(a.slope, b.slope, rel_tol=1e-9)
    assert math.isclose(a.intercept, b.intercept, rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize("wrong", [(0.0, 0.0, 0.0), (1.0, math.nan, 0.0), (1.0, 0.0, -1.0)])
def test_a_link_that_is_none_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="slope"):
        Link(*wrong)
