"""Files planned and written: llama_model_quantize's data to the byte, at exactly the size that was planned.

The reference is upstream's own quantizer, run in process on the same models.
"""

from __future__ import annotations

import random
import re
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from golden_inputs import SHAPES, golden_imatrix, write_golden_imatrix, write_golden_model
from mqnative.build import writer
from mqnative.build.fallback import legal_type
from mqnative.build.plan import BuildPlan, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.monitor import CancellableMonitor, CancelToken
from mqnative.core.presets import override_types, preset_types, presets, upstream_quantize
from mqnative.errors import (
    GGUFError,
    ImatrixError,
    MQNativeError,
    NonFiniteError,
    OperationCancelled,
    OutputError,
    OutputExistsError,
    QuantizeError,
    RecipeError,
    UnsupportedTypeError,
)
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_rules import padded
from mqnative.formats.imatrix import Imatrix, ImatrixEntry, read_imatrix
from mqnative.formats.qtypes import all_types, qtype
from mqnative.formats.recipe import Recipe, Rule
from mqnative.source.identity import identify
from tiny_models import TinyModels, llama_model, moe_model, write_model

LABELS = ("dense", "moe", "sliding", "odd_rows", "recurrent")
TARGETS = [t.name for t in all_types().values() if t.is_target]
SEED = 90210
Q = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def path_of(builtin_model: Path, tiny_models: TinyModels) -> Any:
    return lambda label: builtin_model if label == "builtin" else getattr(tiny_models, label)


def plan_of(
    source: Path, recipe: Recipe, imatrix: Imatrix | None = None, *, name: str = "i.gguf", **options: Any
) -> BuildPlan:
    with GGUFFile.open(source) as file:
        return plan_build(file, recipe, imatrix, imatrix_name=name, **options)


def build(source: Path, output: Path, recipe: Recipe, imatrix: Imatrix | None = None, **options: Any) -> Path:
    with GGUFFile.open(source) as file:
        plan = plan_build(
            file,
            recipe,
            imatrix,
            imatrix_name="i.gguf",
            source_hash=identify(file).model,
            allow_requantize=options.pop("allow_requantize", False),
        )
        result = build_gguf(file, plan, output, **options)
    assert result.size_bytes == output.stat().st_size == plan.file_bytes
    return output


def some_imatrix(path: Path, left_out: str = "") -> Imatrix:
    """Seeded importances for every tensor of a model that could use them."""
    entries = {}
    with GGUFFile.open(path) as file:
        for index, (name, info) in enumerate(file.tensors.items()):
            if len(info.shape) > 1 and name != left_out:
                rng = np.random.default_rng([SEED, index])
                n_slices = info.shape[2] if len(info.shape) > 2 else 1
                sums = rng.gamma(0.5, 2.0, (n_slices, info.shape[0])).astype(np.float32)
                entries[name] = ImatrixEntry(sums, np.full(n_slices, 8, np.float32))
    return Imatrix(entries, datasets=("/somewhere/somebody/calib.txt",), chunk_count=1, chunk_size=512)


def weights_of(imatrix: Imatrix) -> dict[str, npt.NDArray[np.float32]]:
    """As llama-quantize normalises them."""
    return {name: entry.sum_squares / entry.counts[:, None] for name, entry in imatrix.entries.items()}


def random_mix(path: Path, seed: int) -> dict[str, str]:
    """A type for every matrix, drawn from all that ggml can write."""
    rng = random.Random(f"{SEED} {seed}")
    wanted = [t for t in TARGETS if t not in ("NVFP4", "Q1_0")]  # no substitute for rows that do not fit
    with GGUFFile.open(path) as file:
        return {
            name: rng.choice(wanted)
            for name, verdict in _quantizable(file).items()
            if verdict and len(file.tensors[name].shape) > 1
        }


def _quantizable(file: GGUFFile) -> dict[str, bool]:
    from mqnative.core.presets import quantizable

    assert file.architecture is not None
    return quantizable(file.architecture, {n: t.shape for n, t in file.tensors.items()})


def as_stored(path: Path) -> tuple[list[tuple[str, str, tuple[int, ...], int]], bytes]:
    """Tensors with their places relative to the data section, and the section itself, padding included."""
    with GGUFFile.open(path) as file:
        start = min(t.offset for t in file.tensors.values())
        rows = [(n, t.qtype.name, t.shape, t.offset - start) for n, t in file.tensors.items()]
    return rows, path.read_bytes()[start:]


