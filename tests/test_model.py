"""A loaded model: logits, exchanged tensors, activations.

Exchanging a tensor must compute what a file with that tensor computes, to the bit; llama.cpp itself writes
the file. Evaluation runs on one thread: the models are tiny, and spinning threads would cost more than they
save.
"""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mqnative.core.model import Model
from mqnative.core.presets import preset_types, quantizable, upstream_quantize
from mqnative.core.quantize import quantize
from mqnative.errors import (
    BackendError,
    GGUFError,
    ImatrixError,
    ModelLoadError,
    MQNativeError,
    NonFiniteError,
    OperationCancelled,
    QuantizeError,
    ShapeError,
    UnsupportedTypeError,
)
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.imatrix import read_imatrix
from mqnative.formats.qtypes import all_types, qtype
from tiny_models import (
    N_EMBD,
    N_EXPERT,
    N_EXPERT_USED,
    NORM_EPS,
    SLIDING_WINDOW,
    Floats,
    TinyModels,
    llama_model,
    moe_model,
    sliding_model,
    write_model,
)

SEED = 31
N_TOKENS = 64
TARGETS = [t.name for t in all_types().values() if t.is_target]
SINGLE_FILES = ("dense", "moe", "sliding", "odd_rows", "recurrent")
ARCHITECTURES = ("builtin", *SINGLE_FILES)

EPS32 = float(np.finfo(np.float32).eps)

Tokens = npt.NDArray[np.int32]


@pytest.fixture(scope="module")
def path_of(builtin_model: Path, tiny_models: TinyModels) -> Any:
    """A model's path by its label."""
    return lambda label: builtin_model if label == "builtin" else getattr(tiny_models, label)


@pytest.fixture(scope="module")
def model(builtin_model: Path) -> Iterator[Model]:
    """The built-in model; tests leave it as they found it."""
    with Model(builtin_model, n_threads=1) as loaded:
        yield loaded
        assert loaded.swapped == ()


@pytest.fixture(scope="module")
def tokens(model: Model, eval_text: str) -> Tokens:
    """Real text; every model has the same vocabulary."""
    return model.tokenize(eval_text[:20_000])


@pytest.fixture(scope="module")
def baseline(model: Model, tokens: Tokens) -> Floats:
    return model.logits(tokens[:N_TOKENS])


def importances(n_slices: int, n_per_row: int) -> Floats:
    rng = np.random.default_rng([SEED, n_slices, n_per_row])
    return rng.gamma(0.5, 1.0, (n_slices, n_per_row)).astype(np.float32)


def quantizable_tensors(path: Path) -> dict[str, tuple[int, ...]]:
    with GGUFFile.open(path) as file:
        shapes = {n: i.shape for n, i in file.tensors.items()}
        verdicts = quantizable(str(file.architecture), shapes)
    return {n: shape for n, shape in shapes.items() if verdicts[n]}


def imatrix_for(shapes: dict[str, tuple[int, ...]]) -> dict[str, Floats]:
    return {n: importances(s[2] if len(s) > 2 else 1, s[0]) for n, s in shapes.items()}


# ---- Loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [*ARCHITECTURES, "split"])
def test_every_architecture_loads_and_gives_finite_logits(label: str, path_of: Any, tokens: Tokens) -> None:
    with Model(path_of(label), n_threads=1) as loaded:
        logits = loaded.logits(tokens[:N_TOKENS])
        assert logits.shape == (N_TOKENS, loaded.vocab.n_vocab)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.std() > 0.5  # not collapsed


def test_a_split_model_computes_what_the_whole_one_does(
    tiny_models: TinyModels, tokens: Tokens, baseline: Floats
) -> None:
    with Model(tiny_models.split, n_threads=1) as loaded:
        assert np.array_equal(loaded.logits(tokens[:N_TOKENS]), baseline)


def test_vocabulary_and_sizes_are_those_of_the_file(model: Model, builtin_model: Path) -> None:
    with GGUFFile.open(builtin_model) as file:
        assert model.vocab.n_vocab == len(file.get("tokenizer.ggml.tokens"))
        assert model.vocab.bos == file.get("tokenizer.ggml.bos_token_id")
        assert model.vocab.eos == file.get("tokenizer.ggml.eos_token_id")
        assert model.vocab.add_bos == file.get("tokenizer.ggml.add_bos_token")
        assert model.vocab.add_eos == file.get("tokenizer.ggml.add_eos_token")
        assert model.vocab.n_ctx_train == file.get("qwen3.context_length")
        assert model.vocab.n_layer == file.get("qwen3.block_count")
        assert model.vocab.n_embd == file.get("qwen3.embedding_length")
    assert "qwen3" in model.vocab.description


@pytest.mark.parametrize("label", ARCHITECTURES)
def test_the_tensors_are_those_of_the_file(label: str, path_of: Any) -> None:
    with GGUFFile.open(path_of(label)) as file, Model(path_of(label), n_threads=1) as loaded:
        found = {t.name: (t.shape, t.qtype) for t in loaded.tensors}
        assert found == {n: (i.shape, i.qtype.name) for n, i in file.tensors.items()}
        assert all("CPU" in t.buffer for t in loaded.tensors)


def test_loading_reports_per_mille(builtin_model: Path, recording_monitor: Any) -> None:
    with Model(builtin_model, n_threads=1, monitor=recording_monitor):
        pass
    assert recording_monitor.started == [("load", 1000, "per mille")]
    assert recording_monitor.updates == sorted(recording_monitor.updates)
    assert recording_monitor.updates[-1] == 1000
    assert recording_monitor.finished == 1


