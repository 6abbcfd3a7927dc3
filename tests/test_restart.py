"""Passes that start at a layer give the bits of whole ones, or are whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_process import succeed
from mqnative.build.plan import model_tensors
from mqnative.builtin import EVAL_TEXT
from mqnative.core.model import Model, restart_layers
from mqnative.errors import ModelLoadError, ShapeError
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.mixes import ChunkResult, VariantPool, score_mixes, tiles
from mqnative.measure.restart import Restarts, first_layer, spread
from mqnative.measure.scoring import HostScoring
from tiny_models import TinyModels, write_model

N_CTX = 64
LABELS = ("builtin", "dense", "moe", "sliding", "recurrent")


@pytest.fixture(scope="module", params=LABELS)
def model(request: pytest.FixtureRequest, builtin_model: Path, tiny_models: TinyModels) -> Iterator[Model]:
    path = builtin_model if request.param == "builtin" else getattr(tiny_models, request.param)
    with Model(path, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def builtin(builtin_model: Path) -> Iterator[Model]:
    with Model(builtin_model, n_threads=1) as loaded:
        yield loaded


def positions(n: int) -> dict[str, int]:
    return {"first": n // 2, "last": n - 1}


def layer_matrices(model: Model) -> dict[str, int]:
    """Every matrix that may be quantized and is read in a known place but the first layer."""
    with GGUFFile.open(model.path) as file:
        names = [name for name, tensor in model_tensors(file).items() if tensor.quantizable]
    found = {name: first_layer([name], model.vocab.n_layer) for name in names}
    assert found
    return {name: layer for name, layer in found.items() if layer}


def test_a_swap_in_any_layer_gives_the_bits_of_a_whole_pass(model: Model) -> None:
    tokens = read_corpus(model, EVAL_TEXT, n_ctx=N_CTX).inputs[0]
    where = positions(N_CTX)
    plain = model.logits(tokens, **where)
    trace, reference = model.trace(tokens, range(1, model.vocab.n_layer + 1), **where)
    assert np.array_equal(reference, plain)
    assert trace.layers == tuple(range(1, model.vocab.n_layer + 1))
    assert trace.size_bytes > 0
    for name, layer in layer_matrices(model).items():
        model.swap(model.encode(name, "Q4_0"))
        whole = model.logits(tokens, **where)
        resumed, restarted = model.resume(trace, layer)
        model.restore()
        assert restarted, name
        assert np.array_equal(resumed, whole), name
        assert not np.array_equal(resumed, reference), name


def test_nothing_swapped_gives_the_reference_from_every_layer(model: Model) -> None:
    corpus = read_corpus(model, EVAL_TEXT, n_ctx=N_CTX)
    for chunk in (0, 1):
        where = positions(N_CTX)
        trace, reference = model.trace(corpus.inputs[chunk], range(1, model.vocab.n_layer + 1), **where)
        for layer in trace.layers:
            resumed, restarted = model.resume(trace, layer)
            assert restarted
            assert np.array_equal(resumed, reference)


def test_a_tensor_that_is_read_before_the_start_makes_the_pass_a_whole_one(builtin: Model) -> None:
    tokens = read_corpus(builtin, EVAL_TEXT, n_ctx=N_CTX).inputs[0]
    trace, _ = builtin.trace(tokens, [2, 8], **positions(N_CTX))
    for name, start, cut in [
        ("blk.1.attn_q.weight", 2, False),
        ("blk.2.attn_q.weight", 2, True),
        ("blk.2.attn_q.weight", 8, False),
        ("token_embd.weight", 2, False),
        ("output.weight", 8, True),
        ("output.weight", 5, False),  # not in the trace
    ]:
        builtin.swap(builtin.encode(name, "Q4_K"))
        whole = builtin.logits(tokens, **positions(N_CTX))
        resumed, restarted = builtin.resume(trace, start)
        builtin.restore()
        assert restarted is cut, (name, start)
        assert np.array_equal(resumed, whole), (name, start)


def test_chunks_of_several_micro_batches_restart_too(builtin: Model) -> None:
    tokens = read_corpus(builtin, EVAL_TEXT, n_ctx=1100).inputs[0]
    trace, reference = builtin.trace(tokens, [3], first=600, last=610)
    assert trace.size_bytes > 1100 * builtin.vocab.n_embd * 4
    assert np.array_equal(builtin.resume(trace, 3)[0], reference)
    builtin.swap(builtin.encode("blk.3.ffn_up.weight", "Q4_0"))
    resumed, restarted = builtin.resume(trace, 3)
    whole = builtin.logits(tokens, first=600, last=610)
    builtin.restore()
    assert restarted
    assert np.array_equal(resumed, whole)


def test_threads_do_not_change_a_resumed_pass(builtin: Model) -> None:
    tokens = read_corpus(builtin, EVAL_TEXT, n_ctx=N_CTX).inputs[0]
    trace, reference = builtin.trace(tokens, [4], **positions(N_CTX))
    try:
        for n_threads in (2, 3):
            builtin.set_threads(n_threads)
            assert np.array_equal(builtin.resume(trace, 4)[0], reference)
    finally:
        builtin.set_threads(1)


def test_logits_of_another_shape_are_refused(builtin: Model) -> None:
    tokens = read_corpus(builtin, EVAL_TEXT, n_ctx=N_CTX).inputs[0]
    trace, _ = builtin.trace(tokens, [4], **positions(N_CTX))
    with pytest.raises(ShapeError, match="for the logits"):
        builtin.resume(trace, 4, out=np.empty((3, builtin.vocab.n_vocab), np.float32))


def test_the_header_alone_tells_where_passes_can_start(model: Model) -> None:
    assert restart_layers(model.path) == tuple(range(1, model.vocab.n_layer + 1))


def test_of_a_split_model_the_first_file_tells(tiny_models: TinyModels) -> None:
    assert restart_layers(tiny_models.split) == tuple(range(1, 9))


def test_what_llama_cpp_does_not_know_cannot_be_started(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": (np.zeros((4, 32), np.float32), "F32")}
    path = write_model(tmp_path / "m.gguf", {"general.architecture": MetaValue.string("nosuch")}, tensors)
    with pytest.raises(ModelLoadError):
        restart_layers(path)
    done = succeed("inspect", path, "--json").json
    assert done["restart_layers"] is None


# ---- Where to start ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        (["blk.7.ffn_down.weight"], 7),
        (["blk.12.attn_q.weight", "blk.3.attn_q.weight"], 3),
        (["output.weight"], 24),
        (["output_norm.weight", "blk.23.ffn_up.weight"], 23),
        (["token_embd.weight", "blk.9.ffn_up.weight"], 0),
        (["blk.0.ffn_up.weight"], 0),
        (["blk.99.ffn_up.weight"], 24),
        (["xblk.3.ffn_up.weight"], 0),
        ([], 0),
    ],
)
def test_the_first_layer_is_that_of_the_earliest_tensor(names: list[str], layer: int) -> None:
    assert first_layer(names, 24) == layer


@given(st.sets(st.integers(1, 100)), st.integers(0, 20))
def test_a_spread_keeps_the_first_layer_and_no_more_than_asked(layers: set[int], limit: int) -> None:
    kept = spread(layers, limit)
    assert len(kept) == min(limit, len(layers))
    assert set(kept) <= layers
    assert kept == sorted(kept)
    if kept:
        assert kept[0] == min(layers)


class Leaky:
    """A model one of whose layers reads what an earlier one left: passes from it on are wrong."""

    n_threads = 1

    def __init__(self, wrong: int, refused: int) -> None:
        self.wrong, self.refused = wrong, refused
        self.tried: list[int] = []
        self.logits = np.ones((2, 4), np.float32)

    def trace(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return SimpleNamespace(layers=(2, 3, 5)), self.logits

    def resume(self, _: Any, layer: int, *, borrow: bool) -> tuple[Any, bool]:
        assert borrow
        self.tried.append(layer)
        logits = self.logits.copy()
        logits[0, 0] += layer == self.wrong
        return logits, layer != self.refused


def test_layers_that_do_not_give_the_reference_are_never_started_at() -> None:
    leaky: Any = Leaky(wrong=3, refused=5)
    scoring = HostScoring(SimpleNamespace(inputs=[None], first=0, n_ctx=3))  # type: ignore[arg-type]
    restarts = Restarts()
    trace: Any = scoring.take_reference(leaky, 0, [2, 3, 5])
    for _ in range(2):
        restarts.check(trace, lambda layer: scoring.repeats(leaky, trace, layer))
    assert leaky.tried == [2, 3, 5]  # each once
    assert [restarts.start(trace, layer) for layer in (1, 2, 3, 4, 5, 8)] == [None, 2, 2, 2, 2, 2]
    assert restarts.usable([0, 1, 2, 3, 5, 5, 7]) == [1, 2, 7]


# ---- Mixes ------------------------------------------------------------------------------------------

MIXES = {
    "early": {"blk.0.attn_q.weight": "Q4_0"},
    "middle": {"blk.4.ffn_down.weight": "Q3_K"},
    "late": {"output.weight": "Q4_K"},
    "many": {"blk.2.ffn_up.weight": "Q4_0", "blk.6.ffn_up.weight": "Q8_0"},
    "none": {"blk.5.ffn_up.weight": "BF16"},
}


def by_name(results: Iterator[ChunkResult]) -> dict[tuple[str, int], ChunkResult]:
    return {(r.mix, r.chunk): r for r in results}


@pytest.fixture(scope="module")
def corpus(builtin: Model) -> Corpus:
    return read_corpus(builtin, EVAL_TEXT, n_ctx=N_CTX).head(3)


@pytest.fixture(scope="module")
def scored(builtin: Model, corpus: Corpus) -> dict[tuple[str, int], ChunkResult]:
    wanted = {chunk: list(MIXES) for chunk in range(3)}
    return by_name(score_mixes(builtin, VariantPool(builtin, {}), corpus, wanted, MIXES))


def test_a_mix_that_changes_nothing_diverges_by_exactly_nothing(
    scored: dict[tuple[str, int], ChunkResult],
) -> None:
    for chunk in range(3):
        scores = scored["none", chunk].scores
        assert scores.kld is not None
        assert np.array_equal(scores.nll, scores.nll_ref)
        assert not scores.kld.any()
        assert all(scored[name, chunk].scores.kld.any() for name in MIXES if name != "none")  # type: ignore[union-attr]


@pytest.mark.parametrize("memory_bytes", [1, 300_000, 1_500_000])
def test_little_memory_changes_no_score(
    memory_bytes: int, builtin: Model, corpus: Corpus, scored: dict[tuple[str, int], ChunkResult]
) -> None:
    wanted = {2: ["late", "early"], 0: list(MIXES), 1: ["none"]}
    pool = VariantPool(builtin, {})
    found = by_name(score_mixes(builtin, pool, corpus, wanted, MIXES, memory_bytes=memory_bytes))
    assert set(found) == {(name, chunk) for chunk, names in wanted.items() for name in names}
    for key, result in found.items():
        assert np.array_equal(result.scores.kld, scored[key].scores.kld)  # type: ignore[arg-type]
        assert np.array_equal(result.scores.nll, scored[key].scores.nll)


def test_groups_of_mixes_fit_in_memory(builtin: Model) -> None:
    pool = VariantPool(builtin, {})
    assert tiles(pool, MIXES, None) == [list(MIXES)]
    assert tiles(pool, MIXES, 1) == [["early"], ["middle"], ["late"], ["many", "none"]]
    sizes = {name: sum(pool.size_bytes(*v) for v in pool.changed(mix).items()) for name, mix in MIXES.items()}
    for limit in (max(sizes.values()), sizes["early"] + sizes["middle"], sum(sizes.values())):
        groups = tiles(pool, MIXES, limit)
        assert [name for group in groups for name in group] == list(MIXES)
        for group in groups:
            needed = [sizes[name] for name in group if sizes[name]]
            assert sum(needed) <= limit or len(needed) == 1
    assert len(tiles(pool, MIXES, sum(sizes.values()))) == 1
    shared = {"a": MIXES["many"], "b": MIXES["many"] | MIXES["middle"]}
    assert len(tiles(pool, shared, sizes["many"] + sizes["middle"])) == 1