def same_data(ours: Path, upstreams: Path) -> None:
    (our_rows, our_data), (their_rows, their_data) = as_stored(ours), as_stored(upstreams)
    assert our_rows == their_rows
    assert our_data == their_data


# ---- The bytes of llama_model_quantize --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [*(("Q4_K_M", label) for label in LABELS), ("IQ3_XXS", "dense"), ("MXFP4_MOE", "moe"), ("F16", "dense")],
)
def test_presets_give_the_data_of_llama_model_quantize(
    name: str, label: str, path_of: Any, tmp_path: Path
) -> None:
    source = path_of(label)
    imatrix = None if name == "F16" else some_imatrix(source)
    recipe = Recipe(tensors=preset_types(source, name, with_imatrix=imatrix is not None))
    ours = build(source, tmp_path / "ours.gguf", recipe, imatrix)
    upstream_quantize(
        source, tmp_path / "theirs.gguf", name, imatrix=weights_of(imatrix) if imatrix else None
    )
    same_data(ours, tmp_path / "theirs.gguf")


@pytest.mark.parametrize("label", LABELS)
def test_a_mix_of_all_types_gives_the_data_of_llama_model_quantize(
    label: str, path_of: Any, tmp_path: Path
) -> None:
    source = path_of(label)
    imatrix, types = some_imatrix(source), random_mix(source, 1)
    assert len(set(types.values())) > 5
    ours = build(source, tmp_path / "ours.gguf", Recipe(base="Q8_0", tensors=types), imatrix)
    weights = weights_of(imatrix)
    upstream_quantize(source, tmp_path / "theirs.gguf", "Q8_0", types=types, imatrix=weights, pure=True)
    same_data(ours, tmp_path / "theirs.gguf")


@pytest.mark.parametrize("target", TARGETS)
def test_every_type_gives_the_data_of_llama_model_quantize(target: str, tmp_path: Path) -> None:
    """From sources in F32, F16 and BF16, with experts, with an imatrix."""
    source = write_golden_model(tmp_path / "source.gguf")
    imatrix = read_imatrix(write_golden_imatrix(tmp_path / "i.gguf"))
    ours = build(source, tmp_path / "ours.gguf", Recipe(base=target), imatrix)
    types = dict.fromkeys(SHAPES, target)
    upstream_quantize(
        source, tmp_path / "theirs.gguf", "Q8_0", types=types, imatrix=golden_imatrix(), pure=True
    )
    same_data(ours, tmp_path / "theirs.gguf")


