"""The same numbers wherever a model lies, and nothing stale after a swap.

`planned` is a device whose memory the host must not touch, computed with by the CPU: what is wrong with
copies, addresses and placement shows on any machine, and its bits are the CPU's. On GPUs numbers are compared
with stated tolerances; what only they can get wrong is skipped without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.build.plan import model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.info import Device, memory_limit_bytes
from mqnative.core.logit_scorer import LogitScorer, RowScores
from mqnative.core.model import Model, Trace
from mqnative.errors import BackendError, NonFiniteError, ShapeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe_data import Recipe
from mqnative.measure import study as study_module
from mqnative.measure.corpus import Corpus, cut
from mqnative.measure.evaluate import evaluate
from mqnative.measure.mixes import VariantPool, score_mixes
from mqnative.measure.scores import Reference, TokenScores, score_chunk
from mqnative.measure.scoring import DeviceScoring, HostScoring, scoring_for
from mqnative.measure.study import Compute, Study
from mqnative.store import Store
from tiny_models import TinyModels

KINDS = ("dense", "moe", "sliding", "odd_rows", "latent", "recurrent")
N_CTX = 96
N_CHUNKS = 2
# Sums of a device are float32 (core/logit_scorer.py); the CPU's expm1 is expf - 1, good to 6e-8.
NLL_TOLERANCE = 2e-6
KLD_TOLERANCE = 2e-7
KLD_SHARE = 2e-5
# Float32 sums in another order, over N_CTX tokens.
IMATRIX_SHARE = 1e-5
# A GPU quantizes activations otherwise than the CPU, and rounds them to the weights' 16 bits.
GPU_PPL_SHARE = 0.01
GPU_KLD_SHARE = 0.2
GPU_IMATRIX_SHARE = 0.03


def is_exact(device: str) -> bool:
    """Whether a device computes the CPU's bits."""
    return device in ("cpu", "planned")


def corpus_of(model: Model, text: str) -> Corpus:
    return cut(model, text, n_ctx=N_CTX).head(N_CHUNKS)


@pytest.fixture(scope="module", params=KINDS)
def path(request: pytest.FixtureRequest, tiny_models: TinyModels) -> Path:
    found: Path = getattr(tiny_models, request.param)
    return found


