"""The damage table: scaled from what was measured, never free, never falling as the error grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.errors import MQNativeError, NonFiniteError, UnsupportedTypeError
from mqnative.predict.damage import (
    Anchor,
    Damage,
    TensorCurve,
    damage_table,
    kld_floor,
    role_of,
)
from mqnative.predict.link import Total, head_shares, total_of

ERRORS = {"BF16": 0.0, "Q8_0": 1e-4, "Q6_K": 4e-4, "Q4_K": 6e-3, "Q3_K": 2.5e-2, "Q2_K": 8e-2}


def curve(
    name: str = "blk.0.attn_v.weight",
    *anchors: Anchor,
    errors: Mapping[str, float] = ERRORS,
    n_weights: int = 1000,
    energy: float = 1.0,
    source_type: str | None = "BF16",
) -> TensorCurve:
    return TensorCurve(name, errors, anchors, n_weights, energy, source_type)


def sure(qtype: str, kld: float) -> Anchor:
    """A measurement far from nothing."""
    return Anchor(qtype, kld, (kld / 10) ** 2)


# --- a measured tensor ---


def test_every_type_is_scaled_by_its_error() -> None:
    table = damage_table([curve("t", sure("Q3_K", 0.01))])
    for qtype, error in ERRORS.items():
        assert table["t"][qtype].mean == pytest.approx(0.01 * error / 2.5e-2, rel=1e-12)
    assert (table.unknown, table.floored) == ((), ())


def test_exponent_bends_the_curve() -> None:
    table = damage_table([curve("t", sure("Q3_K", 0.01))], exponent=1.2)
    assert table["t"]["Q4_K"].mean == pytest.approx(0.01 * (6e-3 / 2.5e-2) ** 1.2, rel=1e-12)


def test_source_type_costs_nothing_even_if_it_was_not_swept() -> None:
    errors = {t: e for t, e in ERRORS.items() if t != "BF16"}
    table = damage_table([curve("t", sure("Q3_K", 0.01), errors=errors)])
    assert table["t"]["BF16"] == Damage(0.0, 0.0)


def test_type_without_error_costs_nothing() -> None:
    table = damage_table([curve("t", sure("Q3_K", 0.01), source_type=None)])
    assert table["t"]["BF16"] == Damage(0.0, 0.0)


def test_measured_types_keep_their_measurement() -> None:
    anchors = (sure("Q6_K", 1e-4), sure("Q3_K", 0.01), sure("Q2_K", 0.05))
    table = damage_table([curve("t", *anchors)])
    for anchor in anchors:
        assert table["t"][anchor.qtype] == Damage(anchor.kld, anchor.variance)


def test_the_nearest_anchor_decides_outside_and_the_curve_through_both_between_them() -> None:
    errors = {"Q2_K": 1e-1, "Q3_K": 2.9e-2, "Q4_K": 1e-2, "Q6_K": 1e-3, "Q8_0": 1e-5}
    table = damage_table([curve("t", sure("Q2_K", 0.16), sure("Q6_K", 1e-4), errors=errors)])["t"]
    # a e + b e^5 through both, errors in units of Q6_K's: 1e-4 = a + b and 0.16 = 100 a + 1e10 b.
    b = (0.16 - 0.01) / (1e10 - 100)
    assert table["Q4_K"].mean == pytest.approx((1e-4 - b) * 10 + b * 1e5, rel=1e-9)
    assert table["Q3_K"].mean == pytest.approx((1e-4 - b) * 29 + b * 29**5, rel=1e-9)
    assert table["Q8_0"].mean == pytest.approx(1e-4 * 1e-2)
    one_sided = damage_table([curve("t", sure("Q6_K", 1e-4), errors=errors)])["t"]
    assert one_sided["Q4_K"].mean == pytest.approx(1e-3)
    assert table["Q4_K"].variance < one_sided["Q4_K"].variance * (table["Q4_K"].mean / 1e-3) ** 2


@pytest.mark.parametrize("ends", [(1e-3, 3e-3), (1e-3, 1e-3 * 10**6)])
def test_where_two_anchors_rise_slower_or_faster_the_power_law_holds(ends: tuple[float, float]) -> None:
    errors = {"A": 1e-3, "B": 3e-3, "C": 1e-2}
    table = damage_table([curve("t", sure("A", ends[0]), sure("C", ends[1]), errors=errors)])["t"]
    share = math.log(3) / math.log(10)
    assert table["B"].mean == pytest.approx(ends[0] * (ends[1] / ends[0]) ** share)


@given(st.floats(-4, 8), st.floats(0.01, 0.99))
def test_between_two_anchors_damage_rises_and_is_continuous_in_them(rise: float, share: float) -> None:
    def at(slope: float) -> float:
        errors = {"A": 1e-3, "B": 1e-3 * 10**share, "C": 1e-2}
        anchors = (sure("A", 1e-3), sure("C", 1e-3 * 10**slope))
        return damage_table([curve("t", *anchors, errors=errors)])["t"]["B"].mean

    slope = abs(rise)
    assert 1e-3 * (1 - 1e-9) <= at(slope) <= 1e-3 * 10**slope * (1 + 1e-9)
    assert at(slope + 1e-6) == pytest.approx(at(slope), rel=1e-4)


def test_between_anchors_damage_stays_between_theirs() -> None:
    errors = {"A": 1e-3, "B": 9e-3, "C": 1.2e-2, "D": 1e-1}
    table = damage_table([curve("t", sure("A", 0.010), sure("D", 0.012), errors=errors)])["t"]
    assert 0.010 == table["A"].mean < table["B"].mean < table["C"].mean < table["D"].mean == 0.012


def test_certain_anchors_keep_what_they_measured_and_noisy_ones_are_pooled() -> None:
    certain = (Anchor("Q4_K", 0.012, 1e-8), Anchor("Q3_K", 0.009, 2e-8))
    table = damage_table([curve("t", *certain)])["t"]
    assert (table["Q4_K"].mean, table["Q3_K"].mean) == (0.012, 0.009)
    noisy = (Anchor("Q4_K", 0.012, 1e-4), Anchor("Q3_K", 0.009, 2e-4))
    table = damage_table([curve("t", *noisy)])["t"]
    pooled = (0.012 * 2 + 0.009) / 3
    assert (table["Q4_K"].mean, table["Q3_K"].mean) == pytest.approx((pooled, pooled))


def test_uncertainty_grows_with_the_distance_from_the_anchor() -> None:
    table = damage_table([curve("t", sure("Q3_K", 0.01))])["t"]
    relative = {q: math.sqrt(d.variance) / d.mean for q, d in table.items() if d.mean}
    assert relative["Q3_K"] == pytest.approx(0.1)
    distance = math.log(8e-2 / 2.5e-2)
    assert relative["Q2_K"] == pytest.approx(math.hypot(0.1, 0.09 * distance))
    assert relative["Q3_K"] < relative["Q2_K"] < relative["Q4_K"] < relative["Q6_K"] < relative["Q8_0"]


# --- measurements that say nothing ---


def role(*ratios: float, energy: float = 2.0) -> list[TensorCurve]:
    """Tensors of one role, measured for certain, with these KLDs per absolute error."""
    return [
        curve(f"blk.{i}.attn_v.weight", sure("Q3_K", r * energy * ERRORS["Q3_K"]), energy=energy)
        for i, r in enumerate(ratios)
    ]


@pytest.mark.parametrize("kld", [0.0, -1e-8, 1e-7])
@pytest.mark.parametrize("variance", [0.0, 1e-12])
def test_noisy_nothing_is_raised_to_a_tenth_of_its_role(kld: float, variance: float) -> None:
    if kld > 0 and variance == 0:
        variance = kld**2
    noisy = curve("blk.9.attn_v.weight", Anchor("Q3_K", kld, variance), energy=4.0)
    other = curve("blk.0.ffn_up.weight", sure("Q3_K", 100.0), energy=1.0)
    table = damage_table([*role(0.1, 0.3, 0.2), noisy, other])
    expected = 0.1 * 0.2 * 4.0 * ERRORS["Q3_K"]
    assert table[noisy.name]["Q3_K"] == Damage(pytest.approx(expected), pytest.approx(expected**2))
    assert table[noisy.name]["Q2_K"].mean == pytest.approx(expected * ERRORS["Q2_K"] / ERRORS["Q3_K"])
    assert table.floored == (noisy.name,)


def test_uncertain_measurement_above_the_floor_stays() -> None:
    uncertain = curve("blk.9.attn_v.weight", Anchor("Q3_K", 1e-3, 1e-6), energy=2.0)
    table = damage_table([*role(0.1, 0.1, 0.1), uncertain])
    assert table[uncertain.name]["Q3_K"].mean == 1e-3
    assert table.floored == ()


def test_certain_measurement_below_the_floor_stays() -> None:
    robust = curve("blk.9.attn_v.weight", sure("Q3_K", 1e-6), energy=2.0)
    table = damage_table([*role(0.1, 0.1, 0.1), robust])
    assert table[robust.name]["Q3_K"].mean == 1e-6


def test_role_without_a_sure_measurement_takes_the_models() -> None:
    lonely = curve("output.weight", Anchor("Q3_K", 0.0, 0.0), energy=3.0)
    table = damage_table([*role(0.1, 0.4, 0.2), lonely])
    assert table["output.weight"]["Q3_K"].mean == pytest.approx(0.1 * 0.2 * 3.0 * ERRORS["Q3_K"])


def test_model_that_shows_no_damage_at_all_still_has_some() -> None:
    table = damage_table([curve(f"blk.{i}.x.weight", Anchor("Q3_K", 0.0, 0.0)) for i in range(3)])
    assert all(0 < d.mean < 1e-7 for t in table.values() for q, d in t.items() if q != "BF16")
    assert len(table.floored) == 3


def test_floor_scales_with_energy_error_and_exponent() -> None:
    tensor = curve("t", sure("Q3_K", 0.1), energy=5.0)
    assert kld_floor(tensor, "Q3_K", 0.4) == pytest.approx(0.1 * 0.4 * 5.0 * 2.5e-2)
    assert kld_floor(tensor, "Q3_K", 0.4, 2.0) == pytest.approx(0.1 * 0.4 * 5.0 * 2.5e-2**2)
    assert kld_floor(tensor, "Q3_K", None) > 0


# --- tensors that were never run ---


def test_unknown_tensor_gets_its_roles_median_per_weight() -> None:
    known = role(0.1, 0.2, 0.6)
    big = curve("blk.7.attn_v.weight", n_weights=3000)
    other = curve("blk.0.ffn_up.weight", sure("Q3_K", 10.0))
    table = damage_table([big, *known, other])
    for qtype in ("Q8_0", "Q3_K", "Q2_K"):
        expected = 3000 * median(table[c.name][qtype].mean / 1000 for c in known)
        assert table[big.name][qtype].mean == pytest.approx(expected)
        assert table[big.name][qtype].variance == pytest.approx(expected**2)
    assert table[big.name]["BF16"] == Damage(0.0, 0.0)
    assert table.unknown == (big.name,)
    assert list(table) == [big.name, *(c.name for c in known), other.name]


def test_errors_of_zero_everywhere_mean_not_measured_rather_than_free() -> None:
    # What the sweep reports of an expert that no token was routed to.
    nothing = dict.fromkeys(ERRORS, 0.0)
    dead = curve("blk.7.attn_v.weight", Anchor("Q3_K", 0.0, 0.0), errors=nothing)
    table = damage_table([*role(0.1, 0.2, 0.6), dead])
    assert table.unknown == (dead.name,)
    assert [q for q, d in table[dead.name].items() if d.mean == 0] == ["BF16"]
    assert table[dead.name]["Q3_K"].mean > table[dead.name]["Q8_0"].mean
    unnamed = curve("blk.8.attn_v.weight", errors=nothing, source_type=None)
    assert all(
        d.mean > 0 for q, d in damage_table([*role(0.1), unnamed])[unnamed.name].items() if q != "BF16"
    )


def test_unknown_type_of_an_unknown_tensor_costs_the_worst() -> None:
    strange = curve("blk.7.attn_v.weight", errors={"TQ1_0": 0.0})
    table = damage_table([*role(0.1, 0.2), strange])
    worst = max(d.mean for c in role(0.1, 0.2) for d in table[c.name].values())
    assert table[strange.name]["TQ1_0"].mean == pytest.approx(worst)


def test_unknown_role_takes_the_models_median() -> None:
    known = role(0.1, 0.2, 0.6)
    table = damage_table([*known, curve("mtp.weight")])
    assert table["mtp.weight"]["Q3_K"].mean == pytest.approx(table[known[1].name]["Q3_K"].mean)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.12.attn_v.weight", "attn_v.weight"),
        ("v.blk.3.ffn_up.weight", "v.ffn_up.weight"),
        ("token_embd.weight", "token_embd.weight"),
        ("blk.0.blk_scale", "blk_scale"),
    ],
)
def test_role_is_the_name_without_its_block(name: str, expected: str) -> None:
    assert role_of(name) == expected


# --- mixes ---


def test_a_mix_is_the_sum_of_its_tensors_and_what_they_do_to_each_other() -> None:
    damages = {"a": Damage(0.03, 1e-6), "b": Damage(0.02, 4e-6), "output.weight": Damage(0.5, 1e-5)}
    total = total_of(damages, {"output.weight": 1.0})
    assert (total.mean, total.variance) == (pytest.approx(0.55), pytest.approx(1.5e-5))
    assert total.interaction == pytest.approx(0.03 * 0.02**0.75 + 0.02 * 0.03**0.75)
    assert total.body == pytest.approx(0.05)
    alone = total_of({"a": Damage(0.03, 1e-6)}, {})
    assert alone == Total(0.03, 1e-6, 0.0, 0.03)
    assert total_of({}, {}) == Total(0.0, 0.0, 0.0, 0.0)


@given(st.lists(st.just(0.0) | st.floats(1e-9, 5.0), max_size=8), st.randoms(use_true_random=False))
def test_interaction_needs_two_and_no_order(klds: list[float], random: Random) -> None:
    damages = [(str(i), Damage(k, 0.0)) for i, k in enumerate(klds)]
    total = total_of(dict(damages), {})
    random.shuffle(damages)
    assert total_of(dict(damages), {}) == total
    assert (total.interaction > 0) == (sum(k > 0 for k in klds) > 1)


def test_the_head_and_half_of_a_tied_embedding_stand_alone() -> None:
    assert head_shares(["token_embd.weight", "output.weight"]) == {"output.weight": 1.0}
    assert head_shares(["token_embd.weight", "x"], 0.25) == {"token_embd.weight": 0.75}
    assert head_shares(["x"]) == {}
    damages = {"token_embd.weight": Damage(0.4, 0.0), "x": Damage(0.1, 0.0)}
    total = total_of(damages, {"token_embd.weight": 0.75})
    assert total.mean == pytest.approx(0.5)
    assert total.interaction == pytest.approx(0.1 * 0.1**0.75 * 2)


# --- what is refused ---


def test_model_without_measurements_is_refused() -> None:
    with pytest.raises(MQNativeError, match="probe the model"):
        damage_table([curve("t")])
    assert dict(damage_table([])) == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_figures_that_are_no_numbers_are_refused(bad: float) -> None:
    for make in (
        lambda: curve("t", errors={"Q4_K": bad}),
        lambda: curve("t", Anchor("Q4_K", bad, 0.0)),
        lambda: curve("t", Anchor("Q4_K", 0.1, bad)),
        lambda: curve("t", energy=bad),
    ):
        with pytest.raises(NonFiniteError) as error:
            make()
        assert error.value.tensor == "t"


def test_anchor_at_a_type_without_an_error_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError) as error:
        curve("t", Anchor("IQ1_S", 0.1, 0.0))
    assert (error.value.tensor, error.value.qtype) == ("t", "IQ1_S")


def test_contradictory_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        curve("t", errors={"Q4_K": -0.1})
    with pytest.raises(ValueError, match="measured once"):
        curve("t", sure("Q4_K", 0.1), sure("Q4_K", 0.2))
    with pytest.raises(ValueError, match="one weight"):
        curve("t", n_weights=0)
    with pytest.raises(ValueError, match="each tensor once"):
        damage_table([curve("t", sure("Q4_K", 0.1)), curve("t", sure("Q4_K", 0.1))])


# --- properties ---

TYPES = ("A", "B", "C", "D", "E", "F")
positive = st.floats(1e-9, 10.0)


@st.composite
def curves(draw: st.DrawFn) -> list[TensorCurve]:
    made = []
    for i in range(draw(st.integers(1, 6))):
        errors = draw(st.dictionaries(st.sampled_from(TYPES), st.just(0.0) | positive, min_size=1))
        measured = draw(st.lists(st.sampled_from(sorted(errors)), unique=True, max_size=3))
        klds = st.floats(-1e-8, 1.0)
        anchors = tuple(Anchor(q, draw(klds), draw(st.just(0.0) | st.floats(1e-18, 1e-2))) for q in measured)
        made.append(
            TensorCurve(
                f"blk.{i}.{draw(st.sampled_from('xy'))}.weight",
                errors,
                anchors,
                draw(st.integers(1, 10**9)),
                draw(st.just(0.0) | positive),
                draw(st.sampled_from([None, "A", "BF16"])),
            )
        )
    return made


@settings(max_examples=300)
@given(curves(), st.sampled_from([0.8, 1.0, 1.3]))
def test_nothing_that_changes_is_free_and_damage_never_falls_with_the_error(
    made: list[TensorCurve], exponent: float
) -> None:
    if not any(c.usable_anchors for c in made):
        return
    table = damage_table(made, exponent=exponent)
    assert list(table) == [c.name for c in made]
    for c in made:
        damages = table[c.name]
        assert set(damages) == set(c.errors) | ({c.source_type} - {None})
        changed = [q for q in c.errors if not c.is_exact(q)]
        for qtype, damage in damages.items():
            assert math.isfinite(damage.mean)
            assert math.isfinite(damage.variance)
            assert damage.variance >= 0
            assert (damage.mean > 0) == (qtype in changed)
        # What was measured is believed; of the other types, none is below any of less error.
        measured = {a.qtype for a in c.usable_anchors}
        by_error = sorted(changed, key=lambda q: (c.errors[q], damages[q].mean))
        for i, q in enumerate(by_error):
            if q not in measured:
                assert damages[q].mean >= max(damages[r].mean for r in by_error[: i + 1])
        assert (c.name in table.unknown) == (not c.usable_anchors)


@given(curves(), st.randoms(use_true_random=False))
def test_order_of_tensors_and_types_decides_nothing(made: list[TensorCurve], random: Random) -> None:
    if not any(c.usable_anchors for c in made):
        return
    shuffled = []
    for c in made:
        errors, anchors = list(c.errors.items()), list(c.anchors)
        random.shuffle(errors)
        random.shuffle(anchors)
        shuffled.append(
            TensorCurve(c.name, dict(errors), tuple(anchors), c.n_weights, c.energy, c.source_type)
        )
    random.shuffle(shuffled)
    assert dict(damage_table(shuffled)) == dict(damage_table(made))
