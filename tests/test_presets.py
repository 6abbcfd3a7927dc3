"""llama.cpp's file types: their names, their choices, and what upstream refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_inputs import SHAPES, golden_imatrix, golden_tensors, write_golden_model
from mqnative.core.presets import (
    override_types,
    preset,
    preset_types,
    presets,
    quantizable,
    requires_imatrix,
    upstream_quantize,
)
from mqnative.core.quantize import quantize
from mqnative.errors import (
    GGUFError,
    ModelLoadError,
    MQNativeError,
    OperationCancelled,
    QuantizeError,
    UnsupportedTypeError,
)
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue
from mqnative.formats.qtypes import all_types, qtype
from tiny_models import TinyModels, heavy_tailed, write_model

LABELS = ("builtin", "dense", "moe", "sliding", "odd_rows", "recurrent", "split")
TARGETS = [t.name for t in all_types().values() if t.is_target]
# One entry is enough: upstream asks only whether there are any.
SOME_IMPORTANCES = {"blk.0.attn_q.weight": np.ones(256, np.float32)}


@pytest.fixture(scope="module")
def path_of(builtin_model: Path, tiny_models: TinyModels) -> Any:
    return lambda label: builtin_model if label == "builtin" else getattr(tiny_models, label)


def stored_types(path: Path) -> dict[str, str]:
    with GGUFFile.open(path) as file:
        return {name: info.qtype.name for name, info in file.tensors.items()}


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    with GGUFFile.open(path) as file:
        return {name: info.shape for name, info in file.tensors.items()}


# ---- Names ------------------------------------------------------------------------------------------

# include/llama.h, enum llama_ftype, for those that people use most.
NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q6_K": 18, "IQ2_XXS": 19, "BF16": 32}


def test_presets_have_the_numbers_that_files_carry() -> None:
    assert {name: presets()[name].ftype for name in NUMBERS} == NUMBERS
    numbers = [p.ftype for p in presets().values()]
    assert len(set(numbers)) == len(numbers)
    assert all(p.default_type in all_types() for p in presets().values())


def test_a_preset_is_found_in_any_case_and_by_upstreams_aliases() -> None:
    assert preset("q4_k_m") is preset("Q4_K_M")
    for alias in ("Q3_K", "Q4_K", "Q5_K"):
        assert preset(alias).name == f"{alias}_M"


@pytest.mark.parametrize("name", ["", "Q4_K_XL", "COPY", "NVFP4", "Q4_K_M "])
def test_an_unknown_preset_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        preset(name)
    assert (caught.value.qtype, caught.value.reason) == (name, "unknown preset")
    assert caught.value.allowed == tuple(presets())


@pytest.mark.upstream
def test_names_and_numbers_are_those_llama_quantize_lists(upstream_bin: Path) -> None:
    done = subprocess.run(
        [str(upstream_bin / "llama-quantize"), "--help"], capture_output=True, text=True, check=False
    )
    rows = re.findall(r"^\s*(\d+)\s+or\s+(\S+)\s+:\s(.*)$", done.stdout, re.MULTILINE)
    listed = {name: int(number) for number, name, words in rows if not words.startswith("alias for")}
    aliases = {name: words.removeprefix("alias for ") for _, name, words in rows if "alias for" in words}
    assert len(listed) > 30
    assert {p.name: p.ftype for p in presets().values()} == listed
    assert {name: preset(name).name for name in aliases} == aliases


# ---- The types a preset chooses -----------------------------------------------------------------------

DRY_RUN_LINE = re.compile(
    r"\[ *\d+/ *\d+\] (?P<name>\S+) +- \[.*\], type = +(?P<kept>\S+), size = .*?(?:\((?P<new>\S+)\))?"
)


def dry_run(
    tools: Path, model: Path, name: str, imatrix: Path | None
) -> tuple[dict[str, str], subprocess.CompletedProcess[str]]:
    """Types by tensor, as llama-quantize prints them."""
    given = ["--imatrix", str(imatrix)] if imatrix else []
    done = subprocess.run(
        [str(tools / "llama-quantize"), *given, "--dry-run", str(model), name],
        capture_output=True,
        text=True,
        check=False,
    )
    found = map(DRY_RUN_LINE.fullmatch, done.stderr.splitlines())
    return {m["name"]: (m["new"] or m["kept"]).upper() for m in found if m}, done


@pytest.mark.upstream
@pytest.mark.parametrize("with_imatrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("label", LABELS)
def test_types_of_every_preset_are_those_of_llama_quantizes_dry_run(
    label: str, with_imatrix: bool, path_of: Any, upstream_bin: Path, tmp_path: Path
) -> None:
    path = path_of(label)
    imatrix = None
    if with_imatrix:
        imatrix = write_model(
            tmp_path / "imatrix.gguf",
            {
                "general.type": MetaValue.string("imatrix"),
                "imatrix.datasets": MetaValue.array(MetaType.STRING, ["none"]),
                "imatrix.chunk_count": MetaValue.u32(1),
                "imatrix.chunk_size": MetaValue.u32(512),
            },
            {
                "blk.0.attn_q.weight.in_sum2": (np.ones((1, 256), np.float32), "F32"),
                "blk.0.attn_q.weight.counts": (np.ones((1, 1), np.float32), "F32"),
            },
        )
    names = set(shapes_of(path))
    for name in presets():
        wanted, done = dry_run(upstream_bin, path, name, imatrix)
        if done.returncode:
            assert "no tensor type fallback" in done.stderr
            with pytest.raises(QuantizeError, match="no tensor type fallback"):
                preset_types(path, name, with_imatrix=with_imatrix)
        else:
            assert set(wanted) == names
            assert preset_types(path, name, with_imatrix=with_imatrix) == wanted, name


def test_an_imatrix_changes_some_choices(builtin_model: Path) -> None:
    plain = preset_types(builtin_model, "IQ3_XXS", with_imatrix=False)
    assert plain != preset_types(builtin_model, "IQ3_XXS", with_imatrix=True)
    assert preset_types(builtin_model, "Q8_0", with_imatrix=False) == preset_types(
        builtin_model, "Q8_0", with_imatrix=True
    )


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K_M", "IQ2_XXS"])
def test_only_tensors_that_may_be_quantized_change_and_the_rest_keep_their_type(
    label: str, name: str, path_of: Any
) -> None:
    path = path_of(label)
    types, before = preset_types(path, name, with_imatrix=True), stored_types(path)
    with GGUFFile.open(path) as file:
        verdicts = quantizable(str(file.architecture), shapes_of(path))
    assert set(types) == set(before)
    assert {n for n in types if types[n] != before[n]} == {n for n, may in verdicts.items() if may}


def test_pure_floats_are_what_they_say(builtin_model: Path) -> None:
    types = preset_types(builtin_model, "F16", with_imatrix=False)
    shapes = shapes_of(builtin_model)
    assert {types[n] for n, shape in shapes.items() if len(shape) > 1} == {"F16"}
    assert {types[n] for n, shape in shapes.items() if len(shape) == 1} == {"F32"}


def test_a_damaged_file_is_a_gguf_error(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(GGUFError):
        preset_types(tmp_path / "x.gguf", "Q4_0", with_imatrix=False)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "x.gguf",
        {"general.architecture": MetaValue.string("nosucharch")},
        {"token_embd.weight": (np.zeros((2, 256), np.float32), "F32")},
    )
    with pytest.raises(QuantizeError, match="nosucharch"):
        preset_types(path, "Q4_0", with_imatrix=False)


# ---- Fallbacks for rows that do not fit ---------------------------------------------------------------

# src/llama-quant.cpp, tensor_type_fallback: what takes the place of a type whose blocks do not fit.
TO_BLOCKS_OF_32 = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
WITHOUT_FALLBACK = {"Q1_0", "NVFP4"}


def slow_fallback(target: str, n_per_row: int) -> str:
    if n_per_row % qtype(target).block == 0:
        return target
    other = TO_BLOCKS_OF_32.get(target, target)
    return other if n_per_row % qtype(other).block == 0 else "F16"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n_per_row", [256, 320, 352, 128, 100])
def test_a_type_that_does_not_fit_falls_back_as_upstream_says(
    target: str, n_per_row: int, tmp_path: Path
) -> None:
    name = "blk.0.ffn_down.weight"
    model = write_golden_model(tmp_path / "model.gguf")
    with GGUFFile.open(model) as file:
        metadata = dict(file.metadata)
    rng = np.random.default_rng(n_per_row)
    path = write_model(
        tmp_path / "rows.gguf",
        metadata,
        {
            name: (heavy_tailed(rng, 2, n_per_row), "F32"),
            "blk.0.attn_norm.weight": (heavy_tailed(rng, 256), "F32"),
        },
    )
    if target in WITHOUT_FALLBACK and n_per_row % qtype(target).block:
        with pytest.raises(QuantizeError, match="no tensor type fallback"):
            override_types(path, {name: target})
    else:
        wanted = {name: slow_fallback(target, n_per_row), "blk.0.attn_norm.weight": "F32"}
        assert override_types(path, {name: target}) == wanted


def test_an_override_reaches_the_tensor_of_that_very_name(tmp_path: Path) -> None:
    """Upstream takes patterns: a name must not match a longer one, and its dots are dots."""
    named = "blk.0.attn_q.weight"
    others = ("blk.0.attn_q.weight.weight", "xblk.0.attn_q.weight", "blk.0.attn_qxweight")
    with GGUFFile.open(write_golden_model(tmp_path / "model.gguf")) as file:
        metadata = dict(file.metadata)
    weights = heavy_tailed(np.random.default_rng(1), 2, 256)
    path = write_model(tmp_path / "names.gguf", metadata, dict.fromkeys((named, *others), (weights, "F32")))
    assert override_types(path, {named: "Q2_K"}) == {named: "Q2_K", **dict.fromkeys(others, "Q8_0")}
    first, *rest = others
    assert override_types(path, {first: "Q2_K"}) == {first: "Q2_K", **dict.fromkeys((named, *rest), "Q8_0")}


def test_an_override_of_a_tensor_that_is_never_quantized_is_without_effect(builtin_model: Path) -> None:
    types = override_types(builtin_model, {"blk.1.attn_norm.weight": "Q2_K", "blk.1.attn_q.weight": "Q4_0"})
    assert types["blk.1.attn_norm.weight"] == "F32"
    assert types["blk.1.attn_q.weight"] == "Q4_0"


# ---- What may be quantized ------------------------------------------------------------------------------


def test_verdicts_are_those_of_upstreams_rules() -> None:
    """src/llama-quant.cpp, tensor_allows_quantization, by example."""
    matrix, vector, experts = (256, 256), (256,), (256, 256, 8)
    wanted = {
        "token_embd.weight": (matrix, True),
        "output.weight": (matrix, True),
        "blk.0.attn_q.weight": (matrix, True),
        "blk.0.ffn_down_exps.weight": (experts, True),
        "blk.0.attn_k_b.weight": (experts, True),
        "blk.0.attn_norm.weight": (vector, False),
        "blk.0.attn_q_norm.weight": (matrix, False),
        "blk.0.attn_q.bias": (matrix, False),
        "blk.0.ffn_gate_inp.weight": (matrix, False),
        "blk.0.ssm_conv1d.weight": ((4, 512), False),
        "blk.0.ssm_a": ((16, 512), False),
        "blk.0.time_mix_w1.weight": (matrix, False),
        "blk.0.shortconv.conv.weight": (matrix, False),
        "blk.0.attn_rel_b.weight": (matrix, False),
        "rope_freqs.weight": (vector, False),
        "blk.0.one_row.weight": ((256, 1), False),  # ggml drops trailing ones
        "blk.0.one_expert.weight": ((256, 1, 8), True),
    }
    found = quantizable("llama", {name: shape for name, (shape, _) in wanted.items()})
    assert found == {name: may for name, (_, may) in wanted.items()}


def test_some_verdicts_depend_on_the_architecture() -> None:
    tensors = {"blk.0.attn_k_b.weight": (256, 256, 8)}
    assert quantizable("deepseek2", tensors) == {"blk.0.attn_k_b.weight": True}
    assert quantizable("glm5-next", tensors) == {"blk.0.attn_k_b.weight": False}


def test_verdicts_of_an_unknown_architecture_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="nosucharch"):
        quantizable("nosucharch", {"token_embd.weight": (256, 256)})


# ---- Who needs importances ------------------------------------------------------------------------------

# llama-quant.cpp, tensor_requires_imatrix, and ggml.c, ggml_quantize_requires_imatrix.
DRIVER_REFUSES = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
KERNEL_REFUSES = {"IQ1_S", "IQ2_XXS", "IQ2_XS"}
EXEMPT = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")


def test_the_embedding_and_the_head_answer_to_the_kernels_only() -> None:
    assert {t for t in TARGETS if requires_imatrix("blk.0.attn_q.weight", t)} == DRIVER_REFUSES
    for name in EXEMPT:
        assert {t for t in TARGETS if requires_imatrix(name, t)} == KERNEL_REFUSES


def test_q2_k_needs_importances_in_a_q2_k_s_file_only() -> None:
    q2_k_s, q2_k = presets()["Q2_K_S"].ftype, presets()["Q2_K"].ftype
    assert requires_imatrix("blk.0.attn_q.weight", "Q2_K", ftype=q2_k_s)
    assert not requires_imatrix("blk.0.attn_q.weight", "Q2_K", ftype=q2_k)
    assert not requires_imatrix("output.weight", "Q2_K", ftype=q2_k_s)


def test_who_needs_importances_does_not_depend_on_the_spelling() -> None:
    for target in TARGETS:
        name = "blk.0.attn_q.weight"
        assert requires_imatrix(name, target.lower()) == requires_imatrix(name, target)


@pytest.mark.parametrize("target", TARGETS)
def test_upstream_refuses_a_tensor_exactly_where_it_is_said_to(target: str, tmp_path: Path) -> None:
    model = write_golden_model(tmp_path / "model.gguf")
    name, out = "blk.0.attn_q.weight", tmp_path / "out.gguf"
    refused = False
    try:
        upstream_quantize(model, out, "Q8_0", types={name: target}, pure=True, n_threads=1)
    except QuantizeError:
        refused = True
    assert refused == requires_imatrix(name, target)
    if not refused:
        assert stored_types(out)[name] == target


# ---- llama_model_quantize -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["Q4_K", "IQ2_XS", "MXFP4", "F16"])
def test_what_upstream_writes_is_what_quantize_gives(target: str, tmp_path: Path) -> None:
    model = write_golden_model(tmp_path / "model.gguf")
    out, imatrix = tmp_path / "out.gguf", golden_imatrix()
    types = dict.fromkeys(SHAPES, target)
    upstream_quantize(model, out, "Q8_0", types=types, imatrix=imatrix, n_threads=2)
    with GGUFFile.open(out) as file:
        for name, weights in golden_tensors().items():
            wanted = quantize(weights, target, imatrix[name])
            assert np.array_equal(file.data(name), wanted.view(np.uint8).ravel()), name


def test_the_file_type_is_written(tmp_path: Path) -> None:
    model, out = write_golden_model(tmp_path / "model.gguf"), tmp_path / "out.gguf"
    upstream_quantize(model, out, "Q5_K_M", n_threads=1)
    with GGUFFile.open(out) as file:
        assert file.get("general.file_type") == presets()["Q5_K_M"].ftype


def test_pure_gives_every_tensor_the_default_type(tmp_path: Path) -> None:
    model, out = write_golden_model(tmp_path / "model.gguf"), tmp_path / "out.gguf"
    upstream_quantize(model, out, "Q4_K_M", pure=True, n_threads=1)
    assert set(stored_types(out).values()) == {"Q4_K"}


def test_a_quantized_source_is_refused_unless_allowed(tmp_path: Path) -> None:
    model, once = write_golden_model(tmp_path / "model.gguf"), tmp_path / "once.gguf"
    upstream_quantize(model, once, "Q8_0", n_threads=1)
    with pytest.raises(QuantizeError, match="requantizing"):
        upstream_quantize(once, tmp_path / "twice.gguf", "Q4_0", n_threads=1)
    upstream_quantize(once, tmp_path / "twice.gguf", "Q4_0", allow_requantize=True, n_threads=1)
    assert "Q4_0" in stored_types(tmp_path / "twice.gguf").values()


def test_importances_of_the_wrong_length_are_refused(tmp_path: Path) -> None:
    model = write_golden_model(tmp_path / "model.gguf")
    bad = {"blk.0.attn_q.weight": np.ones(255, np.float32)}
    with pytest.raises(QuantizeError, match="255") as caught:
        upstream_quantize(model, tmp_path / "out.gguf", "Q4_0", imatrix=bad, n_threads=1)
    assert "blk.0.attn_q.weight" in caught.value.log


def test_tensors_are_reported_and_the_last_report_is_not_early(
    tmp_path: Path, recording_monitor: Any
) -> None:
    model = write_golden_model(tmp_path / "model.gguf")
    upstream_quantize(model, tmp_path / "out.gguf", "Q4_0", n_threads=1, monitor=recording_monitor)
    assert recording_monitor.started == [("llama_model_quantize", len(SHAPES), "tensors")]
    assert recording_monitor.updates == sorted(recording_monitor.updates)
    assert recording_monitor.updates[-1] <= len(SHAPES)
    assert recording_monitor.finished == 1


def test_progress_ends_at_the_number_of_tensors(tmp_path: Path, recording_monitor: Any) -> None:
    model = write_golden_model(tmp_path / "model.gguf")
    upstream_quantize(model, tmp_path / "out.gguf", "Q4_0", n_threads=1, monitor=recording_monitor)
    assert recording_monitor.updates[-1] == len(SHAPES)


class StoppingMonitor:
    """Raises at its first report."""

    def start(self, step: str, total: int, unit: str) -> None:
        self.step, self.total, self.unit = step, total, unit

    def update(self, done: int) -> None:
        self.done = done
        raise OperationCancelled("enough")

    def finish(self) -> None:
        raise AssertionError("a stopped step does not finish")


def test_a_monitor_that_raises_stops_upstream_between_tensors(builtin_model: Path, tmp_path: Path) -> None:
    # IQ2_XS on one thread takes 4 s for this model; the first report comes after 0.1 s.
    shapes = shapes_of(builtin_model)
    imatrix = {n: np.ones(s[0], np.float32) for n, s in shapes.items() if len(s) > 1}
    monitor, out = StoppingMonitor(), tmp_path / "out.gguf"
    with pytest.raises(OperationCancelled, match="enough"):
        upstream_quantize(builtin_model, out, "IQ2_XS", imatrix=imatrix, n_threads=1, monitor=monitor)
    assert monitor.done < monitor.total
    whole = sum(qtype("IQ2_XS").tensor_bytes(s) for s in shapes.values() if len(s) > 1)
    assert out.stat().st_size < whole


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    model = write_golden_model(tmp_path / "model.gguf")
    with pytest.raises(MQNativeError):
        upstream_quantize(model, tmp_path / "absent" / "out.gguf", "Q8_0", n_threads=1)


HEAD_WITHOUT_IMPORTANCES = """
import sys
from mqnative.core.presets import upstream_quantize
from mqnative.errors import MQNativeError

model, out, n_threads = sys.argv[1:]
try:
    upstream_quantize(
        model, out, "Q8_0", types={"token_embd.weight": "IQ2_XXS"}, n_threads=int(n_threads)
    )
except MQNativeError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    "n_threads",
    [
        1,
        2,
    ],
)
def test_a_kernel_that_lacks_importances_is_an_error_not_an_abort(
    n_threads: int, tiny_models: TinyModels, tmp_path: Path
) -> None:
    """Upstream's driver exempts the embedding, its kernel does not."""
    done = subprocess.run(
        [
            sys.executable, "-c", HEAD_WITHOUT_IMPORTANCES, str(tiny_models.dense),
            str(tmp_path / "out.gguf"), str(n_threads),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip() in ("QuantizeError", "ImatrixError")