def test_a_quantized_source_gives_the_data_of_llama_model_quantize(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    """Some tensors are quantized again, those that have their type already are copied."""
    source = build(tiny_models.dense, tmp_path / "source.gguf", Recipe(base="Q8_0"))
    types = {"blk.0.attn_q.weight": "Q4_K", "blk.1.ffn_down.weight": "F16"}
    recipe = Recipe(base="Q8_0", tensors=types)
    ours = build(source, tmp_path / "ours.gguf", recipe, allow_requantize=True)
    upstream_quantize(source, tmp_path / "theirs.gguf", "Q8_0", types=types, pure=True, allow_requantize=True)
    same_data(ours, tmp_path / "theirs.gguf")


def test_the_alignment_of_the_source_is_kept(tmp_path: Path) -> None:
    """llama_model_quantize pads to 32 whatever the source says, and its file cannot be read."""
    metadata, tensors = llama_model(n_embd=320, n_ff=352, n_head=5, n_head_kv=5)
    usual = write_model(tmp_path / "32.gguf", metadata, tensors)
    wide = write_model(tmp_path / "256.gguf", {**metadata, "general.alignment": MetaValue.u32(256)}, tensors)
    made = [build(path, path.with_suffix(".q5_1"), Recipe(base="Q5_1")) for path in (usual, wide)]
    with GGUFFile.open(made[0]) as ours, GGUFFile.open(made[1]) as aligned:
        assert aligned.alignment == 256
        assert {t.offset % 256 for t in aligned.tensors.values()} == {0}
        assert list(aligned.tensors) == list(ours.tensors)
        assert all(np.array_equal(aligned.data(n), ours.data(n)) for n in ours.tensors)


def test_a_split_source_gives_the_file_of_the_whole_one(
    tiny_models: TinyModels, builtin_model: Path, tmp_path: Path
) -> None:
    recipe = Recipe(base="Q8_0")
    split = build(tiny_models.split, tmp_path / "split.gguf", recipe)
    whole = build(builtin_model, tmp_path / "whole.gguf", recipe)
    assert split.read_bytes() == whole.read_bytes()
    with GGUFFile.open(split) as file:
        assert not [key for key in file.metadata if key.startswith("split.")]


@pytest.mark.parametrize("slab", [4096, 100_000])
def test_the_bytes_depend_on_neither_slabs_nor_threads(
    slab: int, tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_models.moe
    imatrix, recipe = some_imatrix(source), Recipe(base="Q5_0", tensors={Q: "IQ2_XS"})
    whole = build(source, tmp_path / "whole.gguf", recipe, imatrix, n_threads=2)
    monkeypatch.setattr(writer, "_SLAB_WEIGHTS", slab)
    parts = build(source, tmp_path / "parts.gguf", recipe, imatrix, n_threads=1)
    assert parts.read_bytes() == whole.read_bytes()


def test_memory_stays_at_a_slab(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SLAB_WEIGHTS", 64 * 1024)
    with GGUFFile.open(tiny_models.dense) as file:
        plan = plan_build(file, Recipe(base="F16"))
        largest = max(t.size_bytes for t in plan.tensors)
        tracemalloc.start()
        try:
            build_gguf(file, plan, tmp_path / "m.gguf")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # A slab of F16, the header, and what reading the header back takes; a whole tensor would be 2 MB.
    assert largest == 2 * 1024 * 1024
    assert peak < largest / 2


# ---- The plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["odd_rows", "recurrent"])
def test_the_planned_size_is_the_written_size(label: str, path_of: Any, tmp_path: Path) -> None:
    source = path_of(label)
    imatrix = some_imatrix(source)
    recipe = Recipe(base="F16", tensors=random_mix(source, 2))
    plan = plan_of(source, recipe, imatrix)
    with GGUFFile.open(source) as file:
        written = build_gguf(file, plan, tmp_path / "m.gguf")
    assert written.path.stat().st_size == written.size_bytes == plan.file_bytes
    with GGUFFile.open(written.path) as file:
        assert file.tensor_bytes == plan.tensor_bytes
        assert file.bpw == plan.bpw
        assert file.bpw_file == plan.bpw_file
        found = [(n, t.shape, t.qtype.name, t.size_bytes) for n, t in file.tensors.items()]
    assert found == [(t.name, t.shape, t.qtype, t.size_bytes) for t in plan.tensors]


def test_the_plan_is_the_sum_of_its_parts(tiny_models: TinyModels) -> None:
    plan = plan_of(tiny_models.moe, Recipe(base="Q5_K"))
    sizes = [t.size_bytes for t in plan.tensors]
    alignment = plan.layout.alignment
    header = padded(len(plan.layout.header_bytes), alignment)
    assert plan.tensor_bytes == sum(sizes)
    assert plan.file_bytes == header + sum(padded(size, alignment) for size in sizes)
    assert plan.n_weights == sum(int(np.prod(t.shape)) for t in plan.tensors)
    assert plan.bpw == 8 * plan.tensor_bytes / plan.n_weights


def test_planning_reads_no_weights_and_does_not_depend_on_them(tmp_path: Path) -> None:
    metadata, tensors = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=4, n_layer=1)
    first = write_model(tmp_path / "a.gguf", metadata, tensors)
    tensors[Q][0][:] = np.nan
    second = write_model(tmp_path / "b.gguf", metadata, tensors)
    assert plan_of(first, Recipe(base="Q4_K")).layout == plan_of(second, Recipe(base="Q4_K")).layout


def test_what_is_asked_for_and_what_comes_of_it_are_told_apart(tiny_models: TinyModels) -> None:
    plan = plan_of(tiny_models.odd_rows, Recipe(base="Q4_K", tensors={"token_embd.weight": "Q8_0"}))
    by_name = {t.name: t for t in plan.tensors}
    assert (by_name[Q].requested, by_name[Q].qtype, by_name[Q].copied) == ("Q4_K", "Q5_0", False)
    assert by_name["token_embd.weight"].qtype == "Q8_0"
    norm = by_name["blk.0.attn_norm.weight"]
    assert (norm.requested, norm.qtype, norm.copied) == ("F32", "F32", True)
    assert {t.name for t in plan.fallbacks} == {t.name for t in plan.tensors if t.requested == "Q4_K"}
    assert plan.types == {t.name: t.qtype for t in plan.tensors}


def test_only_tensors_that_use_importances_say_so(tiny_models: TinyModels) -> None:
    imatrix = some_imatrix(tiny_models.dense, left_out="blk.1.attn_k.weight")
    plan = plan_of(tiny_models.dense, Recipe(base="Q4_K", tensors={Q: "BF16"}), imatrix)
    unused = {t.name for t in plan.tensors if not t.uses_imatrix}
    norms = {t.name for t in plan.tensors if len(t.shape) == 1}
    assert unused == {"blk.1.attn_k.weight", Q} | norms


# llama.cpp decides by row length and type alone; lengths with and without each block size as a factor.
ROW_LENGTHS = (16, 32, 64, 96, 100, 128, 160, 192, 256, 288, 320, 352, 384, 512, 768, 1000)


@pytest.fixture(scope="module")
def rows_of_many_lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's header with a matrix of each length (llama.cpp does not evaluate it here)."""
    metadata, _ = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=4, n_layer=len(ROW_LENGTHS))
    tensors = {f"blk.{n}.ffn_up.weight": (np.zeros((2, n), np.float32), "F32") for n in ROW_LENGTHS}
    return write_model(tmp_path_factory.mktemp("rows") / "rows.gguf", metadata, tensors)


def legal(target: str, n_per_row: int) -> str | None:
    try:
        return legal_type(target, n_per_row)
    except UnsupportedTypeError:
        return None


@pytest.mark.parametrize("target", TARGETS)
def test_fallbacks_are_those_of_llama_cpp_for_every_row_length(
    target: str, rows_of_many_lengths: Path
) -> None:
    ours: dict[str, str] = {}
    for n in ROW_LENGTHS:
        name = f"blk.{n}.ffn_up.weight"
        if (found := legal(target, n)) is not None:
            ours[name] = found
            continue
        with pytest.raises(QuantizeError):
            override_types(rows_of_many_lengths, {name: target})
    theirs = override_types(rows_of_many_lengths, dict.fromkeys(ours, target))
    assert ours == {name: theirs[name] for name in ours}


def test_rows_without_a_substitute_are_refused_with_the_type() -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        legal_type("nvfp4", 352)
    assert (caught.value.qtype, caught.value.reason) == ("NVFP4", "row size")


def test_the_order_is_by_block_then_by_name_as_llama_cpp_writes_it(tmp_path: Path) -> None:
    metadata, _ = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=4, n_layer=12)
    names = [f"blk.{i}.{part}.weight" for i in (10, 2, 0, 1) for part in ("ffn_up", "attn_q", "attn_k")]
    names += ["output.weight", "token_embd.weight", "output_norm.weight", "rope_freqs.weight"]
    tensors = {name: (np.ones((2, 256), np.float32), "F32") for name in names}
    source = write_model(tmp_path / "source.gguf", metadata, tensors)
    ours = build(source, tmp_path / "ours.gguf", Recipe(base="Q8_0"))
    upstream_quantize(source, tmp_path / "theirs.gguf", "Q8_0", pure=True)
    with GGUFFile.open(ours) as file, GGUFFile.open(tmp_path / "theirs.gguf") as other:
        assert list(file.tensors) == list(other.tensors)
        assert list(file.tensors) != names