@dataclass
class StoppingMonitor:
    """Raises at a report."""

    error: Exception
    done: int = -1

    def start(self, step: str, total: int, unit: str) -> None:
        self.step, self.total, self.unit = step, total, unit

    def update(self, done: int) -> None:
        self.done = done
        raise self.error

    def finish(self) -> None:
        raise AssertionError("a stopped step does not finish")


def test_a_monitor_that_raises_stops_loading(builtin_model: Path) -> None:
    monitor = StoppingMonitor(OperationCancelled("enough"))
    with pytest.raises(OperationCancelled, match="enough"):
        Model(builtin_model, n_threads=1, monitor=monitor)


def test_a_missing_file_is_a_gguf_error(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="does not exist"):
        Model(tmp_path / "absent.gguf")


def test_a_truncated_file_never_reaches_llama_cpp(builtin_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(builtin_model.read_bytes()[:-100_000])
    with pytest.raises(GGUFError):
        Model(path)


def broken_model(tiny_models: TinyModels, what: str) -> Path:
    metadata, tensors = llama_model(n_embd=N_EMBD, n_ff=512, n_head=4, n_head_kv=2)
    if what == "unknown architecture":
        metadata["general.architecture"] = MetaValue.string("nosucharch")
    elif what == "missing tensor":
        del tensors["blk.1.ffn_up.weight"]
    elif what == "wrong shape":
        tensors["blk.1.ffn_up.weight"] = tensors["blk.1.attn_q.weight"]
    elif what == "missing key":
        del metadata["llama.context_length"]
    path = tiny_models.folder / f"broken {what}.gguf"
    return path if path.exists() else tiny_models.write(path.stem, (metadata, tensors))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unknown architecture", "nosucharch"),
        ("missing tensor", "blk.1.ffn_up.weight"),
        ("wrong shape", "blk.1.ffn_up.weight"),
        ("missing key", "llama.context_length"),
    ],
)
def test_a_model_that_llama_cpp_refuses_says_why(what: str, said: str, tiny_models: TinyModels) -> None:
    path = broken_model(tiny_models, what)
    with pytest.raises(ModelLoadError, match="cannot load") as caught:
        Model(path)
    assert caught.value.path == str(path)
    assert said in caught.value.log


def test_the_reason_llama_cpp_gave_is_in_the_message(tiny_models: TinyModels) -> None:
    with pytest.raises(ModelLoadError) as caught:
        Model(broken_model(tiny_models, "missing tensor"))
    assert "blk.1.ffn_up.weight" in caught.value.message


def test_an_unknown_device_is_refused_with_the_known_ones(builtin_model: Path) -> None:
    with pytest.raises(MQNativeError, match="CPU") as caught:
        Model(builtin_model, device="NOSUCH7")
    assert "NOSUCH7" in caught.value.message


# ---- Tokens -----------------------------------------------------------------------------------------


def test_pieces_of_the_tokens_are_the_text(model: Model, eval_text: str) -> None:
    text = eval_text[:5000]
    ids = model.tokenize(text, add_special=False)
    assert ids.dtype == np.int32
    # This tokenizer puts a space before the text.
    assert "".join(model.text_of(int(t)) for t in ids) == " " + text


def test_special_tokens_are_added_and_parsed_only_on_request(model: Model) -> None:
    bos, eos = model.vocab.bos, model.vocab.eos
    plain = model.tokenize("a</s>b", add_special=False).tolist()
    assert eos not in plain
    assert model.tokenize("a</s>b").tolist() == [bos, *plain]
    assert eos in model.tokenize("a</s>b", add_special=False, parse_special=True)
    assert model.tokenize("").tolist() == [bos]
    assert model.tokenize("", add_special=False).tolist() == []


def test_any_text_and_undecodable_bytes_are_tokenized(model: Model) -> None:
    for raw in (b"\xff\xfe\x00", "zwölf 日本 🥊".encode(), bytes(range(256)), b"\n" * 100):
        ids = model.tokenize(raw.decode("utf-8", "surrogateescape"), add_special=False)
        pieces = [model._handle.piece(int(t)) for t in ids]
        assert b"".join(pieces) == b" " + raw


def test_a_token_outside_the_vocabulary_has_no_text(model: Model) -> None:
    for token in (-1, model.vocab.n_vocab):
        with pytest.raises(ShapeError, match=str(token)):
            model.text_of(token)


# ---- Logits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ARCHITECTURES)
def test_every_call_starts_from_an_empty_cache(label: str, path_of: Any, tokens: Tokens) -> None:
    with Model(path_of(label), n_threads=1) as loaded:
        first = loaded.logits(tokens[:N_TOKENS])
        other = loaded.logits(tokens[N_TOKENS : 2 * N_TOKENS])
        again = loaded.logits(tokens[:N_TOKENS])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_part_of_the_positions_gives_the_same_rows(model: Model, tokens: Tokens, baseline: Floats) -> None:
    """Not to the bit: with fewer rows the last products may be summed in another order."""
    ids = tokens[:N_TOKENS]
    # A logit is a sum of N_EMBD float32 products.
    tolerance = N_EMBD * EPS32 * np.abs(baseline).max()
    for first, last in ((32, None), (0, 7), (63, None), (31, 33)):
        part = model.logits(ids, first=first, last=last)
        np.testing.assert_allclose(part, baseline[first:last], rtol=0, atol=tolerance)


def test_the_first_logits_do_not_see_later_tokens(model: Model, tokens: Tokens, baseline: Floats) -> None:
    changed = tokens[:N_TOKENS].copy()
    changed[40:] = 7
    logits = model.logits(changed)
    assert np.array_equal(logits[:40], baseline[:40])
    assert not np.array_equal(logits[40:], baseline[40:])


