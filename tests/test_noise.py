"""What a probe measures besides the loss of weights is told apart from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.formats.qtypes import all_types
from mqnative.predict.curve import Anchor, Damage, TensorCurve
from mqnative.predict.noise import (
    LOSSLESS,
    Noise,
    activation_format,
    floors,
    noise_of,
    with_activations,
    without_noise,
)

ERRORS = {"Q8_0": 1e-4, "Q6_K": 4e-4, "Q5_0": 2e-3, "Q4_K": 6e-3, "Q3_K": 2.5e-2, "F16": 1e-9}
small = st.floats(0, 1e-4)


def measured(
    per_error: float, floor: float, activations: dict[str, float], *types: str
) -> tuple[TensorCurve, tuple[Anchor, ...]]:
    """What probes of a tensor read that loses ``per_error`` per weight error, and its lossless ones."""

    def anchor(name: str) -> Anchor:
        kld = floor + activations.get(activation_format(name) or "", 0.0) + per_error * ERRORS[name]
        return Anchor(name, kld, 1e-18)

    lossless = tuple(anchor(t) for t in types if t in LOSSLESS.values())
    lossy = tuple(anchor(t) for t in types if t not in LOSSLESS.values())
    return TensorCurve("blk.0.attn_v.weight", ERRORS, lossy, 1000), lossless


def test_formats_are_those_of_the_kernels() -> None:
    formats = {name: activation_format(name) for name in all_types()}
    assert formats["Q4_K"] == formats["IQ2_XXS"] == "Q8_K"
    assert formats["Q4_0"] == formats["Q5_1"] == formats["Q8_0"] == "Q8_0"
    assert formats["F16"] is formats["BF16"] is formats["F32"] is None
    for name, standing_for in LOSSLESS.items():
        assert activation_format(standing_for) == name


@given(st.floats(1e-3, 10), small, small, small)
def test_every_part_is_found_again(per_error: float, floor: float, k: float, legacy: float) -> None:
    curve, lossless = measured(per_error, floor, {"Q8_K": k, "Q8_0": legacy}, "Q3_K", "Q6_K", "Q8_0")
    noise = noise_of(curve, floor, lossless)
    assert noise.activations["Q8_K"] == pytest.approx(k, abs=1e-12)
    assert noise.activations["Q8_0"] == pytest.approx(legacy, abs=1e-9)
    left = without_noise(curve, noise).anchors[0].kld
    assert left == pytest.approx(per_error * ERRORS["Q3_K"], rel=1e-6)


def test_the_floor_is_what_a_lossless_copy_still_measures() -> None:
    curve, lossless = measured(0.1, 2e-5, {}, "Q3_K", "Q8_0")
    found = floors({curve.name: curve}, {curve.name: lossless})
    # Of the lossy probe the floor is scaled along, which is 0.4 % of it here.
    assert found[curve.name] == pytest.approx(2e-5, rel=5e-3)


def test_a_floor_is_never_negative() -> None:
    curve, _ = measured(0.1, 0.0, {}, "Q3_K")
    assert floors({curve.name: curve}, {curve.name: (Anchor("Q8_0", -1e-9, 0.0),)}) == {curve.name: 0.0}
    assert noise_of(curve, 0.0, (Anchor("Q8_0", -1e-9, 0.0),)).activations == {"Q8_0": 0.0}


def test_without_lossless_probes_only_the_floor_goes() -> None:
    curve, _ = measured(0.1, 1e-5, {"Q8_K": 2e-5}, "Q3_K")
    noise = noise_of(curve, 1e-5, ())
    assert noise == Noise(1e-5)
    assert without_noise(curve, noise).anchors[0].kld == pytest.approx(0.1 * 2.5e-2 + 2e-5, rel=1e-9)


def test_floats_multiply_no_quantized_activations() -> None:
    damages = dict.fromkeys(("F16", "Q6_K", "Q8_0"), Damage(1e-3, 1e-8))
    found = with_activations(damages, Noise(0.0, {"Q8_K": 2e-3, "Q8_0": 1e-3}))
    assert {t: d.mean for t, d in found.items()} == pytest.approx({"F16": 1e-3, "Q6_K": 3e-3, "Q8_0": 2e-3})
    assert {d.variance for d in found.values()} == {1e-8}