# ---- Metadata ---------------------------------------------------------------------------------------

ALWAYS_ADDED = {"mqnative.recipe.summary", "mqnative.recipe.sha256", "mqnative.source.sha256"}
ADDED_WITH_IMATRIX = {
    "quantize.imatrix.file",
    "quantize.imatrix.dataset",
    "quantize.imatrix.entries_count",
    "quantize.imatrix.chunks_count",
    "mqnative.imatrix.sha256",
}


@pytest.mark.parametrize("with_imatrix", [False, True], ids=["plain", "imatrix"])
def test_metadata_is_kept_and_provenance_added(
    with_imatrix: bool, builtin_model: Path, tmp_path: Path
) -> None:
    imatrix = some_imatrix(builtin_model) if with_imatrix else None
    output = build(builtin_model, tmp_path / "m.gguf", Recipe(base="Q8_0", tensors={Q: "F16"}), imatrix)
    with GGUFFile.open(builtin_model) as source, GGUFFile.open(output) as file:
        changed = {"general.file_type", "general.quantization_version"}
        for key, value in source.metadata.items():
            if key not in changed:
                assert file.metadata[key].encode() == value.encode(), key
        kept = [key for key in file.metadata if key in source.metadata]
        assert kept == list(source.metadata)
        added = set(file.metadata) - set(source.metadata)
        source_hash = identify(source).model
    with GGUFFile.open(output) as file:
        assert added - changed == ALWAYS_ADDED | (ADDED_WITH_IMATRIX if with_imatrix else set())
        assert file.get("general.quantization_version") == 2
        assert file.get("mqnative.recipe.summary") == "F16:1 F32:33 Q8_0:57"
        assert file.get("mqnative.source.sha256") == source_hash
        if imatrix is not None:
            assert file.get("quantize.imatrix.file") == "i.gguf"
            assert file.get("quantize.imatrix.dataset") == "calib.txt"
            assert file.get("quantize.imatrix.entries_count") == len(imatrix.entries)
            assert file.get("quantize.imatrix.chunks_count") == 1
            assert file.get("mqnative.imatrix.sha256") == imatrix.content_hash()