def test_a_sliding_window_forgets_what_lies_before_it(tiny_models: TinyModels, tokens: Tokens) -> None:
    """With both layers sliding, a token reaches no further than two windows."""
    metadata, tensors = sliding_model()
    # A pattern of 0 makes every layer slide (llama_hparams::set_swa_pattern).
    metadata["gemma2.attention.sliding_window_pattern"] = MetaValue.u32(0)
    path = tiny_models.write("sliding only", (metadata, tensors))
    ids = tokens[:N_TOKENS].copy()
    with Model(path, n_threads=1) as loaded:
        logits = loaded.logits(ids)
        ids[0] = 9
        changed = loaded.logits(ids)
    differ = (logits != changed).any(axis=1)
    reach = 2 * (SLIDING_WINDOW - 1)
    assert differ[: reach // 2].any()
    assert not differ[reach + 1 :].any()


def test_logits_do_not_depend_on_the_number_of_threads(
    builtin_model: Path, tokens: Tokens, baseline: Floats
) -> None:
    with Model(builtin_model, n_threads=2) as loaded:
        assert np.array_equal(loaded.logits(tokens[:N_TOKENS]), baseline)
        loaded.set_threads(1)
        assert loaded.n_threads == 1
        assert np.array_equal(loaded.logits(tokens[:N_TOKENS]), baseline)


def test_logits_are_written_into_the_array_that_is_given(
    model: Model, tokens: Tokens, baseline: Floats
) -> None:
    out = np.empty_like(baseline)
    assert model.logits(tokens[:N_TOKENS], out=out) is out
    assert np.array_equal(out, baseline)


def test_an_array_that_does_not_fit_is_refused(model: Model, tokens: Tokens) -> None:
    for shape in ((N_TOKENS, 4095), (N_TOKENS - 1, 4096), (0, 4096)):
        with pytest.raises(ShapeError):
            model.logits(tokens[:N_TOKENS], out=np.empty(shape, np.float32))
    with pytest.raises(ShapeError, match="contiguous"):
        model.logits(tokens[:N_TOKENS], out=np.empty((2 * N_TOKENS, 4096), np.float32)[::2])
    read_only = np.empty((N_TOKENS, 4096), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ShapeError, match="writable"):
        model.logits(tokens[:N_TOKENS], out=read_only)


def test_an_array_of_another_dtype_is_refused(model: Model, tokens: Tokens) -> None:
    with pytest.raises(ShapeError):
        model.logits(tokens[:N_TOKENS], out=np.empty((N_TOKENS, 4096), np.int32))  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "last"), [(0, 0), (5, 5), (6, 5), (-1, 5), (0, N_TOKENS + 1)])
def test_positions_outside_the_sequence_are_refused(
    model: Model, tokens: Tokens, first: int, last: int
) -> None:
    with pytest.raises(ShapeError, match="positions"):
        model.logits(tokens[:N_TOKENS], first=first, last=last)


def test_no_tokens_and_tokens_outside_the_vocabulary_are_refused(model: Model) -> None:
    with pytest.raises(ShapeError):
        model.logits(np.empty(0, np.int32))
    for bad in (-1, 4096):
        with pytest.raises(ShapeError, match=f"token {bad} "):
            model.logits(np.array([1, bad], np.int32))


# ---- One exchanged tensor ---------------------------------------------------------------------------


@dataclass
class Case:
    """One tensor of a loaded model, and what llama.cpp needs to requantize that tensor alone."""

    path: Path
    name: str
    model: Model
    tokens: Tokens
    baseline: Floats
    types: dict[str, str]  # of every tensor that can be quantized
    imatrix: Floats
    folder: Path

    def logits_of_file(self, target: str) -> Floats:
        """What the file computes that llama.cpp writes with this tensor as ``target``."""
        out = self.folder / "requantized.gguf"
        out.unlink(missing_ok=True)
        upstream_quantize(
            self.path,
            out,
            "Q8_0",
            types={**self.types, self.name: target},
            imatrix={self.name: self.imatrix},
            pure=True,
            n_threads=2,
        )
        with Model(out, n_threads=1) as loaded:
            changed = {t.name for t in loaded.tensors if t.qtype != self.types.get(t.name, t.qtype)}
            assert changed == ({self.name} if target != self.types[self.name] else set())
            return loaded.logits(self.tokens)

    def logits_of_swap(self, target: str) -> Floats:
        """What the loaded model computes with this tensor as ``target``."""
        self.model.set_threads(2)
        variant = self.model.encode(self.name, target, self.imatrix)
        assert (variant.name, variant.qtype) == (self.name, target)
        self.model.set_threads(1)
        self.model.swap(variant)
        try:
            return self.model.logits(self.tokens)
        finally:
            self.model.restore()


