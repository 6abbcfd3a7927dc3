"""Files made of bytes that come once and in pieces: the same as those made of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqnative.build.plan import BuildPlan, model_tensors, plan_build
from mqnative.build.stream import Pieces, build_streamed, write_reference
from mqnative.build.writer import build_gguf
from mqnative.core.monitor import CancellableMonitor, CancelToken
from mqnative.errors import MQNativeError, OperationCancelled
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe import Recipe
from mqnative.source.identity import identify
from mqnative.source.lazy_rows import row_pieces, source_of
from tiny_models import TinyModels

LABELS = ("dense", "moe", "odd_rows")
TYPES = ("Q4_K", "Q6_K", "IQ4_NL", "Q8_0", "Q5_0", "BF16", "F16")


def skeleton_of(model: Path, folder: Path) -> Path:
    """The header of a file with a hole behind it."""
    path = folder / "skeleton.gguf"
    with GGUFFile.open(model) as file:
        start = min(t.offset for t in file.tensors.values())
        size = file.file_bytes
    with path.open("wb") as out, model.open("rb") as source:
        out.write(source.read(start))
        out.truncate(size)
    return path


def pieces_of(file: GGUFFile, n_rows: int) -> Pieces:
    """Every tensor in pieces of so many rows, experts not minded."""

    def pieces(name: str) -> Iterator[Any]:
        data = np.frombuffer(file.data(name), np.uint8)
        step = n_rows * file.tensors[name].qtype.row_bytes(file.tensors[name].shape[0])
        for at in range(0, len(data), step):
            yield data[at : at + step]

    return pieces


def mixed(file: GGUFFile) -> Recipe:
    """Every kind of type in turn."""
    tensors = model_tensors(file)
    movable = [n for n, t in tensors.items() if t.quantizable]
    chosen = {n: t.qtype_name for n, t in tensors.items()}
    return Recipe(tensors=chosen | {n: TYPES[i % len(TYPES)] for i, n in enumerate(movable)})


@pytest.mark.parametrize("label", LABELS)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(n_rows=st.integers(1, 300))
def test_a_plan_of_pieces_gives_the_bytes_of_a_plan_of_a_file(
    label: str, n_rows: int, tiny_models: TinyModels, tmp_path: Path
) -> None:
    model = getattr(tiny_models, label)
    with GGUFFile.open(model) as file, GGUFFile.open(skeleton_of(model, tmp_path)) as skeleton:
        recipe, identity = mixed(file), identify(file)

        def planner(source_hash: str) -> BuildPlan:
            return plan_build(skeleton, recipe, None, source_hash=source_hash)

        built, streamed = tmp_path / "built.gguf", tmp_path / "streamed.gguf"
        build_gguf(file, plan_build(file, recipe, None, source_hash=identity.model), built, force=True)
        done = build_streamed(skeleton, pieces_of(file, n_rows), planner, streamed)
        assert streamed.read_bytes() == built.read_bytes()
        assert done.identity == identity
        reference = tmp_path / "reference.gguf"
        done = write_reference(skeleton, pieces_of(file, n_rows), reference)
        assert reference.read_bytes() == model.read_bytes()
        assert done.identity == identity


def test_a_stopped_stream_leaves_nothing(tiny_models: TinyModels, tmp_path: Path) -> None:
    model = tiny_models.dense
    token, out = CancelToken(), tmp_path / "out"
    out.mkdir()
    with GGUFFile.open(model) as file, GGUFFile.open(skeleton_of(model, tmp_path)) as skeleton:
        recipe = mixed(file)

        def pieces(name: str) -> Iterator[Any]:
            yield from pieces_of(file, 7)(name)
            token.cancel()

        def planner(source_hash: str) -> BuildPlan:
            return plan_build(skeleton, recipe, None, source_hash=source_hash)

        with pytest.raises(OperationCancelled):
            build_streamed(skeleton, pieces, planner, out / "m.gguf", monitor=CancellableMonitor(token))
    assert list(out.iterdir()) == []


def test_a_source_that_ends_early_is_an_error_and_leaves_nothing(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    model, out = tiny_models.dense, tmp_path / "out"
    out.mkdir()
    with GGUFFile.open(model) as file, GGUFFile.open(skeleton_of(model, tmp_path)) as skeleton:
        recipe = mixed(file)

        def pieces(name: str) -> Iterator[Any]:
            yield from list(pieces_of(file, 3)(name))[:-1]

        def planner(source_hash: str) -> BuildPlan:
            return plan_build(skeleton, recipe, None, source_hash=source_hash)

        with pytest.raises(MQNativeError):
            build_streamed(skeleton, pieces, planner, out / "m.gguf")
        with pytest.raises(MQNativeError):
            write_reference(skeleton, pieces, out / "r.gguf")
    assert list(out.iterdir()) == []


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), step=st.integers(1, 200))
def test_an_array_is_cut_into_whole_rows_in_order(shape: list[int], step: int) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    pieces = list(row_pieces(array, step))
    assert all(p.shape[1] == shape[-1] for p in pieces)
    assert all(p.size <= max(step, shape[-1]) for p in pieces)
    assert np.array_equal(np.concatenate(pieces).reshape(shape), array)
    assert source_of(array, "BF16") is None