def test_upstreams_keys_have_upstreams_types(builtin_model: Path, tmp_path: Path) -> None:
    upstream_quantize(builtin_model, tmp_path / "theirs.gguf", "Q8_0")
    ours = build(builtin_model, tmp_path / "ours.gguf", Recipe(base="Q8_0"))
    with GGUFFile.open(ours) as file, GGUFFile.open(tmp_path / "theirs.gguf") as other:
        assert {k: file.metadata[k].encode() for k in other.metadata} == {
            k: v.encode() for k, v in other.metadata.items()
        }


def test_a_file_tells_nothing_of_the_machine(builtin_model: Path, tmp_path: Path) -> None:
    """No path, host, user or time: only the names of files."""
    imatrix = some_imatrix(builtin_model)
    with GGUFFile.open(builtin_model) as file:
        plan = plan_build(
            file, Recipe(base="Q8_0"), imatrix, imatrix_name=str(tmp_path / "secret" / "i.gguf")
        )
    header = plan.layout.header_bytes
    for private in (str(tmp_path), "secret", str(builtin_model.parent), "/somewhere/somebody"):
        assert private.encode() not in header
    host = socket.gethostname()
    with GGUFFile.open(builtin_model) as source:
        texts = [
            str(v.plain)
            for k, v in plan_metadata(plan, tmp_path).items()
            if k not in source.metadata and isinstance(v.plain, str)
        ]
    assert len(texts) == 6
    for text in texts:
        assert host not in text
        assert "/" not in text
        assert re.search(r"\b20\d\d-\d\d", text) is None


def plan_metadata(plan: BuildPlan, folder: Path) -> dict[str, MetaValue]:
    """The metadata a plan would write."""
    path = folder / "header.gguf"
    path.write_bytes(plan.layout.header_bytes.ljust(plan.file_bytes, b"\0"))
    with GGUFFile.open(path) as file:
        return dict(file.metadata)


@pytest.mark.parametrize("with_imatrix", [False, True], ids=["plain", "imatrix"])
def test_the_file_type_of_a_presets_own_mix_is_the_preset(
    with_imatrix: bool, tiny_models: TinyModels
) -> None:
    source = tiny_models.moe
    imatrix = some_imatrix(source) if with_imatrix else None
    for name in ("Q4_K_M", "Q5_K_S", "Q6_K", "Q3_K_L", "Q8_0", "F16", "IQ4_XS"):
        types = preset_types(source, name, with_imatrix=with_imatrix)
        assert plan_of(source, Recipe(tensors=types), imatrix).ftype.name == name


@pytest.mark.parametrize("seed", range(4))
def test_the_file_type_of_another_mix_is_the_preset_nearest_in_size(
    seed: int, tiny_models: TinyModels, tmp_path: Path
) -> None:
    source = tiny_models.moe
    plan = plan_of(source, Recipe(base="F16", tensors=random_mix(source, seed)), some_imatrix(source))
    distances = {}
    with GGUFFile.open(source) as file:
        for name in presets():
            types = preset_types(source, name, with_imatrix=True)
            size = sum(qtype(types[n]).tensor_bytes(t.shape) for n, t in file.tensors.items())
            distances[name] = abs(size - plan.tensor_bytes)
    assert distances[plan.ftype.name] == min(distances.values())
    assert plan_metadata(plan, tmp_path)["general.file_type"].plain == presets()[plan.ftype.name].ftype


# ---- What is refused --------------------------------------------------------------------------------