@pytest.fixture(
    scope="module",
    params=[
        ("dense", "blk.1.ffn_down.weight"),
        ("dense", "token_embd.weight"),  # tied: rows are read and multiplied with
        ("moe", "blk.0.ffn_down_exps.weight"),
        ("recurrent", "blk.1.ssm_in.weight"),
        ("builtin", "blk.3.attn_v.weight"),
    ],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def case(
    request: pytest.FixtureRequest, path_of: Any, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    label, name = request.param
    path = path_of(label)
    shapes = quantizable_tensors(path)
    with GGUFFile.open(path) as file:
        types = {n: file.tensors[n].qtype.name for n in shapes}
    with Model(path, n_threads=1) as loaded:
        yield Case(
            path=path,
            name=name,
            model=loaded,
            tokens=tokens[:N_TOKENS],
            baseline=loaded.logits(tokens[:N_TOKENS]),
            types=types,
            imatrix=imatrix_for(shapes)[name],
            folder=tmp_path_factory.mktemp("requantized"),
        )


@pytest.mark.parametrize("target", TARGETS)
def test_a_swapped_tensor_computes_what_its_file_computes(case: Case, target: str) -> None:
    swapped = case.logits_of_swap(target)
    assert np.array_equal(swapped, case.logits_of_file(target))
    exact = target == "F32" or target == case.types[case.name]
    if not exact:
        assert not np.array_equal(swapped, case.baseline)
    assert np.array_equal(case.model.logits(case.tokens), case.baseline)


# ---- Many exchanged tensors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "preset"), [*((label, "Q4_K_M") for label in ARCHITECTURES), ("dense", "IQ3_XXS")]
)
def test_a_whole_mix_computes_what_its_file_computes(
    label: str, preset: str, path_of: Any, tokens: Tokens, tmp_path: Path
) -> None:
    path = path_of(label)
    shapes = quantizable_tensors(path)
    imatrix = imatrix_for(shapes)
    upstream_quantize(path, tmp_path / "mix.gguf", preset, imatrix=imatrix, n_threads=2)
    with Model(tmp_path / "mix.gguf", n_threads=1) as loaded:
        wanted = loaded.logits(tokens[:N_TOKENS])
        types = {t.name: t.qtype for t in loaded.tensors if t.name in shapes}
    assert types.items() <= preset_types(path, preset, with_imatrix=True).items()
    with Model(path, n_threads=1) as loaded:
        before = loaded.logits(tokens[:N_TOKENS])
        with loaded.mix(types, imatrix) as mixed:
            assert set(mixed.swapped) == set(types)
            assert {t.name: t.qtype for t in mixed.tensors if t.name in types} == types
            assert np.array_equal(mixed.logits(tokens[:N_TOKENS]), wanted)
        assert loaded.swapped == ()
        assert np.array_equal(loaded.logits(tokens[:N_TOKENS]), before)


def test_a_mix_is_restored_after_an_exception(model: Model, tokens: Tokens, baseline: Floats) -> None:
    with pytest.raises(KeyError), model.mix({"blk.0.attn_q.weight": "Q2_K"}):
        raise KeyError
    assert model.swapped == ()
    assert np.array_equal(model.logits(tokens[:N_TOKENS]), baseline)


def test_a_mix_that_cannot_be_encoded_changes_nothing(model: Model, tokens: Tokens, baseline: Floats) -> None:
    types = {"blk.0.attn_q.weight": "Q2_K", "blk.0.attn_norm.weight": "Q2_K"}
    with pytest.raises(UnsupportedTypeError), model.mix(types):
        raise AssertionError("not reached")
    assert model.swapped == ()
    assert np.array_equal(model.logits(tokens[:N_TOKENS]), baseline)


def test_encoded_variants_can_join_a_mix(model: Model, tokens: Tokens) -> None:
    types = {"blk.0.attn_q.weight": "Q2_K", "blk.1.attn_q.weight": "Q3_K"}
    with model.mix(types):
        wanted = model.logits(tokens[:N_TOKENS])
    variant = model.encode("blk.1.attn_q.weight", "Q3_K")
    with model.mix({"blk.0.attn_q.weight": "Q2_K"}, variants=[variant]):
        assert np.array_equal(model.logits(tokens[:N_TOKENS]), wanted)


def test_tensors_are_restored_one_by_one(model: Model, tokens: Tokens, baseline: Floats) -> None:
    ids = tokens[:N_TOKENS]
    a = model.encode("blk.2.attn_q.weight", "Q2_K")
    b = model.encode("blk.5.ffn_up.weight", "Q3_K")
    model.swap(a)
    only_a = model.logits(ids)
    model.swap(b)
    assert set(model.swapped) == {a.name, b.name}
    both = model.logits(ids)
    model.restore(b.name)
    assert np.array_equal(model.logits(ids), only_a)
    model.swap(b)
    assert np.array_equal(model.logits(ids), both)
    model.restore(a.name, b.name)
    assert np.array_equal(model.logits(ids), baseline)
    assert not np.array_equal(only_a, both)
    model.restore(a.name)  # not exchanged: nothing happens
    model.restore()
    assert np.array_equal(model.logits(ids), baseline)


def test_a_second_variant_of_a_tensor_replaces_the_first(
    model: Model, tokens: Tokens, baseline: Floats
) -> None:
    ids = tokens[:N_TOKENS]
    name = "blk.2.ffn_down.weight"
    coarse, fine = model.encode(name, "Q2_K"), model.encode(name, "Q6_K")
    model.swap(fine)
    wanted = model.logits(ids)
    model.swap(coarse)
    model.swap(fine)
    assert np.array_equal(model.logits(ids), wanted)
    model.swap(coarse)
    model.restore(name)
    assert np.array_equal(model.logits(ids), baseline)


def test_a_variant_is_always_made_from_the_original_weights(model: Model, tokens: Tokens) -> None:
    name, ids = "blk.2.ffn_down.weight", tokens[:N_TOKENS]
    model.swap(model.encode(name, "Q8_0"))
    wanted = model.logits(ids)
    model.swap(model.encode(name, "Q2_K"))
    model.swap(model.encode(name, "Q8_0"))
    assert np.array_equal(model.logits(ids), wanted)
    model.restore()


def test_a_swapped_variant_lives_as_long_as_it_is_used(model: Model, tokens: Tokens) -> None:
    ids = tokens[:N_TOKENS]
    variant = model.encode("blk.2.ffn_down.weight", "Q4_K")
    model.swap(variant)
    wanted = model.logits(ids)
    del variant
    gc.collect()
    filler = [model.encode("blk.2.ffn_down.weight", "Q8_0") for _ in range(8)]
    assert np.array_equal(model.logits(ids), wanted)
    del filler
    model.restore()


def test_a_model_may_be_closed_with_tensors_swapped_in(builtin_model: Path) -> None:
    with Model(builtin_model, n_threads=1) as loaded:
        variant = loaded.encode("blk.0.attn_q.weight", "Q4_K")
        loaded.swap(variant)
    gc.collect()
    assert variant.qtype == "Q4_K"


def test_borrowed_logits_are_those_that_are_copied(builtin_model: Path, tokens: Tokens) -> None:
    with Model(builtin_model, n_threads=1) as loaded:
        with pytest.raises(BackendError, match="nothing was evaluated"):
            loaded._handle.last_logits()
        copied = loaded.logits(tokens, first=3, last=9)
        borrowed = loaded.logits(tokens, first=3, last=9, borrow=True)
        assert np.array_equal(borrowed, copied)
        with pytest.raises(ValueError, match="read-only"):
            borrowed[0, 0] = 0.0
        assert loaded.logits(tokens, first=1, last=3, borrow=True).shape == (2, loaded.vocab.n_vocab)


def test_a_closed_model_says_so(builtin_model: Path, tokens: Tokens) -> None:
    loaded = Model(builtin_model, n_threads=1)
    loaded.close()
    loaded.close()
    with pytest.raises(BackendError, match=f"{builtin_model.name} is closed"):
        loaded.logits(tokens)


@pytest.mark.parametrize("target", ["Q8_0", "Q4_K", "IQ4_XS", "F16"])
def test_blocks_that_were_encoded_before_make_the_same_variant(
    target: str, model: Model, builtin_model: Path, tokens: Tokens
) -> None:
    name = "blk.4.ffn_down.weight"
    with GGUFFile.open(builtin_model) as file:
        blocks = quantize(file.array(name), target)
    encoded, given = model.encode(name, target), model.variant(name, target, blocks)
    assert encoded.size_bytes == given.size_bytes == blocks.size
    results = []
    for variant in (encoded, given):
        model.swap(variant)
        results.append(model.logits(tokens[:N_TOKENS]))
        model.restore()
    assert np.array_equal(*results)


def test_blocks_of_another_size_or_with_bad_scales_are_refused(model: Model) -> None:
    name = "blk.0.attn_q.weight"
    size = qtype("Q4_K").tensor_bytes((256, 256))
    for n in (0, size - 144, size + 144):
        with pytest.raises(ShapeError) as caught:
            model.variant(name, "Q4_K", np.zeros(n, np.uint8))
        assert (caught.value.expected, caught.value.got) == (size, n)
    with pytest.raises(QuantizeError) as refused:
        model.variant(name, "Q4_K", np.full(size, 0xFF, np.uint8))  # scales of NaN
    assert (refused.value.tensor, refused.value.qtype) == (name, "Q4_K")


def test_encoding_reports_weights(model: Model, recording_monitor: Any) -> None:
    model.encode("blk.0.attn_q.weight", "Q4_K", monitor=recording_monitor)
    assert recording_monitor.started[0][0] == "encode blk.0.attn_q.weight"
    assert recording_monitor.updates[-1] == 256 * 256


# ---- What cannot be exchanged -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("dense", "blk.0.attn_norm.weight"),
        ("dense", "output_norm.weight"),
        ("moe", "blk.0.ffn_gate_inp.weight"),
        ("moe", "blk.1.attn_q_norm.weight"),
        ("recurrent", "blk.0.ssm_conv1d.weight"),
        ("recurrent", "blk.0.ssm_a"),
        ("recurrent", "blk.0.ssm_dt.bias"),
    ],
)
def test_norms_routers_and_states_are_refused(label: str, name: str, path_of: Any) -> None:
    with Model(path_of(label), n_threads=1) as loaded:
        shape = next(t.shape for t in loaded.tensors if t.name == name)
        blocks = np.zeros(2 * int(np.prod(shape)), np.uint8)
        for refused in (
            lambda: loaded.encode(name, "F16"),
            lambda: loaded.variant(name, "F16", blocks),
        ):
            with pytest.raises(UnsupportedTypeError) as caught:
                refused()
            assert (caught.value.tensor, caught.value.reason) == (name, "never quantized")


