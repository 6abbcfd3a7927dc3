"""Quantized caches: measured against F16, kept by the store, chosen like types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.core.model import Model
from mqnative.errors import BackendError
from mqnative.measure.cache_types import PLAIN, cache_damages
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.study import Study
from mqnative.store import Store
from tiny_models import TinyModels

PAIRS = (("Q8_0", "Q8_0"), ("Q4_0", "Q4_0"), ("Q8_0", "Q4_0"))
N_CTX = 64


def short(model: Model) -> Corpus:
    return read_corpus(model, CALIB_TEXT, n_ctx=N_CTX).head(2)


def test_fewer_bits_lose_more_and_values_and_keys_count(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, Study(MODEL, store) as study:
        text = short(study.model)
        found = cache_damages(study, text, PAIRS)
        assert list(found) == [PLAIN, *PAIRS]
        assert found[PLAIN].mean == 0.0
        means = [found[p].mean for p in (("Q8_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_0", "Q4_0"))]
        assert 0 < means[0] < means[1] < means[2]
        assert found[PAIRS[0]].kld.shape == (2,)
        # What was evaluated before is evaluated again to the bit.
        tokens = text.inputs[0]
        before = study.model.logits(tokens)
        study.model.set_cache("Q4_0", "Q4_0")
        assert not np.array_equal(study.model.logits(tokens), before)
        study.model.set_cache(*PLAIN)
        assert np.array_equal(study.model.logits(tokens), before)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path) as store, Study(MODEL, store) as study:
        text = short(study.model)
        first = cache_damages(study, text, PAIRS[:1])

        def never(*_: object, **__: object) -> None:
            raise AssertionError("evaluated again")

        monkeypatch.setattr(Model, "logits", never)
        again = cache_damages(study, text, PAIRS[:1])
    assert np.array_equal(first[PAIRS[0]].kld, again[PAIRS[0]].kld)


def test_a_cache_that_a_model_cannot_have_is_left_out(tiny_models: TinyModels, tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, Study(tiny_models.recurrent, store) as study:
        found = cache_damages(study, short(study.model), PAIRS[:1])
    assert set(found) <= {PLAIN, PAIRS[0]}
    with Model(MODEL, n_threads=1) as model:
        model.set_cache("F16", "Q4_0")
        model.logits(np.arange(16, dtype=np.int32))  # flash attention serves quantized values
        model.set_cache("F16", "Q6_K")  # no kernel writes such a cache
        with pytest.raises(BackendError):
            model.logits(np.arange(16, dtype=np.int32))