def test_a_type_that_needs_importances_is_refused_without_them(tiny_models: TinyModels) -> None:
    for imatrix in (None, some_imatrix(tiny_models.dense, left_out=Q)):
        with pytest.raises(ImatrixError) as caught:
            plan_of(tiny_models.dense, Recipe(base="Q4_K", tensors={Q: "IQ1_S"}), imatrix)
        assert caught.value.tensor == Q
    assert plan_of(
        tiny_models.dense, Recipe(base="Q4_K", tensors={Q: "IQ1_S"}), some_imatrix(tiny_models.dense)
    )


def short_entry(imatrix: Imatrix) -> Imatrix:
    short = ImatrixEntry(np.ones((1, 128), np.float32), np.ones(1, np.float32))
    return Imatrix({**imatrix.entries, Q: short}, imatrix.datasets, 1, 512)


def test_importances_of_another_length_are_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(ImatrixError) as caught:
        plan_of(tiny_models.dense, Recipe(base="Q4_K"), short_entry(some_imatrix(tiny_models.dense)))
    assert caught.value.tensor == Q


def test_importances_that_are_not_used_do_not_matter(tiny_models: TinyModels, tmp_path: Path) -> None:
    """As in llama-quantize: the tensor keeps its type."""
    imatrix = short_entry(some_imatrix(tiny_models.dense))
    output = build(tiny_models.dense, tmp_path / "m.gguf", Recipe(base="Q4_K", tensors={Q: "BF16"}), imatrix)
    with GGUFFile.open(output) as file, GGUFFile.open(tiny_models.dense) as source:
        assert file.data(Q).tobytes() == source.data(Q).tobytes()


def test_a_quantized_source_needs_leave(tiny_models: TinyModels, tmp_path: Path) -> None:
    source = build(tiny_models.dense, tmp_path / "q8.gguf", Recipe(base="Q8_0"))
    with pytest.raises(UnsupportedTypeError) as caught:
        plan_of(source, Recipe(base="Q4_K"))
    assert (caught.value.qtype, caught.value.reason) == ("Q4_K", "requantize")
    assert plan_of(source, Recipe(base="Q8_0")).types == plan_of(tiny_models.dense, Recipe(base="Q8_0")).types


def test_numbers_that_are_no_weights_are_left_alone(tmp_path: Path) -> None:
    metadata, tensors = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=4, n_layer=1)
    source = write_model(tmp_path / "m.gguf", metadata, tensors)
    raw = bytearray(source.read_bytes())
    name = b"token_embd.weight"  # F32, as wide as I32
    at = raw.index(name) + len(name) + 4 + 16
    assert raw[at : at + 4] == bytes(4)
    raw[at : at + 4] = (26).to_bytes(4, "little")  # GGML_TYPE_I32
    source.write_bytes(raw)
    with pytest.raises(UnsupportedTypeError) as caught:
        plan_of(source, Recipe(base="Q4_K"))
    assert (caught.value.tensor, caught.value.reason) == ("token_embd.weight", "not weights")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    nameless = write_model(
        tmp_path / "a.gguf", {"x": MetaValue.u32(1)}, {"w": (np.ones((2, 32), np.float32), "F32")}
    )
    empty = write_model(tmp_path / "b.gguf", {"general.architecture": MetaValue.string("llama")}, {})
    for path in (nameless, empty):
        with pytest.raises(GGUFError, match="give a model"):
            plan_of(path, Recipe(base="Q4_K"))


def test_a_recipe_that_does_not_fit_is_refused(tiny_models: TinyModels) -> None:
    for recipe in (
        Recipe(base="Q4_K", tensors={"blk.7.attn_q.weight": "Q8_0"}),
        Recipe(base="Q4_K", rules=(Rule("attn_q", "Q8_0"),)),
        Recipe(rules=(Rule("blk.*", "Q8_0"),)),
        Recipe(base="Q4_K", tensors={"blk.0.ffn_gate_inp.weight": "Q8_0"}),
    ):
        with pytest.raises(RecipeError):
            plan_of(tiny_models.moe, recipe)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(bad: float, tmp_path: Path) -> None:
    metadata, tensors = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=4, n_layer=1)
    tensors[Q][0][37, 5] = bad
    source = write_model(tmp_path / "source.gguf", metadata, tensors)
    with pytest.raises(NonFiniteError, match=Q) as caught:
        build(source, tmp_path / "m.gguf", Recipe(base="Q4_K"))
    assert (caught.value.tensor, caught.value.row) == (Q, 37)
    assert names(tmp_path) == ["source.gguf"]


