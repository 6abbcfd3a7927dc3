"""Warm starts: a sibling's damages scaled by what a few probes say, or dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.errors import ManifestError, ParityError
from mqnative.formats.groups import TensorName
from mqnative.formats.manifest import Manifest, Source
from mqnative.formats.recipe import Recipe
from mqnative.hybrids.mix_file import MixFile
from mqnative.jobs.warm import (
    MAX_SPREAD,
    Agreement,
    Prior,
    agreement,
    check_prior,
    prior_of,
    scaled,
    to_check,
)
from mqnative.predict.damage import Anchor, Damage

ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NAMES = ["token_embd.weight", "output.weight"] + [f"blk.{i}.{r}.weight" for i in range(8) for r in ROLES]


def anchors(kld: float = 0.01, relative: float = 0.0) -> dict[str, Anchor]:
    return {name: Anchor("Q3_K", kld, (relative * kld) ** 2) for name in NAMES}


@dataclass
class SomePlan:
    """The part of a plan that the check reads."""

    anchors: dict[str, str]


def manifest(evaluation: Any) -> MixFile:
    found = Manifest(
        "auto", Source("0" * 64), None, {}, {}, "m.gguf", "", 0, extra={"evaluation": evaluation}
    )
    return MixFile("manifest", "m.gguf", Recipe(), manifest=found)


def test_the_damage_table_of_a_manifest() -> None:
    curve = [
        {"type": "Q3_K", "damage": 0.02, "damage_ci95": [0.0, 0.04 - 0.0004], "measured": True},
        {"type": "Q8_0", "damage": 0.001, "damage_ci95": [0.0009, 0.0011], "measured": False},
        {"type": "Q4_K", "damage": None, "damage_ci95": [None, None], "measured": False},
    ]
    prior = prior_of(manifest({"tensors": [{"name": "a", "curve": curve}, {"name": "b", "curve": []}]}))
    assert set(prior.damages) == {"a"}
    assert set(prior.damages["a"]) == {"Q3_K", "Q8_0"}
    assert prior.damages["a"]["Q8_0"].variance == pytest.approx((0.0001 / 1.96) ** 2)
    # An interval that ends at zero was cut off there.
    assert prior.damages["a"]["Q3_K"].variance == pytest.approx((0.0196 / 1.96) ** 2)
    assert prior.measured == {"a": "Q3_K"}


@pytest.mark.parametrize(
    "evaluation",
    [None, [], {}, {"tensors": None}, {"tensors": [1]}, {"tensors": [{"name": "a", "curve": [{}, 3]}]}],
)
def test_a_manifest_without_damage_table_is_refused(evaluation: Any) -> None:
    with pytest.raises(ManifestError, match="no damage table"):
        prior_of(manifest(evaluation))
    with pytest.raises(ManifestError):
        prior_of(MixFile("recipe", "r.yaml", Recipe()))


def test_the_point_wanted_is_taken_else_the_measured_one_else_any() -> None:
    by_type = {"Q2_K": Damage(0.1, 0.0), "Q4_K": Damage(0.01, 0.0), "Q8_0": Damage(0.0, 0.0)}
    prior = Prior("m", {"a": by_type, "b": by_type, "c": by_type, "d": {}}, {"b": "Q4_K", "c": "Q3_K"})
    wanted = dict.fromkeys("abcd", "Q3_K") | {"a": "Q2_K"}
    known = dict.fromkeys("abcd", ("Q2_K", "Q4_K", "Q8_0"))
    found = prior.anchors(wanted, known)
    assert {name: a.qtype for name, a in found.items()} == {"a": "Q2_K", "b": "Q4_K", "c": "Q2_K"}
    assert prior.anchors({"a": "Q8_0"}, {"a": ("Q8_0",)}) == {}  # no damage is no prior


def test_few_tensors_of_all_roles_and_depths_are_checked() -> None:
    wanted = dict.fromkeys(NAMES, "Q3_K")
    chosen = to_check(anchors(), wanted)
    assert 6 <= len(chosen) <= len(NAMES) / 7 + 1
    assert len({TensorName.of(name).role for name in chosen}) == len(chosen)
    layers = {TensorName.of(name).block for name in chosen} - {None}
    assert len(layers) >= 4
    assert chosen == to_check(anchors(), wanted)


def test_tensors_without_prior_are_probed() -> None:
    prior = anchors()
    del prior["output.weight"]
    assert "output.weight" in to_check(prior, dict.fromkeys(NAMES, "Q3_K"))
    assert to_check({}, dict.fromkeys(NAMES, "Q3_K")) == NAMES
    assert to_check({"a": Anchor("Q3_K", 1.0, 0.0)}, {"a": "Q3_K"}) == ["a"]


@given(st.floats(0.2, 5.0), st.integers(0, 2**32 - 1))
def test_a_common_ratio_is_found_and_noise_is_no_spread(ratio: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prior = anchors(relative=0.03)
    own = {
        name: Anchor("Q3_K", a.kld * ratio * math.exp(rng.normal(0, 0.03)), (0.03 * a.kld * ratio) ** 2)
        for name, a in list(prior.items())[:30]
    }
    found = agreement(prior, own)
    assert found.ratio == pytest.approx(ratio, rel=0.05)
    assert found.spread < 0.05
    assert found.holds


def test_a_wide_spread_drops_the_prior() -> None:
    prior = anchors()
    rng = np.random.default_rng(1)
    own = {name: Anchor("Q3_K", a.kld * math.exp(rng.normal(0, 1.0)), 0.0) for name, a in prior.items()}
    found = agreement(prior, own)
    assert found.spread == pytest.approx(1.0, abs=0.2)
    assert not found.holds


def test_what_cannot_be_compared_does_not_count() -> None:
    own = {"token_embd.weight": Anchor("Q2_K", 0.1, 0.0), "output.weight": Anchor("Q3_K", 0.0, 0.0)}
    assert agreement(anchors(), own) == Agreement(1.0, math.inf, 0)
    assert not agreement(anchors(), {"output.weight": Anchor("Q3_K", 0.01, 0.0)}).holds


def test_scaled_anchors_are_as_uncertain_as_the_spread() -> None:
    found = scaled(anchors(0.01), Agreement(2.0, 0.1, 5))["output.weight"]
    assert found.kld == pytest.approx(0.02)
    assert found.variance == pytest.approx((0.1 * 0.02) ** 2 * 1.2)
    assert MAX_SPREAD < 1


def test_the_table_of_another_model_is_refused(tmp_path: Path) -> None:
    prior = Prior("other", {name: {} for name in NAMES[:10]}, {})
    plan: Any = SomePlan(dict.fromkeys(NAMES, "Q3_K"))
    with pytest.raises(ParityError, match="another model") as caught:
        check_prior(prior, plan)
    assert caught.value.tensor == NAMES[10]
    check_prior(Prior("sibling", {name: {} for name in NAMES[1:]}, {}), plan)