def test_an_absent_tensor_is_refused(model: Model) -> None:
    for refused in (
        lambda: model.encode("blk.99.attn_q.weight", "Q4_K"),
        lambda: model.variant("blk.99.attn_q.weight", "Q4_K", np.zeros(144, np.uint8)),
        lambda: model.restore("blk.99.attn_q.weight"),
    ):
        with pytest.raises(UnsupportedTypeError) as caught:
            refused()
        assert (caught.value.tensor, caught.value.reason) == ("blk.99.attn_q.weight", "absent")


def test_an_absent_tensor_is_refused_also_with_importances(model: Model) -> None:
    with pytest.raises(UnsupportedTypeError):
        model.encode("blk.99.attn_q.weight", "Q4_K", np.ones(256, np.float32))


def test_rows_that_do_not_fill_blocks_are_refused(tiny_models: TinyModels) -> None:
    with Model(tiny_models.odd_rows, n_threads=1) as loaded:
        with pytest.raises(UnsupportedTypeError) as caught:
            loaded.encode("blk.0.attn_q.weight", "Q4_K")
        assert (caught.value.qtype, caught.value.reason) == ("Q4_K", "row size")
        assert loaded.encode("blk.0.attn_q.weight", "Q5_0").qtype == "Q5_0"


def test_types_and_importances_are_checked_as_in_quantize(model: Model) -> None:
    name = "blk.0.attn_q.weight"
    with pytest.raises(UnsupportedTypeError, match="no encoder"):
        model.encode(name, "Q8_1")
    with pytest.raises(ImatrixError, match="IQ2_XS needs importances"):
        model.encode(name, "IQ2_XS")
    with pytest.raises(ShapeError):
        model.encode(name, "Q4_K", np.ones(255, np.float32))
    with pytest.raises(ImatrixError, match="importance 3 "):
        model.encode(name, "Q4_K", np.where(np.arange(256) == 3, np.nan, 1).astype(np.float32))