@pytest.mark.parametrize("slab", [16 * 1024 * 1024, 32 * 256])
def test_the_place_of_a_weight_that_is_not_finite_is_that_in_the_tensor(
    slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SLAB_WEIGHTS", slab)
    metadata, tensors = moe_model()
    name = "blk.1.ffn_up_exps.weight"
    tensors[name][0][5, 100, 7] = np.nan
    source = write_model(tmp_path / "source.gguf", metadata, tensors)
    with pytest.raises(NonFiniteError) as caught:
        build(source, tmp_path / "m.gguf", Recipe(base="Q4_K"))
    error = caught.value
    assert (error.tensor, error.slice, error.row) == (name, 5, 100)


def test_a_weight_that_is_not_finite_is_found_in_a_copied_tensor(tmp_path: Path) -> None:
    """llama_model_quantize refuses it too: "has invalid data"."""
    metadata, tensors = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=4, n_layer=1)
    tensors["blk.0.attn_norm.weight"][0][37] = np.nan
    source = write_model(tmp_path / "source.gguf", metadata, tensors)
    with pytest.raises(NonFiniteError):
        build(source, tmp_path / "m.gguf", Recipe(base="Q4_K"))


def test_damaged_blocks_are_not_copied(tiny_models: TinyModels, tmp_path: Path) -> None:
    source = build(tiny_models.dense, tmp_path / "source.gguf", Recipe(base="Q8_0"))
    with GGUFFile.open(source) as file:
        offset = file.tensors[Q].offset
    raw = bytearray(source.read_bytes())
    raw[offset : offset + 2] = b"\x00\x7e"  # the first block's scale becomes NaN
    source.write_bytes(raw)
    with pytest.raises(QuantizeError, match=Q) as caught:
        build(source, tmp_path / "m.gguf", Recipe(base="Q8_0"))
    assert caught.value.tensor == Q
    assert names(tmp_path) == ["source.gguf"]


# ---- Writing ----------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_progress_counts_every_weight_once(
    tiny_models: TinyModels, tmp_path: Path, recording_monitor: Any
) -> None:
    build(tiny_models.moe, tmp_path / "m.gguf", Recipe(base="Q4_K"), monitor=recording_monitor)
    with GGUFFile.open(tiny_models.moe) as file:
        total = file.n_weights
    assert recording_monitor.started == [("build", total, "weights")]
    assert recording_monitor.updates == sorted(recording_monitor.updates)
    assert recording_monitor.updates[-1] == total
    assert recording_monitor.finished == 1


class StopsAfter:
    """A monitor that cancels when a share of the work is done."""

    def __init__(self, share: float) -> None:
        self.token = CancelToken()
        self.share = share
        self.total = 0

    def start(self, _step: str, total: int, _unit: str) -> None:
        self.total = total

    def update(self, done: int) -> None:
        if done >= self.share * self.total:
            self.token.cancel()

    def finish(self) -> None:
        pytest.fail("the build went on to its end")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("before", [None, b"what was there"], ids=["new", "existing"])
