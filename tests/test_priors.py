"""Damages without a probe: role and depth decide how much of a weight error counts."""

from __future__ import annotations

import pytest

from mqnative.predict.curve import TensorCurve
from mqnative.predict.priors import PRIORS, fast_table, places

ERRORS = {"BF16": 0.0, "Q8_0": 1e-4, "Q4_K": 6e-3, "Q2_K": 8e-2}


def table(*names: str, n_layer: int = 8, share: float = 1.0, tied: bool = False) -> dict[str, float]:
    """Damage at Q4_K of tensors that all have the same weight errors."""
    curves = [TensorCurve(name, ERRORS, (), 1000, 1.0, "BF16") for name in names]
    where = places(names, n_layer=n_layer, expert_share=share, tied=tied)
    return {name: d["Q4_K"].mean for name, d in fast_table(curves, where).items()}


def test_values_cost_more_than_gates_and_early_blocks_more_than_late_ones() -> None:
    found = table("blk.0.attn_v.weight", "blk.4.attn_v.weight", "blk.7.attn_v.weight", "blk.4.ffn_up.weight")
    first, middle, last, up = found.values()
    assert first > middle > last > 0
    assert middle > up


def test_experts_cost_as_often_as_they_are_used() -> None:
    name = "blk.3.ffn_down_exps.weight"
    assert table(name, share=0.25)[name] == pytest.approx(table(name)[name] / 4)
    gate = "blk.3.ffn_gate.weight"
    assert table(gate, share=0.25) == table(gate)


def test_a_tied_embedding_is_the_head_too() -> None:
    name = "token_embd.weight"
    assert table(name, tied=True)[name] > table(name)[name]


def test_damage_goes_with_the_error_and_a_lossless_type_is_free() -> None:
    curve = TensorCurve("blk.1.attn_k.weight", ERRORS, (), 1000, 2.0, "BF16")
    where = places([curve.name], n_layer=2, expert_share=1.0, tied=False)
    found = fast_table([curve], where)[curve.name]
    assert found["BF16"].mean == 0
    assert found["Q2_K"].mean == pytest.approx(found["Q4_K"].mean * ERRORS["Q2_K"] / ERRORS["Q4_K"])
    assert found["Q4_K"].variance == pytest.approx((PRIORS.spread * found["Q4_K"].mean) ** 2)


def test_roles_that_were_never_seen_are_average() -> None:
    found = table("blk.3.ssm_in.weight", "blk.3.attn_k.weight", n_layer=7)
    assert found["blk.3.ssm_in.weight"] == pytest.approx(found["blk.3.attn_k.weight"], rel=0.05)