@pytest.fixture(scope="module")
def placed(path: Path, device: str) -> Iterator[Model]:
    """A model of every kind on every device."""
    with Model(path, device=device, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def corpus(placed: Model, eval_text: str) -> Corpus:
    return corpus_of(placed, eval_text)


def matrix_of(model: Model) -> str:
    """A large matrix in the middle of the model."""
    endings = ("ffn_down.weight", "ffn_down_exps.weight", "ssm_out.weight")
    return next(t.name for t in model.tensors if t.name.startswith("blk.1.") and t.name.endswith(endings))


def built(path: Path, changed: Mapping[str, str], out: Path) -> Path:
    """The file of a model with some tensors in other types."""
    with GGUFFile.open(path) as file:
        own = {n: file.tensors[n].qtype.name for n, t in model_tensors(file).items() if t.quantizable}
        build_gguf(file, plan_build(file, Recipe(base="Q8_0", tensors={**own, **changed})), out, n_threads=1)
    return out


# ---- Swaps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["Q8_0", "Q4_0", "Q4_K", "IQ4_NL"])
def test_a_swap_on_a_device_computes_what_a_file_computes_there(
    placed: Model, corpus: Corpus, device: str, target: str, tmp_path: Path
) -> None:
    name, tokens = matrix_of(placed), corpus.inputs[0]
    before = placed.logits(tokens)
    row = next(t.shape[0] for t in placed.tensors if t.name == name)
    if target == "Q4_K" and row % 256:
        pytest.skip("rows that Q4_K's blocks do not fill")
    with placed.mix({name: target}):
        swapped = placed.logits(tokens)
    with Model(built(placed.path, {name: target}, tmp_path / "x.gguf"), device=device, n_threads=1) as file:
        assert np.array_equal(swapped, file.logits(tokens))
    assert not np.array_equal(swapped, before)
    assert np.array_equal(placed.logits(tokens), before)  # restored, and nothing of the variant is left


def test_rows_that_do_not_fill_a_devices_padding_are_swapped(
    tiny_models: TinyModels, device: str, eval_text: str, tmp_path: Path
) -> None:
    # Rows of 320 and 352: CUDA pads the last one to a multiple of 512 and reads all of it.
    names = [f"blk.{i}.{t}.weight" for i in (0, 1) for t in ("attn_q", "ffn_up", "ffn_down")]
    types = dict.fromkeys(names, "Q5_0")
    with Model(tiny_models.odd_rows, device=device, n_threads=1) as model:
        tokens = corpus_of(model, eval_text).inputs[0]
        with model.mix(types):
            swapped = model.logits(tokens)
    with Model(built(tiny_models.odd_rows, types, tmp_path / "x.gguf"), device=device, n_threads=1) as model:
        assert np.array_equal(swapped, model.logits(tokens))
    assert np.isfinite(swapped).all()


def test_both_places_of_a_tied_embedding_are_swapped(
    tiny_models: TinyModels, device: str, eval_text: str, tmp_path: Path
) -> None:
    types = {"token_embd.weight": "Q4_0"}
    with Model(tiny_models.dense, device=device, n_threads=1) as model:
        places = [t for t in model.tensors if t.name == "token_embd.weight"]
        tokens = corpus_of(model, eval_text).inputs[0]
        before = model.logits(tokens)
        with model.mix(types):
            both = model.logits(tokens)
        with model.mix({"output.weight": "Q4_0"}):
            head_alone = model.logits(tokens)
        assert np.array_equal(model.logits(tokens), before)
    assert len(places) == (1 if device == "cpu" else 2)
    assert {p.buffer for p in places} != {"CPU"}
    with Model(built(tiny_models.dense, types, tmp_path / "x.gguf"), device=device, n_threads=1) as model:
        assert np.array_equal(both, model.logits(tokens))
    assert not np.array_equal(both, head_alone)


# Two types of equally long rows: a graph that a device keeps looks the same for both.
ALIKE = (("Q3_K", "IQ3_S"), ("Q4_0", "IQ4_NL"))


@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_a_variant_in_anothers_place_is_not_computed_as_the_other(
    builtin_model: Path, device: str, eval_text: str, first: str, second: str
) -> None:
    name = "blk.3.ffn_down.weight"

    def logits_of(model: Model, target: str, times: int) -> npt.NDArray[np.float32]:
        with model.mix({name: target}):
            return [model.logits(tokens) for _ in range(times)][-1]

    with Model(builtin_model, device=device, n_threads=1) as model:
        tokens = corpus_of(model, eval_text).inputs[0]
        # Often enough for a device to keep the graph; then memory of the same size is given out again.
        logits_of(model, first, times=4)
        found = logits_of(model, second, times=4)
    with Model(builtin_model, device=device, n_threads=1) as model:
        assert np.array_equal(found, logits_of(model, second, times=1))


def test_a_captured_graph_does_not_outlive_a_swap(gpu: str, builtin_model: Path, eval_text: str) -> None:
    name = "blk.3.ffn_down.weight"
    with Model(builtin_model, device=gpu) as model:
        tokens = corpus_of(model, eval_text).inputs[0]
        before = [model.logits(tokens) for _ in range(4)][-1]
        with model.mix({name: "Q2_K"}):
            swapped = [model.logits(tokens) for _ in range(4)]
        after = [model.logits(tokens) for _ in range(4)]
    assert all(np.array_equal(s, swapped[0]) for s in swapped)
    assert not np.array_equal(before, swapped[0])
    assert all(np.array_equal(a, before) for a in after)


def test_a_chunk_computes_the_same_whatever_ran_before_it(placed: Model, corpus: Corpus) -> None:
    # Results of a GPU depend on how many tokens run together: every chunk runs alone, and always whole.
    alone = placed.logits(corpus.inputs[1])
    placed.logits(corpus.inputs[0])
    assert np.array_equal(placed.logits(corpus.inputs[1]), alone)


# ---- Scores -----------------------------------------------------------------------------------------


def assert_like_the_hosts(found: TokenScores, exact: TokenScores) -> None:
    np.testing.assert_allclose(found.nll, exact.nll, rtol=0, atol=NLL_TOLERANCE)
    if exact.kld is None:
        assert found.kld is None
        return
    assert found.kld is not None
    assert found.nll_ref is not None
    assert exact.nll_ref is not None
    assert found.p_diff is not None
    assert exact.p_diff is not None
    np.testing.assert_allclose(found.kld, exact.kld, rtol=KLD_SHARE, atol=KLD_TOLERANCE)
    np.testing.assert_allclose(
        found.nll - found.nll_ref, exact.nll - exact.nll_ref, rtol=KLD_SHARE, atol=KLD_TOLERANCE
    )
    np.testing.assert_allclose(found.p_diff, exact.p_diff, rtol=0, atol=NLL_TOLERANCE)
    assert np.array_equal(found.same_top, exact.same_top)  # type: ignore[arg-type]


def test_scores_on_a_device_are_those_of_its_logits(placed: Model, corpus: Corpus) -> None:
    name = matrix_of(placed)
    mixes = {"one": {name: "Q4_0"}, "none": {name: "BF16"}, "Q8_0": {name: "Q8_0"}}
    wanted = {chunk: list(mixes) for chunk in range(corpus.n_chunks)}

    def scores(on_device: bool) -> dict[tuple[str, int], TokenScores]:
        pool = VariantPool(placed, {})
        results = score_mixes(placed, pool, corpus, wanted, mixes, on_device=on_device)
        return {(r.mix, r.chunk): r.scores for r in results}

    on_device, on_host = scores(True), scores(False)
    assert list(on_device) == list(on_host)
    for key, found in on_device.items():
        assert_like_the_hosts(found, on_host[key])


def test_perplexity_on_a_device_is_that_of_its_logits(placed: Model, corpus: Corpus) -> None:
    assert_like_the_hosts(DeviceScoring(corpus).score(placed, 0), HostScoring(corpus).score(placed, 0))


def test_logits_stay_where_they_are_computed(device: str, builtin_model: Path, eval_text: str) -> None:
    with Model(builtin_model, device=device, n_threads=1) as model:
        assert model.logits_device == ("" if device == "cpu" else device)
        corpus = corpus_of(model, eval_text)
        assert isinstance(scoring_for(corpus, model), HostScoring if device == "cpu" else DeviceScoring)
        assert isinstance(scoring_for(corpus, model, mode="compat"), HostScoring)
        scorer = LogitScorer()
        scorer.begin(corpus.targets(0))
        scorer.run(model, corpus.inputs[0], first=corpus.first, last=N_CTX - 1)
        with pytest.raises(BackendError, match="nothing was evaluated"):
            model._handle.last_logits()  # they never reached the host


def test_several_micro_batches_are_scored_as_one(builtin_model: Path, device: str, eval_text: str) -> None:
    with Model(builtin_model, device=device, n_threads=1) as model:
        corpus = cut(model, eval_text, n_ctx=1100).head(1)  # llama.cpp computes 512 at a time
        with model.mix({"blk.3.ffn_down.weight": "Q4_0"}):
            variants = [model.logits(corpus.inputs[0], first=corpus.first, last=1099)]
        rows = model.logits(corpus.inputs[0], first=corpus.first, last=1099)
        exact = score_chunk(variants[0], corpus, 0, Reference.of(rows))
        scoring = DeviceScoring(corpus)
        scoring.take_reference(model, 0)
        with model.mix({"blk.3.ffn_down.weight": "Q4_0"}):
            assert_like_the_hosts(scoring.score(model, 0), exact)


def test_starting_at_a_layer_is_tried_on_the_device(placed: Model, corpus: Corpus) -> None:
    scoring, host = DeviceScoring(corpus), HostScoring(corpus)
    traces = [s.take_reference(placed, 0, [1]) for s in (scoring, host)]
    assert all(trace is not None for trace in traces)
    on_device, on_host = (t for t in traces if t is not None)
    assert on_device.layers == on_host.layers == (1,)
    assert scoring.repeats(placed, on_device, 1) == host.repeats(placed, on_host, 1)
    with placed.mix({matrix_of(placed): "Q2_K" if is_block_filled(placed) else "Q4_0"}):
        assert not scoring.repeats(placed, on_device, 1)


def is_block_filled(model: Model) -> bool:
    name = matrix_of(model)
    return next(t.shape[0] for t in model.tensors if t.name == name) % 256 == 0


def test_a_pass_that_fails_says_why(builtin_model: Path, device: str, eval_text: str) -> None:
    with Model(builtin_model, device=device, n_threads=1) as model:
        corpus = corpus_of(model, eval_text)
        scorer = LogitScorer()
        scorer.begin(corpus.targets(0)[:-1])
        with pytest.raises(BackendError, match="more than were asked for"):
            scorer.run(model, corpus.inputs[0], first=corpus.first, last=N_CTX - 1)
        scorer.begin(np.append(corpus.targets(0), 0).astype(np.int32))
        with pytest.raises(BackendError, match="logits of 47 positions where 48"):
            scorer.run(model, corpus.inputs[0], first=corpus.first, last=N_CTX - 1)
        scorer.begin(np.full(corpus.n_scored, 10**6, np.int32))
        with pytest.raises(ShapeError, match="target 1000000"):
            scorer.run(model, corpus.inputs[0], first=corpus.first, last=N_CTX - 1)
        with pytest.raises(ShapeError, match="keeps 0 rows"):
            scorer.begin(corpus.targets(0), LogitScorer(keeps=True))
        # The model is as it was.
        assert np.isfinite(model.logits(corpus.inputs[0])).all()


# ---- Rows of logits ---------------------------------------------------------------------------------


def scored(
    device: str, rows: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], *, compares: bool = False
) -> tuple[RowScores, bool]:
    targets = (np.arange(len(rows)) % rows.shape[1]).astype(np.int32)
    kept, scorer = LogitScorer(keeps=True), LogitScorer()
    kept.begin(targets)
    kept.add_rows(reference, "CPU" if device == "cpu" else device)
    scorer.begin(targets, kept, compares=compares)
    scorer.add_rows(rows, "CPU" if device == "cpu" else device)
    return scorer.scores, scorer.is_equal