def test_a_cancelled_build_leaves_the_folder_as_it_was(
    before: bytes | None, share: float, tiny_models: TinyModels, tmp_path: Path
) -> None:
    output = tmp_path / "m.gguf"
    if before is not None:
        output.write_bytes(before)
    inner = StopsAfter(share)
    monitor = CancellableMonitor(inner.token, inner)
    with pytest.raises(OperationCancelled) as caught:
        build(tiny_models.moe, output, Recipe(base="Q4_K"), force=True, monitor=monitor)
    assert caught.value.done is not None
    assert share * inner.total <= caught.value.done < inner.total
    assert names(tmp_path) == ([] if before is None else ["m.gguf"])
    if before is not None:
        assert output.read_bytes() == before


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Files of this process cannot grow beyond a size, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_leaves_the_old_file(tiny_models: TinyModels, tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    output.write_bytes(b"what was there")
    with room_for(500_000), pytest.raises(OutputError, match="choose another disk") as caught:
        build(tiny_models.dense, output, Recipe(base="Q8_0"), force=True)
    assert caught.value.path == str(output)
    assert names(tmp_path) == ["m.gguf"]
    assert output.read_bytes() == b"what was there"


def test_a_folder_that_is_not_there_is_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        build(tiny_models.dense, tmp_path / "no" / "m.gguf", Recipe(base="Q8_0"))


@pytest.fixture
def built(tiny_models: TinyModels, tmp_path: Path) -> Path:
    return build(tiny_models.dense, tmp_path / "m.gguf", Recipe(base="Q8_0"))


def rebuild(
    source: Path, output: Path, recipe: Recipe, imatrix: Imatrix | None = None, **options: Any
) -> bool:
    """Whether an output was left alone as the same build's."""
    with GGUFFile.open(source) as file:
        plan = plan_build(file, recipe, imatrix, imatrix_name="i.gguf", source_hash=identify(file).model)
        return build_gguf(file, plan, output, **options).reused


def test_the_same_build_is_left_alone(tiny_models: TinyModels, built: Path, recording_monitor: Any) -> None:
    before = built.stat()
    assert rebuild(tiny_models.dense, built, Recipe(base="Q8_0"), monitor=recording_monitor)
    after = built.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert recording_monitor.started == []


def test_with_force_the_same_build_is_written_again(tiny_models: TinyModels, built: Path) -> None:
    content, inode = built.read_bytes(), built.stat().st_ino
    assert not rebuild(tiny_models.dense, built, Recipe(base="Q8_0"), force=True)
    assert built.read_bytes() == content
    assert built.stat().st_ino != inode


def changed_source(tiny_models: TinyModels, folder: Path) -> Path:
    """The dense model with one weight moved by one bit: everything in the header is the same."""
    with GGUFFile.open(tiny_models.dense) as file:
        offset = file.tensors[Q].offset
    raw = bytearray(tiny_models.dense.read_bytes())
    raw[offset] ^= 1
    (folder / "other.gguf").write_bytes(raw)
    return folder / "other.gguf"


@pytest.mark.parametrize("what", ["recipe", "imatrix", "source", "cut short", "longer", "no model"])
def test_a_file_of_other_inputs_is_refused_without_force(
    what: str, tiny_models: TinyModels, built: Path, tmp_path: Path
) -> None:
    source, recipe, imatrix = tiny_models.dense, Recipe(base="Q8_0"), None
    if what == "recipe":
        recipe = Recipe(base="Q8_0", tensors={Q: "Q6_K"})
    elif what == "imatrix":
        imatrix = some_imatrix(source)
    elif what == "source":
        source = changed_source(tiny_models, tmp_path)
    else:
        whole = built.read_bytes()
        built.write_bytes({"cut short": whole[:-1], "longer": whole + b"\0", "no model": b"a text"}[what])
    before = built.read_bytes()
    with pytest.raises(OutputExistsError) as caught:
        rebuild(source, built, recipe, imatrix)
    assert (caught.value.path, caught.value.exit_code) == (str(built), 2)
    assert built.read_bytes() == before
    assert not rebuild(source, built, recipe, imatrix, force=True)
    assert rebuild(source, built, recipe, imatrix)


def test_a_written_file_that_does_not_read_back_as_planned_is_not_kept(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writer.write_tensors

    def one_bit_wrong(out: Any, layout: Any, write_tensor: Any, **options: Any) -> None:
        real(out, layout, write_tensor, **options)
        at = layout.header_bytes.index(Q.encode()) + len(Q) + 4 + 16
        out.seek(at)
        out.write((2).to_bytes(4, "little"))  # Q4_0 instead of Q5_0: smaller, so that the rest is a gap

    monkeypatch.setattr(writer, "write_tensors", one_bit_wrong)
    with pytest.raises(MQNativeError):
        build(tiny_models.dense, tmp_path / "m.gguf", Recipe(base="Q5_0"))
    assert names(tmp_path) == []


def test_a_row_of_experts_gets_its_own_importances(tmp_path: Path) -> None:
    """Each expert's slice is encoded with that expert's row: exchanging two rows changes those two slices."""
    metadata, tensors = moe_model()
    name = "blk.0.ffn_up_exps.weight"
    source = write_model(tmp_path / "source.gguf", metadata, tensors)
    imatrix = some_imatrix(source)
    entry = imatrix.entries[name]
    order = [0, 5, 2, 3, 4, 1, 6, 7]
    exchanged = ImatrixEntry(entry.sum_squares[order], entry.counts)
    other = Imatrix({**imatrix.entries, name: exchanged}, imatrix.datasets, 1, 512)
    slices = []
    for index, used in enumerate((imatrix, other)):
        recipe = Recipe(base="F16", tensors={name: "Q4_K"})
        output = build(source, tmp_path / f"{index}.gguf", recipe, used)
        with GGUFFile.open(output) as file:
            slices.append(file.array(name).copy())
    different = [i for i in range(8) if not np.array_equal(slices[0][i], slices[1][i])]
    assert different == [1, 5]
