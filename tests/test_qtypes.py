"""The table of types against what is written about them, and against ggml itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_inputs import write_golden_imatrix, write_golden_model
from mqnative.errors import UnsupportedTypeError
from mqnative.formats.qtypes import all_types, qtype, types_by_id

ALL_TYPES = list(all_types().values())

# Bits per weight as ggml-common.h gives them beside each block.
BPW = {
    "Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0, "Q8_0": 8.5, "Q2_K": 2.625, "Q3_K": 3.4375,
    "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "IQ1_S": 1.5625, "IQ1_M": 1.75, "IQ2_XXS": 2.0625,
    "IQ2_XS": 2.3125, "IQ2_S": 2.5625, "IQ3_XXS": 3.0625, "IQ3_S": 3.4375, "IQ4_NL": 4.5,
    "IQ4_XS": 4.25, "TQ1_0": 1.6875, "TQ2_0": 2.0625, "MXFP4": 4.25, "NVFP4": 4.5, "Q1_0": 1.125,
    "Q2_0": 2.25, "F32": 32.0, "F16": 16.0, "BF16": 16.0,
}  # fmt: skip
ACTIVATION_FORMATS = {"Q8_1", "Q8_K"}
INTEGERS_AND_DOUBLES = {"I8", "I16", "I32", "I64", "F64"}


def test_bits_per_weight_are_those_of_ggml_common_h() -> None:
    assert {t.name: t.bpw for t in ALL_TYPES if t.is_target} == BPW


def test_blocks_are_those_of_the_gguf_package() -> None:
    # The package still has the Q8_1 of 2023, with two 32-bit scales; ggml's own has 16-bit ones.
    known = {
        t.name: gguf.GGML_QUANT_SIZES[t]
        for t in gguf.GGMLQuantizationType
        if t in gguf.GGML_QUANT_SIZES and t.name in all_types() and t.name != "Q8_1"
    }
    assert len(known) > 25
    assert {n: (qtype(n).block, qtype(n).block_bytes) for n in known} == known
    ids = {t.name: t.value for t in gguf.GGMLQuantizationType if t.name in known}
    assert {n: qtype(n).id for n in ids} == ids


def test_activation_formats_and_integers_are_not_targets() -> None:
    refused = {t.name for t in ALL_TYPES if not t.is_target}
    assert refused == ACTIVATION_FORMATS | INTEGERS_AND_DOUBLES


def test_floats_and_integers_are_not_called_quantized() -> None:
    plain = {t.name for t in ALL_TYPES if not t.is_quantized}
    assert plain == {"F32", "F16", "BF16"} | INTEGERS_AND_DOUBLES


def test_three_types_cannot_be_encoded_without_importances() -> None:
    # ggml.c, ggml_quantize_requires_imatrix.
    assert {t.name for t in ALL_TYPES if t.needs_imatrix} == {"IQ2_XXS", "IQ2_XS", "IQ1_S"}


def test_a_name_is_found_in_any_case() -> None:
    assert qtype("q4_k") is qtype("Q4_K") is qtype("q4_K")


@pytest.mark.parametrize("name", ["", "Q4", "Q4_K ", "Q4_K_M", "q9_9", "COUNT"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        qtype(name)
    assert caught.value.qtype == name
    assert caught.value.reason == "unknown type"
    assert caught.value.allowed == tuple(all_types())
    assert repr(name) in caught.value.message


def test_types_by_id_is_the_same_table() -> None:
    assert sorted(types_by_id().values(), key=lambda t: t.name) == sorted(ALL_TYPES, key=lambda t: t.name)
    assert all(number == t.id for number, t in types_by_id().items())


@given(st.sampled_from(ALL_TYPES), st.integers(1, 100), st.integers(1, 5), st.integers(1, 3))
def test_bytes_of_a_tensor_are_its_blocks(kind, n_blocks: int, n_rows: int, n_slices: int) -> None:
    shape = (n_blocks * kind.block, n_rows, n_slices)
    assert kind.row_bytes(shape[0]) == n_blocks * kind.block_bytes
    assert kind.tensor_bytes(shape) == n_blocks * n_rows * n_slices * kind.block_bytes
    assert kind.tensor_bytes(shape[:1]) == kind.row_bytes(shape[0])


@given(st.sampled_from([t for t in ALL_TYPES if t.block > 1]), st.integers(1, 2000))
def test_a_row_that_does_not_fill_blocks_is_refused(kind, n_per_row: int) -> None:
    if n_per_row % kind.block == 0:
        n_per_row += 1
    with pytest.raises(UnsupportedTypeError, match=f"{n_per_row} weights") as caught:
        kind.row_bytes(n_per_row)
    assert (caught.value.qtype, caught.value.reason) == (kind.name, "row size")


@pytest.mark.upstream
@pytest.mark.parametrize("kind", [t for t in ALL_TYPES if not t.is_target], ids=lambda t: t.name)
def test_upstream_cannot_encode_a_type_that_is_no_target(kind, upstream_bin: Path, tmp_path: Path) -> None:
    """That it can encode the others is what the golden bytes were made from."""
    model = write_golden_model(tmp_path / "model.gguf")
    imatrix = write_golden_imatrix(tmp_path / "imatrix.gguf")
    done = subprocess.run(
        [
            str(upstream_bin / "llama-quantize"), "--pure", "--imatrix", str(imatrix),
            "--tensor-type", f".*={kind.name.lower()}", str(model), str(tmp_path / "out.gguf"),
            "Q8_0", "1",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )  # fmt: skip
    assert f"converting to {kind.name.lower()}" in done.stderr.lower()  # it did try
    assert done.returncode != 0
