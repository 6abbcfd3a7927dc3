"""Layer by layer through a model: the bits of whole passes."""

from __future__ import annotations

import numpy as np
import pytest

from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.core.info import memory_limit_bytes
from mqnative.core.model import Model, Trace
from mqnative.errors import BackendError
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.mixes import Mix, VariantPool, score_mixes
from mqnative.measure.streamed import can_stream, score_streamed
from tiny_models import TinyModels

N_CTX = 64
MIXES: dict[str, Mix] = {
    "embedding": {"token_embd.weight": "Q4_0"},
    "first": {"blk.0.attn_v.weight": "Q3_K"},
    "middle": {"blk.1.ffn_down.weight": "Q2_K"},
    "last": {"blk.1.attn_q.weight": "Q4_0", "blk.0.attn_q.weight": "Q8_0"},
}


def short(model: Model) -> Corpus:
    return read_corpus(model, CALIB_TEXT, n_ctx=N_CTX).head(2)


@pytest.mark.parametrize("kind", ["dense", "moe", "latent"])
def test_streamed_scores_are_those_of_whole_passes(tiny_models: TinyModels, kind: str) -> None:
    with Model(getattr(tiny_models, kind), n_threads=1) as model:
        assert can_stream(model)
        text = short(model)
        known = {t.name for t in model.tensors}
        mixes = {n: {t: q for t, q in m.items() if t in known} for n, m in MIXES.items()}
        mixes = {n: m for n, m in mixes.items() if m}
        wanted = {chunk: list(mixes) for chunk in range(2)}
        whole = {
            (r.mix, r.chunk): r.scores
            for r in score_mixes(model, VariantPool(model, {}), text, wanted, mixes)
        }
        # Room for two states only, so that mixes go through the model in groups.
        little = 8 * N_CTX * model.vocab.n_embd * 4
        for memory in (1 << 30, little):
            pool = VariantPool(model, {})
            found = list(score_streamed(model, pool, text, wanted, mixes, memory_bytes=memory))
            assert {(r.mix, r.chunk) for r in found} == set(whole)
            for r in found:
                expected = whole[r.mix, r.chunk]
                assert expected.kld is not None
                assert r.scores.kld is not None
                assert np.array_equal(r.scores.kld, expected.kld)
                assert np.array_equal(r.scores.nll, expected.nll)
        assert not model.swapped


def test_one_layer_after_the_other_gives_the_whole(builtin_model: object) -> None:
    assert builtin_model == MODEL
    with Model(MODEL, n_threads=1) as model:
        tokens = short(model).inputs[0]
        expected = model.logits(tokens)
        state = Trace.of(tokens)
        for layer in range(model.vocab.n_layer):
            state = model.advance(state, layer, layer + 1)
            assert state.layers == (layer + 1,)
        logits, restarted = model.resume(state, model.vocab.n_layer)
        assert restarted
        assert np.array_equal(logits, expected)
        with pytest.raises(BackendError, match="cannot be run"):
            model.advance(Trace.of(tokens), 3, 4)  # nothing is known of layer 3's input


def test_memory_that_a_group_leaves_is_no_more_than_the_machines() -> None:
    assert 0 < memory_limit_bytes() <= 1 << 60
