"""The link from the sum of damages to the KLD of a mix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.predict.curve import Damage
from mqnative.predict.link import IDENTITY, UNFITTED, Link, Total, fit_link, head_shares, total_of

sums = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12)


def totals(x: list[float], share: float = 0.0) -> list[Total]:
    """Mixes with these sums, and a share of each as interaction."""
    return [Total(v, 0.0, share * v) for v in x]


def made_by(link: Link, mixes: list[Total]) -> list[float]:
    return [link.apply(t).mean for t in mixes]


def test_the_identity_changes_nothing() -> None:
    assert IDENTITY.apply(Total(0.3, 0.2, 0.1)) == Damage(0.3, 0.2)
    assert UNFITTED.apply(Total(0.0, 0.0)) == Damage(0.0, 0.0)


def test_a_link_adds_the_interaction_and_its_doubt() -> None:
    linked = Link(1.1, 2.0, 0.05).apply(Total(0.1, 1e-6, 0.02))
    assert linked.mean == pytest.approx(1.1 * (0.1 + 2.0 * 0.02))
    slope = 1.1 * (0.1 + 1.75 * 0.04) / 0.1
    doubt = 0.3 * 1.1 * 0.04
    assert linked.variance == pytest.approx(slope**2 * 1e-6 + doubt**2 + (0.05 * linked.mean) ** 2)


def test_a_bodys_weight_is_what_a_little_more_of_it_adds() -> None:
    parts = {f"blk.{i}.x": Damage(0.01, 0.0) for i in range(40)} | {"output.weight": Damage(0.3, 0.0)}
    more = {n: Damage(d.mean * (1 if n == "output.weight" else 1.001), 0.0) for n, d in parts.items()}
    heads = head_shares(parts)
    before, after = total_of(parts, heads), total_of(more, heads)
    added = UNFITTED.apply(after).mean - UNFITTED.apply(before).mean
    assert UNFITTED.body_weight(before) == pytest.approx(added / (after.body - before.body), rel=1e-3)
    assert IDENTITY.body_weight(before) == 1.0
    assert UNFITTED.body_weight(Total(0.3, 0.0)) == 1.0


def test_coupling_and_scale_of_many_mixes_are_found() -> None:
    truth = Link(1.04, 2.6)
    mixes = [Total(s, 0.0, s * i) for s in (0.01, 0.1, 0.5) for i in np.linspace(0, 0.6, 12)]
    found = fit_link(mixes, made_by(truth, mixes))
    assert found.scale == pytest.approx(truth.scale, rel=0.02)
    assert found.coupling == pytest.approx(truth.coupling, rel=0.05)
    assert found.spread == 0.03


def test_without_interaction_the_coupling_stays_the_usual_one() -> None:
    x = [0.001, 0.002, 0.004, 0.02]
    link = fit_link(totals(x), x)
    assert (link.scale, link.coupling) == (pytest.approx(1.0), pytest.approx(UNFITTED.coupling))
    assert 0.02 < link.spread < 0.1


def test_a_common_factor_is_learned_in_part_and_nothing_measured_is_unsure() -> None:
    x = list(np.linspace(0.01, 0.03, 8))
    assert 1.01 < fit_link(totals(x), [1.05 * v for v in x]).scale < 1.05
    # Far from the usual one the mixes have their way.
    assert fit_link(totals(x), [0.4 * v for v in x]).scale == pytest.approx(0.4, rel=0.05)
    assert fit_link([], []) == UNFITTED
    assert fit_link(totals([0.0]), [0.1]) == UNFITTED
    assert UNFITTED.apply(Total(1.0, 0.0)).variance == pytest.approx(0.01)


@given(sums)
def test_the_link_rises_and_what_scatters_widens_the_interval(x: list[float]) -> None:
    rng = np.random.default_rng(len(x))
    mixes = totals(x, 0.1)
    link = fit_link(mixes, list(np.array(x) * np.exp(rng.normal(0, 0.3, len(x)))))
    assert link.apply(Total(0.02, 0.0, 0.01)).mean > link.apply(Total(0.01, 0.0, 0.005)).mean > 0
    assert link.spread >= fit_link(mixes, made_by(UNFITTED, mixes)).spread * 0.999


@given(sums)
def test_order_does_not_matter(x: list[float]) -> None:
    y = [v * 1.1 for v in x]
    a, b = fit_link(totals(x, 0.2), y), fit_link(totals(x, 0.2)[::-1], y[::-1])
    assert math.isclose(a.scale, b.scale, rel_tol=1e-6)
    assert math.isclose(a.coupling, b.coupling, rel_tol=0.02)


@pytest.mark.parametrize(
    "wrong", [(0.0, 0.0, 0.0), (1.0, math.nan, 0.0), (1.0, 0.0, -1.0), (1.0, -0.1, 0.0), (math.inf, 0.0, 0.0)]
)
def test_a_link_that_is_none_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="scale"):
        Link(*wrong)