def test_a_variant_of_another_model_is_refused_and_nothing_is_swapped(
    model: Model, tiny_models: TinyModels, tokens: Tokens, baseline: Floats
) -> None:
    with Model(tiny_models.odd_rows, n_threads=1) as other:
        strange = other.encode("blk.0.attn_q.weight", "Q8_0")
    own = model.encode("blk.0.attn_k.weight", "Q2_K")
    with pytest.raises(ShapeError, match="another model"):
        model.swap(own, strange)
    assert model.swapped == ()
    assert np.array_equal(model.logits(tokens[:N_TOKENS]), baseline)


def test_a_variant_of_a_tensor_this_model_lacks_is_refused(model: Model, tiny_models: TinyModels) -> None:
    with Model(tiny_models.moe, n_threads=1) as other:
        strange = other.encode("blk.0.ffn_down_exps.weight", "Q8_0")
    with pytest.raises(UnsupportedTypeError) as caught:
        model.swap(strange)
    assert caught.value.reason == "absent"


REPACKED = """
import sys
import numpy as np
from mqnative.core.model import Model
from mqnative.errors import UnsupportedTypeError

name = "blk.0.attn_q.weight"
with Model(sys.argv[1], n_threads=1, repack=True) as model:
    before = model.logits(np.arange(3, 40, dtype=np.int32))
    assert any("REPACK" in t.buffer for t in model.tensors)
    for refused in (
        lambda: model.variant(name, "Q8_0", np.zeros(256 * 272, np.uint8)),
        lambda: model.encode(name, "Q8_0"),
    ):
        try:
            refused()
        except UnsupportedTypeError as error:
            print(error.tensor, error.reason, flush=True)
    assert np.array_equal(model.logits(np.arange(3, 40, dtype=np.int32)), before)
"""