def exactly(rows: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> TokenScores:
    tokens = np.concatenate([[0] * (len(rows) + 1), np.arange(len(rows) + 1) % rows.shape[1]])
    n = len(rows)
    corpus = Corpus(np.zeros((1, 2 * n + 2), np.int32), np.zeros((1, 2 * n + 2), np.int32))
    corpus.tokens[0, corpus.first + 1 :] = np.arange(n) % rows.shape[1]
    assert len(tokens) == 2 * n + 2
    return score_chunk(rows, corpus, 0, Reference.of(reference))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 40),
    n_vocab=st.integers(2, 3000),
    spread=st.sampled_from([1e-3, 1.0, 10.0, 40.0]),
    change=st.sampled_from([0.0, 1e-4, 1e-2, 1.0, 30.0]),
)
def test_scores_of_any_rows_are_the_hosts(
    device: str, seed: int, n_rows: int, n_vocab: int, spread: float, change: float
) -> None:
    rng = np.random.default_rng(seed)
    reference = (spread * rng.standard_normal((n_rows, n_vocab))).astype(np.float32)
    rows = (reference + change * rng.standard_normal(reference.shape)).astype(np.float32)
    exact = exactly(rows, reference)
    found, is_equal = scored(device, rows, reference, compares=True)
    assert exact.kld is not None
    assert exact.nll_ref is not None
    # Logits of this size are float32 numbers, and so are their differences.
    scale = 1 + np.abs(exact.nll[0]).max() + spread + change
    np.testing.assert_allclose(found.kld, exact.kld[0], rtol=KLD_SHARE, atol=KLD_TOLERANCE * scale)
    np.testing.assert_allclose(found.nll, exact.nll[0], rtol=0, atol=NLL_TOLERANCE * scale)
    np.testing.assert_allclose(found.nll_ref, exact.nll_ref[0], rtol=0, atol=NLL_TOLERANCE * scale)
    assert is_equal == np.array_equal(rows, reference)
    if change == 0.0:
        assert found.same_top.all()
        assert np.abs(found.kld).max() == 0.0


