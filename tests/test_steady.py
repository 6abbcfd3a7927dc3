"""Outlying chunks of probes are drawn in, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.measure.probes import too_wide
from mqnative.measure.steady import Chunks, steady
from mqnative.measure.stored_scores import ChunkMeans

HARDNESS = np.array([1.0, 0.7, 3.0, 1.2, 0.9, 1.1, 0.4, 1.5])


def probes(levels: list[float], seed: int = 0) -> dict[str, Chunks]:
    """What dense models give: every tensor loses its own share of what a chunk is hard."""
    rng = np.random.default_rng(seed)
    return {
        f"blk.{i}.ffn_up.weight": level * HARDNESS * rng.uniform(0.8, 1.25, len(HARDNESS))
        for i, level in enumerate(levels)
    }


def test_hard_chunks_are_no_outliers() -> None:
    given_ = probes([1e-3, 2e-3, 5e-5, 7e-3, 1e-4, 2e-6])
    assert all(np.array_equal(given_[name], found) for name, found in steady(given_).items())


def test_a_token_that_goes_another_way_counts_little() -> None:
    plain = probes([1e-2, 8e-3, 1e-5, 2e-5, 1e-5, 1e-5, 3e-5, 2e-5])
    struck = {name: klds.copy() for name, klds in plain.items()}
    for name in list(struck)[2:]:
        struck[name][4] += 8e-4
    before = sum(klds.mean() for klds in plain.values())
    raw = sum(klds.mean() for klds in struck.values())
    assert raw > before + 5e-4
    found = steady(struck)
    # Each counts for at most about twice what that chunk would have.
    for name, klds in found.items():
        assert klds.mean() == pytest.approx(plain[name].mean(), rel=0.3)
        assert np.array_equal(np.delete(klds, 4), np.delete(struck[name], 4))


@given(st.lists(st.lists(st.floats(0, 1e3), min_size=4, max_size=9), min_size=1, max_size=6))
def test_chunks_are_never_raised_nor_made_negative(rows: list[list[float]]) -> None:
    given_ = {i: np.array(row) for i, row in enumerate(rows)}
    for i, found in steady(given_).items():
        assert found.shape == given_[i].shape
        assert (found <= given_[i]).all()
        assert (found >= 0).all()


def test_few_chunks_are_left_alone() -> None:
    given_ = {"a": np.array([1.0, 1.0, 100.0]), "b": np.array([1.0, 1.0, 1.0, 1.0])}
    assert all(np.array_equal(given_[name], found) for name, found in steady(given_).items())
    assert steady({}) == {}


def test_one_token_elsewhere_makes_no_probe_longer() -> None:
    klds = np.array([5e-6, 5e-6, 8e-4, 5e-6, 4e-6, 5e-6])
    nothing = np.zeros(6)
    others = {f"blk.{i}.attn_q.weight": np.full(6, 1e-2) for i in range(3)}
    pairs = {("blk.0.attn_k.weight", "Q8_0"): klds} | {(name, "Q3_K"): k for name, k in others.items()}
    assert too_wide({pair: ChunkMeans(k, nothing, nothing) for pair, k in pairs.items()}, 0.5) == []
