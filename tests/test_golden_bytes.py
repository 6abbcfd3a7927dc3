"""Our blocks against the bytes that upstream's llama-quantize wrote, kept as hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_inputs import (
    SEED,
    SHAPES,
    golden_imatrix,
    golden_tensors,
    sha256,
    write_golden_imatrix,
    write_golden_model,
)
from mqnative.core.native import core
from mqnative.core.presets import requires_imatrix
from mqnative.core.quantize import quantize
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix
from mqnative.formats.qtypes import all_types
from tiny_models import bf16_bits

GOLDEN = json.loads((Path(__file__).parent / "golden" / "quantized_bytes.json").read_text(encoding="utf-8"))
TARGETS = [t.name for t in all_types().values() if t.is_target]
STORED_AS = {
    "F32": lambda weights: weights,
    "F16": lambda weights: weights.astype(np.float16),
    "BF16": bf16_bits,
}


def stored(name: str) -> Any:
    """A golden tensor as the array a user would have of its file."""
    return STORED_AS[SHAPES[name][1]](golden_tensors()[name])


def test_the_golden_file_is_of_the_upstream_commit_that_is_built_in() -> None:
    assert GOLDEN["upstream_commit"] == core().build_info()["upstream_commit"]
    assert GOLDEN["seed"] == SEED


def test_the_seeded_inputs_are_those_the_golden_file_was_made_from() -> None:
    assert GOLDEN["sources"] == {n: sha256(w) for n, w in golden_tensors().items()}
    assert GOLDEN["importances"] == {n: sha256(v) for n, v in golden_imatrix().items()}


def test_the_files_given_to_upstream_hold_the_seeded_inputs(tmp_path: Path) -> None:
    write_golden_model(tmp_path / "model.gguf")
    write_golden_imatrix(tmp_path / "imatrix.gguf")
    imatrix = read_imatrix(tmp_path / "imatrix.gguf")
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        for name in SHAPES:
            np.testing.assert_array_equal(file.array(name), stored(name))
            np.testing.assert_array_equal(imatrix.entries[name].sum_squares, golden_imatrix()[name])


def test_the_golden_file_covers_every_type_that_can_be_written() -> None:
    assert set(GOLDEN["with_imatrix"]) == set(TARGETS)
    refused = {t for t in TARGETS if requires_imatrix("blk.0.attn_q.weight", t)}
    assert set(GOLDEN["without_imatrix"]) == set(TARGETS) - refused


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_with_importances_are_those_of_llama_quantize(target: str) -> None:
    imatrix = golden_imatrix()
    found = {n: sha256(quantize(stored(n), target, imatrix[n])) for n in SHAPES}
    assert found == GOLDEN["with_imatrix"][target]


@pytest.mark.parametrize("target", GOLDEN["without_imatrix"])
def test_bytes_without_importances_are_those_of_llama_quantize(target: str) -> None:
    found = {n: sha256(quantize(stored(n), target)) for n in SHAPES}
    assert found == GOLDEN["without_imatrix"][target]


@pytest.mark.parametrize("target", TARGETS)
def test_importances_change_the_golden_bytes_exactly_where_the_core_says_so(target: str) -> None:
    with_imatrix = GOLDEN["with_imatrix"][target]
    plain = GOLDEN["without_imatrix"].get(target)
    if plain is None:
        assert core().uses_imatrix(all_types()[target].id)
    else:
        assert (with_imatrix != plain) == core().uses_imatrix(all_types()[target].id)