def test_a_token_that_both_rule_out_counts_nothing(device: str) -> None:
    reference = np.array([[1.0, 2.0, -np.inf, 0.5]], np.float32)
    rows = np.array([[1.1, 1.9, -np.inf, 0.4]], np.float32)
    exact = exactly(rows, reference)
    found, _ = scored(device, rows, reference)
    assert exact.kld is not None
    np.testing.assert_allclose(found.kld, exact.kld[0], rtol=KLD_SHARE, atol=KLD_TOLERANCE)


def test_a_token_that_only_the_model_rules_out_is_infinitely_far(device: str) -> None:
    reference = np.array([[1.0, 2.0, 0.5]], np.float32)
    rows = np.array([[1.0, -np.inf, 0.5]], np.float32)
    assert scored(device, rows, reference)[0].kld[0] == np.inf


def test_a_token_that_the_reference_all_but_rules_out_is_no_error(device: str) -> None:
    reference = np.array([[100.0, 0.0, -100.0, 1.0]], np.float32)
    rows = np.array([[100.0, 0.0, 99.0, 1.0]], np.float32)
    exact = exactly(rows, reference)
    found, _ = scored(device, rows, reference)
    assert exact.kld is not None
    np.testing.assert_allclose(found.kld, exact.kld[0], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("whole_row", [False, True])
def test_rows_that_are_no_numbers_are_found(device: str, bad: float, whole_row: bool) -> None:
    reference = np.ones((3, 7), np.float32)
    rows = reference.copy()
    rows[1, slice(None) if whole_row else 2] = bad
    found, is_equal = scored(device, rows, reference, compares=True)
    assert np.isnan(found.kld).tolist() == [False, True, False]
    assert np.isnan(found.nll).tolist() == [False, True, False]
    assert not is_equal


def test_a_model_of_no_numbers_cannot_be_measured(
    device: str, builtin_model: Path, eval_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(builtin_model, device=device, n_threads=1) as model:
        corpus = corpus_of(model, eval_text)
        scoring = DeviceScoring(corpus)
        nan = RowScores(
            *(np.full(corpus.n_scored, np.nan) for _ in range(4)), np.zeros(corpus.n_scored, np.uint8)
        )
        monkeypatch.setattr(LogitScorer, "scores", nan)
        with pytest.raises(NonFiniteError, match="chunk 0"):
            scoring.score(model, 0)


# ---- Whole measurements -----------------------------------------------------------------------------


def test_a_model_measures_alike_on_every_device(
    path: Path, placed: Model, corpus: Corpus, device: str
) -> None:
    name = matrix_of(placed)
    with Model(path, n_threads=1) as on_cpu:
        with placed.mix({name: "Q4_0"}), on_cpu.mix({name: "Q4_0"}):
            ppl, expected = (evaluate(model, corpus)[0].ppl for model in (placed, on_cpu))
        assert ppl == pytest.approx(expected, rel=1e-5 if is_exact(device) else GPU_PPL_SHARE)
        klds = []
        for model in (placed, on_cpu):
            results = score_mixes(model, VariantPool(model, {}), corpus, {0: ["x"]}, {"x": {name: "Q4_0"}})
            scores = next(iter(results)).scores
            assert scores.kld is not None
            klds.append(float(scores.kld.mean()))
        assert klds[0] == pytest.approx(klds[1], rel=1e-4 if is_exact(device) else GPU_KLD_SHARE)


def test_importances_summed_up_on_a_device(path: Path, placed: Model, corpus: Corpus, device: str) -> None:
    with Model(path, n_threads=1) as on_cpu:
        expected = on_cpu.activations(corpus.inputs)
    found = placed.activations(corpus.inputs, sums_on_device=True)
    assert found.keys() == expected.keys()
    share = IMATRIX_SHARE if is_exact(device) else GPU_IMATRIX_SHARE
    for name, sums in found.items():
        np.testing.assert_array_equal(sums.counts, expected[name].counts, err_msg=name)
        largest = float(expected[name].sum_squares.max())
        np.testing.assert_allclose(
            sums.sum_squares, expected[name].sum_squares, rtol=share, atol=share * largest, err_msg=name
        )
        spread = np.sqrt(expected[name].sum_squares.max() * N_CTX * N_CHUNKS)
        np.testing.assert_allclose(
            sums.sums, expected[name].sums, rtol=share, atol=share * spread, err_msg=name
        )


def test_importances_of_main_memory_are_upstreams_to_the_bit(builtin_model: Path, eval_text: str) -> None:
    with Model(builtin_model, n_threads=1) as model:
        corpus = corpus_of(model, eval_text)
        one, other = (model.activations(corpus.inputs, sums_on_device=d) for d in (False, True))
    assert any(not np.array_equal(one[n].sum_squares, other[n].sum_squares) for n in one)


def test_layers_are_split_between_a_device_and_main_memory(
    builtin_model: Path, device: str, eval_text: str
) -> None:
    if device == "cpu":
        pytest.skip("nothing to split")
    with Model(builtin_model, n_threads=1) as on_cpu:
        tokens = corpus_of(on_cpu, eval_text).inputs[0]
        expected = on_cpu.logits(tokens)
    with Model(builtin_model, device=device, n_gpu_layers=4, n_threads=1) as model:
        layers: dict[bool, set[str]] = {False: set(), True: set()}
        for tensor in model.tensors:
            if tensor.name.startswith("blk."):
                is_away = device in tensor.buffer and "host" not in tensor.buffer.lower()
                layers[is_away].add(tensor.name.split(".")[1])
        # The head is the fourth.
        assert layers == {False: {"0", "1", "2", "3", "4"}, True: {"5", "6", "7"}}
        found = model.logits(tokens)
    if is_exact(device):
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * float(np.abs(expected).max()))


def test_states_kept_on_the_way_start_passes_on_a_device(
    builtin_model: Path, device: str, eval_text: str
) -> None:
    with Model(builtin_model, device=device, n_threads=1) as model:
        tokens = corpus_of(model, eval_text).inputs[0]
        trace, whole = model.trace(tokens, [3, 8])
        assert isinstance(trace, Trace)
        for layer in (3, 8):
            found, restarted = model.resume(trace, layer)
            assert restarted
            assert np.array_equal(found, whole)


# ---- Studies ----------------------------------------------------------------------------------------


def gpu_of(name: str, description: str, free: int) -> Device:
    return Device(name, description, "gpu", free, 2 * free, ())


@pytest.mark.parametrize(
    ("compute", "place"),
    [
        (Compute(), "cpu"),
        (Compute(device="CUDA1"), "card B"),
        (Compute(device="CUDA0,CUDA1"), "card A, card B"),
        (Compute(device="auto"), "card A, card B"),
        (Compute(device="auto", n_gpu_layers=7), "card A, card B -ngl 7"),
        (Compute(device="auto", n_gpu_layers=0), "cpu"),
        (Compute(n_gpu_layers=5), "card A, card B -ngl 5"),  # as llama.cpp's users write it
    ],
)
def test_numbers_of_different_devices_never_meet(
    tmp_path: Path, builtin_model: Path, monkeypatch: pytest.MonkeyPatch, compute: Compute, place: str
) -> None:
    gpus = (gpu_of("CUDA0", "card A", 8 << 30), gpu_of("CUDA1", "card B", 4 << 30))
    monkeypatch.setattr(study_module, "devices", lambda: gpus)
    with Store.open(tmp_path) as store, Study(builtin_model, store, compute=compute) as study:
        assert study.build.endswith(f" {place}")


def test_variants_take_half_of_what_a_device_has_left(
    tmp_path: Path, builtin_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "devices", lambda: (gpu_of("CUDA0", "card", 1 << 20),))
    with Store.open(tmp_path) as store:
        for compute, expected in (
            (Compute(device="auto"), 1 << 19),
            (Compute(device="auto", memory_bytes=77), 77),
            (Compute(), memory_limit_bytes() // 2),
        ):
            with Study(builtin_model, store, compute=compute) as study:
                assert study.memory_bytes == expected