def test_a_repacked_model_refuses_to_swap(builtin_model: Path, tmp_path: Path) -> None:
    upstream_quantize(builtin_model, tmp_path / "q4_0.gguf", "Q4_0", n_threads=2)
    done = subprocess.run(
        [sys.executable, "-c", REPACKED, str(tmp_path / "q4_0.gguf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["blk.0.attn_q.weight repacked"] * 2
    assert done.returncode == 0


# ---- Activations ------------------------------------------------------------------------------------

N_CTX = 32


def float32_sum_tolerance(n: int) -> float:
    """Of a sum of n squares in float32, relative: each addition and each square rounds once.

    The activations come from float32 sums over N_EMBD themselves, whose roundings hardly add up; 4 covers
    those and the norm.
    """
    return float((n + 4 * np.sqrt(N_EMBD)) * EPS32)


def chunks_of(tokens: Tokens, n_chunks: int) -> Tokens:
    return tokens[: n_chunks * N_CTX].reshape(n_chunks, N_CTX)


def rms_normed(x: npt.NDArray[np.float64], weight: Floats) -> npt.NDArray[np.float64]:
    scale = np.sqrt((x**2).mean(axis=-1, keepdims=True) + NORM_EPS)
    return x / scale * weight


@pytest.mark.parametrize("label", ARCHITECTURES)
def test_every_collected_entry_fits_its_tensor_and_counts_every_token(
    label: str, path_of: Any, tokens: Tokens
) -> None:
    chunks = chunks_of(tokens, 3)
    with Model(path_of(label), n_threads=1) as loaded:
        sums = loaded.activations(chunks, process_output=True)
        shapes = {t.name: t.shape for t in loaded.tensors}
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    wanted = {n for n in quantizable_tensors(path_of(label)) if n.startswith("blk.")} | {head}
    assert wanted <= set(sums)
    for name, entry in sums.items():
        shape = shapes[name]
        n_slices = shape[2] if len(shape) > 2 else 1
        assert entry.sum_squares.shape == entry.sums.shape == (n_slices, shape[0])
        used = N_EXPERT_USED if name.endswith("_exps.weight") else 1
        assert entry.counts.shape == (n_slices,)
        assert entry.counts.sum() == used * chunks.size
        # Cauchy and Schwarz: the mean's square is at most the mean square.
        bound = entry.counts[:, None] * entry.sum_squares * (1 + float32_sum_tolerance(chunks.size))
        assert (entry.sums**2 <= bound).all()


def test_inputs_of_the_first_layer_are_the_normed_embeddings(tiny_models: TinyModels, tokens: Tokens) -> None:
    chunks = chunks_of(tokens, 5)
    with GGUFFile.open(tiny_models.dense) as file:
        embedding = file.array("token_embd.weight").astype(np.float64)
        norm = file.array("blk.0.attn_norm.weight")
    x = rms_normed(embedding[chunks.ravel()], norm)
    with Model(tiny_models.dense, n_threads=1) as loaded:
        sums = loaded.activations(chunks)
    tolerance = float32_sum_tolerance(chunks.size)
    for role in "qkv":
        entry = sums[f"blk.0.attn_{role}.weight"]
        assert entry.counts.tolist() == [chunks.size]
        np.testing.assert_allclose(entry.sum_squares[0], (x**2).sum(axis=0), rtol=tolerance)
        assert (np.abs(entry.sums[0] - x.sum(axis=0)) <= tolerance * np.abs(x).sum(axis=0)).all()


def test_inputs_of_the_head_are_what_the_logits_came_from(tiny_models: TinyModels, tokens: Tokens) -> None:
    """The embedding is F32 here, so that a least-squares solution undoes the head to float32's precision."""
    chunks = chunks_of(tokens, 2)
    with GGUFFile.open(tiny_models.dense) as file:
        head = file.array("token_embd.weight").astype(np.float64)
    with Model(tiny_models.dense, n_threads=1) as loaded:
        logits = np.concatenate([loaded.logits(chunk) for chunk in chunks])
        entry = loaded.activations(chunks, process_output=True)["token_embd.weight"]
        assert "token_embd.weight" not in loaded.activations(chunks, process_output=False)
    x = np.linalg.lstsq(head, logits.T.astype(np.float64), rcond=None)[0].T
    # A condition number of about 2 for a tall matrix of noise; 10 covers it and the dot products' rounding.
    tolerance = 10 * float32_sum_tolerance(chunks.size)
    np.testing.assert_allclose(entry.sum_squares[0], (x**2).sum(axis=0), rtol=tolerance)
    assert (np.abs(entry.sums[0] - x.sum(axis=0)) <= tolerance * np.abs(x).sum(axis=0)).all()


def test_each_expert_gets_the_sums_of_the_tokens_that_were_sent_to_it(
    tiny_models: TinyModels, tokens: Tokens
) -> None:
    """Attention that adds nothing makes the first router's input, and so its choice, easy to compute."""
    metadata, tensors = moe_model()
    silent, kind = tensors["blk.0.attn_output.weight"]
    tensors["blk.0.attn_output.weight"] = (np.zeros_like(silent), kind)
    path = tiny_models.write("moe without attention", (metadata, tensors))
    chunks = chunks_of(tokens, 8)
    with Model(path, n_threads=1) as loaded:
        sums = loaded.activations(chunks)
    with GGUFFile.open(path) as file:
        embedding = file.array("token_embd.weight").astype(np.float64)
        norm = file.array("blk.0.ffn_norm.weight")
        router = file.array("blk.0.ffn_gate_inp.weight").astype(np.float64)
        gate = file.array("blk.0.ffn_gate_exps.weight").astype(np.float64)
        up = file.array("blk.0.ffn_up_exps.weight").astype(np.float64)
    x = rms_normed(embedding[chunks.ravel()], norm)
    scores = x @ router.T
    chosen = np.argsort(-scores, axis=1)[:, :N_EXPERT_USED]
    margin = np.diff(np.sort(scores, axis=1)[:, -N_EXPERT_USED - 1 :][:, :2]).min()
    assert margin > 1e-4  # no choice hangs on rounding
    tokens_of = [(chosen == expert).any(axis=1) for expert in range(N_EXPERT)]
    tolerance = float32_sum_tolerance(chunks.size)
    for role in ("gate", "up"):
        entry = sums[f"blk.0.ffn_{role}_exps.weight"]
        for expert, mask in enumerate(tokens_of):
            own = x[mask]
            assert entry.counts[expert] == len(own)
            np.testing.assert_allclose(entry.sum_squares[expert], (own**2).sum(axis=0), rtol=tolerance)
            assert (np.abs(entry.sums[expert] - own.sum(axis=0)) <= tolerance * np.abs(own).sum(axis=0)).all()
    # What enters the last weight differs between the experts of one token. It comes from products in F16:
    # each factor is within 2^-11, and each activation sums N_EMBD of them, whose roundings hardly add up.
    entry = sums["blk.0.ffn_down_exps.weight"]
    for expert, mask in enumerate(tokens_of):
        gated, passed = x[mask] @ gate[expert].T, x[mask] @ up[expert].T
        own = gated / (1 + np.exp(-gated)) * passed
        assert entry.counts[expert] == len(own)
        squares = (own**2).sum(axis=0)
        np.testing.assert_allclose(
            entry.sum_squares[expert], squares, rtol=8 * 2.0**-11, atol=8 * 2.0**-11 * squares.mean()
        )


@pytest.mark.parametrize("label", ["dense", "moe", "sliding", "recurrent"])
def test_sums_over_chunks_add_up(label: str, path_of: Any, tokens: Tokens) -> None:
    """Each chunk is evaluated on its own, whatever was evaluated together with it."""
    chunks = chunks_of(tokens, 4)
    with Model(path_of(label), n_threads=1) as loaded:
        together = loaded.activations(chunks)
        apart = [loaded.activations(chunk[None]) for chunk in chunks]
    # Different batches round differently inside the model, too: attention works on F16 keys and values.
    tolerance = 2.0**-11
    for name, whole in together.items():
        assert np.array_equal(whole.counts, sum(part[name].counts for part in apart))
        total = np.sum([part[name].sum_squares for part in apart], axis=0, dtype=np.float64)
        np.testing.assert_allclose(whole.sum_squares, total, rtol=tolerance, atol=tolerance * total.mean())


@pytest.mark.upstream
@pytest.mark.parametrize("label", [*SINGLE_FILES, "builtin", "split"])
def test_sums_of_squares_are_those_of_llama_imatrix_to_the_bit(
    label: str, path_of: Any, eval_text: str, upstream_bin: Path, tmp_path: Path
) -> None:
    text = eval_text[:10_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    path = path_of(label)
    subprocess.run(
        [
            str(upstream_bin / "llama-imatrix"), "-m", str(path), "-f", str(tmp_path / "text.txt"),
            "-o", str(tmp_path / "imatrix.gguf"), "--process-output", "-t", "1", "-c", "512",
            "--no-repack",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    upstream = read_imatrix(tmp_path / "imatrix.gguf")
    with Model(path, n_threads=1) as loaded:
        ids = loaded.tokenize(text)
        n_chunks = len(ids) // 512
        chunks = ids[: n_chunks * 512].reshape(n_chunks, 512).copy()
        chunks[:, 0] = loaded.vocab.bos
        ours = loaded.activations(chunks, process_output="output.weight" in upstream.entries)
    assert n_chunks > 4  # more than the tool evaluates together
    assert set(ours) == set(upstream.entries)
    for name, entry in upstream.entries.items():
        assert np.array_equal(ours[name].counts, entry.counts), name
        assert np.array_equal(ours[name].sum_squares, entry.sum_squares), name


def test_collecting_reports_chunks(model: Model, tokens: Tokens, recording_monitor: Any) -> None:
    model.activations(chunks_of(tokens, 3), monitor=recording_monitor)
    assert recording_monitor.started == [("imatrix", 3, "chunks")]
    assert recording_monitor.updates[-1] == 3
    assert recording_monitor.finished == 1


def test_collecting_does_not_change_the_logits(model: Model, tokens: Tokens, baseline: Floats) -> None:
    model.activations(chunks_of(tokens, 2))
    assert np.array_equal(model.logits(tokens[:N_TOKENS]), baseline)


def test_collecting_on_a_swapped_model_sees_the_swapped_weights(model: Model, tokens: Tokens) -> None:
    chunks = chunks_of(tokens, 2)
    plain = model.activations(chunks)
    with model.mix({"blk.0.attn_q.weight": "Q2_K"}):
        mixed = model.activations(chunks)
    unchanged, changed = "blk.0.attn_k.weight", "blk.1.attn_k.weight"
    assert np.array_equal(plain[unchanged].sum_squares, mixed[unchanged].sum_squares)
    assert not np.array_equal(plain[changed].sum_squares, mixed[changed].sum_squares)


def test_a_monitor_that_raises_stops_collecting_and_leaves_a_usable_model(
    model: Model, tokens: Tokens, baseline: Floats
) -> None:
    chunks = np.resize(tokens, (400, 128)).astype(np.int32)  # seconds of work
    monitor = StoppingMonitor(OperationCancelled("enough"))
    with pytest.raises(OperationCancelled, match="enough"):
        model.activations(chunks, monitor=monitor)
    assert monitor.done < 400
    assert np.array_equal(model.logits(tokens[:N_TOKENS]), baseline)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_is_an_error_that_names_the_tensor(
    bad: float, tiny_models: TinyModels, tokens: Tokens
) -> None:
    metadata, tensors = llama_model(n_embd=N_EMBD, n_ff=512, n_head=4, n_head_kv=2)
    tensors["blk.1.attn_norm.weight"][0][17] = bad
    path = tiny_models.write(f"activations {bad}", (metadata, tensors))
    with Model(path, n_threads=1) as loaded, pytest.raises(NonFiniteError) as caught:
        loaded.activations(chunks_of(tokens, 2))
    assert caught.value.tensor in {f"blk.1.attn_{role}.weight" for role in "qkv"}


@pytest.mark.parametrize("shape", [(64,), (0, 32), (2, 0), (1, 2, 32)], ids=str)
def test_chunks_must_be_a_matrix_of_tokens(model: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        model.activations(np.ones(shape, np.int32))


def test_tokens_outside_the_vocabulary_are_refused(model: Model) -> None:
    with pytest.raises(ShapeError, match="token 4096 "):
        model.activations(np.full((1, 32), 4096, np.int32))


# ---- Odds and ends ----------------------------------------------------------------------------------


def test_a_model_without_a_tokenizer_still_computes(tiny_models: TinyModels, tmp_path: Path) -> None:
    metadata, tensors = llama_model(n_embd=N_EMBD, n_ff=512, n_head=4, n_head_kv=2)
    metadata |= {
        "tokenizer.ggml.model": MetaValue.string("none"),
        "llama.vocab_size": MetaValue.u32(4096),
    }
    path = write_model(tmp_path / "no-tokenizer.gguf", metadata, tensors)
    with Model(path, n_threads=1) as loaded, Model(tiny_models.dense, n_threads=1) as usual:
        ids = np.arange(3, 40, dtype=np.int32)
        assert np.array_equal(loaded.logits(ids), usual.logits(ids))
        with pytest.raises(BackendError, match="no tokenizer"):
            loaded.tokenize("text")


def test_two_models_of_one_file_do_not_share_what_is_swapped(
    model: Model, builtin_model: Path, tokens: Tokens, baseline: Floats
) -> None:
    with Model(builtin_model, n_threads=1) as other, contextlib.ExitStack() as stack:
        stack.enter_context(model.mix({"blk.0.attn_q.weight": "Q2_K"}))
        assert np.array_equal(other.logits(tokens[:N_TOKENS]), baseline)
        assert not np.array_equal(model.logits(tokens[:N_TOKENS]), baseline)
