"""How much text probes take, and what the store keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mqnative.builtin import EVAL_TEXT
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.packed_scores import pack_scores, unpack_scores
from mqnative.measure.probes import cost, half_width, probe_until, too_wide
from mqnative.measure.scores import TokenScores
from mqnative.measure.stored_scores import ChunkMeans, probe, probe_pairs
from mqnative.measure.study import Compute, Study
from mqnative.store import Store

PAIRS = [
    ("blk.1.attn_q.weight", "Q3_K"),
    ("blk.7.ffn_down.weight", "Q3_K"),
    ("output.weight", "Q3_K"),
    ("output.weight", "Q8_0"),
]
WEIGHTS = dict.fromkeys(name for name, _ in PAIRS)


@pytest.fixture(scope="module")
def study(builtin_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    with (
        Store.open(tmp_path_factory.mktemp("store")) as store,
        Study(builtin_model, store, compute=Compute(n_threads=1)) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def corpus(study: Study) -> Corpus:
    return read_corpus(study.model, EVAL_TEXT, n_ctx=64).head(12)


def means(*klds: float) -> ChunkMeans:
    values = np.array(klds)
    return ChunkMeans(values, values, values)


def test_the_cost_is_what_is_then_measured(study: Study, corpus: Corpus) -> None:
    head = corpus.head(3)
    before = cost(study, head, PAIRS, WEIGHTS)
    assert before.n_passes == 12
    # Three reference passes; of 8 layers and the head: 8/9, 2/9, 1/9, 1/9 of a pass for each chunk.
    assert before.n_full_passes == pytest.approx(3 * (1 + 12 / 9))
    rows = study.store.count("probe")
    probe_pairs(study, head, PAIRS, WEIGHTS)
    assert study.store.count("probe") == rows + before.n_passes
    after = cost(study, head, PAIRS, WEIGHTS)
    assert (after.n_passes, after.n_full_passes) == (0, 0)
    assert cost(study, corpus.head(4), PAIRS, WEIGHTS).n_passes == 4


def test_wide_intervals_get_more_text_and_narrow_ones_do_not(study: Study, corpus: Corpus) -> None:
    found = probe_until(study, corpus, PAIRS, WEIGHTS, precision=0.3, min_chunks=2)
    lengths = {pair: len(m.kld) for pair, m in found.items()}
    assert min(lengths.values()) < max(lengths.values())
    assert not too_wide({p: m for p, m in found.items() if lengths[p] < 12}, 0.3)
    whole = probe_pairs(study, corpus, PAIRS, WEIGHTS)
    for pair, m in found.items():
        assert np.array_equal(m.kld, whole[pair].kld[: lengths[pair]])


def test_without_precision_all_the_text_is_used(study: Study, corpus: Corpus) -> None:
    found = probe_until(study, corpus.head(5), PAIRS[:2], WEIGHTS, precision=0.0, min_chunks=2)
    assert {len(m.kld) for m in found.values()} == {5}
    one_type = probe(study, corpus.head(5), dict(PAIRS[:2]), WEIGHTS)
    for (name, _), m in found.items():
        assert np.array_equal(one_type[name], m.kld)
        assert m.nll_ref.shape == (5,)
        assert not np.array_equal(m.nll, m.nll_ref)


def test_what_is_far_below_the_average_need_not_be_known_well() -> None:
    found = {
        ("large", "Q3_K"): means(1.0, 1.01, 0.99),
        ("small", "Q3_K"): means(0.001, 0.005, 0.0),
        ("unsure", "Q3_K"): means(1.0, 2.0, 0.5),
        ("small", "Q8_0"): means(0.001, 0.005, 0.0),
    }
    assert too_wide(found, 0.1) == [("unsure", "Q3_K"), ("small", "Q8_0")]
    assert half_width(found["large", "Q3_K"].kld) == pytest.approx(4.30 * 0.01 / 3**0.5, rel=0.2)
    assert half_width(means(1.0).kld) == np.inf


@given(
    hnp.arrays(np.float32, st.tuples(st.just(4), st.integers(1, 300)), elements=st.floats(0, 1e6, width=32)),
    st.integers(0, 2**32 - 1),
)
def test_packed_scores_come_back(values: np.ndarray, seed: int) -> None:
    same = np.random.default_rng(seed).random((1, values.shape[1])) < 0.9
    rows = values.astype(np.float64)
    back = unpack_scores(pack_scores(TokenScores(rows[0:1], rows[1:2], rows[2:3], rows[3:4], same)))
    for figure, row in zip((back.nll, back.nll_ref, back.kld, back.p_diff), rows, strict=True):
        assert figure is not None
        assert np.array_equal(figure[0], row)
    assert np.array_equal(back.same_top, same)  # type: ignore[arg-type]
