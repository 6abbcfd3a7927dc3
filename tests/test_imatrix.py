"""Importance matrices: upstream's arithmetic, both file forms, merging, identity."""

from __future__ import annotations

import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mqnative import builtin
from mqnative.errors import ImatrixError, OutputExistsError
from mqnative.formats.gguf import MetaType, MetaValue
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.imatrix import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from mqnative.formats.qtypes import qtype

DENSE = "blk.0.ffn_down.weight"
EXPERTS = "blk.0.ffn_up_exps.weight"


def entry(n_slices: int = 1, n_per_row: int = 8, seed: int = 0, **kwargs: object) -> ImatrixEntry:
    rng = np.random.default_rng(seed)
    sums = rng.random((n_slices, n_per_row), dtype=np.float32) * np.float32(1000)
    counts = rng.integers(1, 5000, n_slices).astype(np.float32)
    return ImatrixEntry(**{"sum_squares": sums, "counts": counts, **kwargs})


def imatrix(**entries: ImatrixEntry) -> Imatrix:
    named = entries or {"dense": entry(), "experts": entry(4, seed=1)}
    names = {"dense": DENSE, "experts": EXPERTS}
    return Imatrix(
        {names.get(name, name): value for name, value in named.items()},
        datasets=("wiki.txt", "code.txt"),
        chunk_count=7,
        chunk_size=512,
    )


def legacy_bytes(
    entries: list[tuple[str, int, list[float]]], trailer: tuple[int, str] | None = (9, "wiki.txt")
) -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, n_calls, values in entries:
        parts.append(struct.pack("<i", len(name)) + name.encode())
        parts.append(struct.pack(f"<ii{len(values)}f", n_calls, len(values), *values))
    if trailer is not None:
        parts.append(struct.pack("<ii", trailer[0], len(trailer[1])) + trailer[1].encode())
    return b"".join(parts)


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A GGUF imatrix with exactly these tensors, in NumPy order."""
    metadata = {
        "general.type": MetaValue.string("imatrix"),
        "imatrix.datasets": MetaValue.array(MetaType.STRING, []),
        "imatrix.chunk_count": MetaValue.u32(1),
        "imatrix.chunk_size": MetaValue.u32(512),
    }
    f32 = qtype("F32")
    layout = GGUFLayout.plan(metadata, [(n, a.shape[::-1], f32) for n, a in tensors.items()])

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        out.write(tensors[slot.name].tobytes())

    write_gguf(path, layout, write_tensor)


def same(a: Imatrix, b: Imatrix) -> bool:
    return a.content_hash() == b.content_hash() and (a.datasets, a.chunk_count, a.chunk_size) == (
        b.datasets,
        b.chunk_count,
        b.chunk_size,
    )


# --- weights -----------------------------------------------------------------------------------


def slow_weights(e: ImatrixEntry) -> np.ndarray:
    """One float32 division per value, as the C loop has it."""
    result = np.empty(e.sum_squares.shape, dtype=np.float32)
    for s in range(result.shape[0]):
        count = np.float32(e.counts[s] if len(e.counts) > 1 else e.counts[0])
        for j in range(result.shape[1]):
            result[s, j] = e.sum_squares[s, j] / count if count > 0 else np.float32(1)
    return result


@pytest.mark.parametrize("n_slices", [1, 3])
def test_weights_are_float32_divisions_of_sums_by_counts(n_slices: int) -> None:
    e = entry(n_slices, 257, seed=n_slices)
    weights = e.weights()
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, slow_weights(e))


def test_a_slice_that_saw_nothing_gets_ones() -> None:
    e = entry(3, counts=np.array([5, 0, 2]))
    np.testing.assert_array_equal(e.weights()[1], np.ones(8))
    np.testing.assert_array_equal(e.weights(), slow_weights(e))


def test_one_count_serves_all_slices() -> None:
    e = entry(3, counts=np.array([7]))
    np.testing.assert_array_equal(e.weights(), slow_weights(e))
    np.testing.assert_array_equal(e.slice_counts(), [7, 7, 7])


def test_counts_are_rounded_half_away_from_zero_as_upstream_does() -> None:
    assert entry(4, counts=np.array([0.4, 0.5, 1.5, 2.5])).counts.tolist() == [0, 1, 2, 3]


def test_weights_of_an_absent_tensor_are_none() -> None:
    assert imatrix().weights("blk.9.ffn_down.weight") is None
    assert imatrix().weights_for("blk.9.ffn_down.weight", (8, 4)) is None


def test_weights_for_a_shape_have_one_row_per_expert() -> None:
    flat = imatrix(experts=entry(1, 32))
    weights = flat.weights_for(EXPERTS, (8, 5, 4))
    assert weights is not None
    assert weights.shape == (4, 8)
    np.testing.assert_array_equal(weights.ravel(), flat.entries[EXPERTS].weights().ravel())


def test_a_row_of_the_wrong_length_names_the_tensor_and_both_lengths() -> None:
    with pytest.raises(ImatrixError, match=r"has 8 values .* needs 16") as caught:
        imatrix().weights_for(DENSE, (16, 4))
    assert caught.value.tensor == DENSE


@pytest.mark.parametrize("name", ["token_embd.weight", "per_layer_token_embd.weight"])
def test_a_row_of_the_wrong_length_is_ignored_for_token_embeddings(name: str) -> None:
    assert imatrix(**{name: entry()}).weights_for(name, (16, 4)) is None
    assert imatrix(**{name: entry()}).weights_for(name, (8, 4)) is not None


# --- entries -----------------------------------------------------------------------------------


def test_entries_are_copies_that_nobody_can_change() -> None:
    sums = np.ones((1, 4), dtype=np.float32)
    e = ImatrixEntry(sums, np.ones(1, dtype=np.float32))
    sums[:] = 5
    assert e.sum_squares.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        e.sum_squares[0, 0] = 2


BAD_ENTRIES = {
    "sums with one dimension": {"sum_squares": np.ones(8)},
    "no columns": {"sum_squares": np.ones((1, 0))},
    "a count too many": {"counts": np.ones(3)},
    "no counts": {"counts": np.ones(0)},
    "a NaN": {"sum_squares": np.full((1, 8), np.nan)},
    "an infinity": {"sum_squares": np.full((1, 8), np.inf)},
    "a value beyond float32": {"sum_squares": np.full((1, 8), 1e300)},
    "a negative sum of squares": {"sum_squares": np.full((1, 8), -1.0)},
    "a NaN count": {"counts": np.array([np.nan])},
    "a negative count": {"counts": np.array([-1.0])},
    "a count beyond any text": {"counts": np.array([1e30])},
    "signed sums of another shape": {"sums": np.ones((2, 8))},
    "an infinite signed sum": {"sums": np.full((1, 8), -np.inf)},
}


@pytest.mark.parametrize("change", BAD_ENTRIES.values(), ids=list(BAD_ENTRIES))
def test_an_entry_cannot_hold(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ImatrixError):
        entry(**change)


# --- GGUF --------------------------------------------------------------------------------------


def test_gguf_round_trips_everything(tmp_path: Path) -> None:
    original = imatrix(dense=entry(sums=np.linspace(-3, 3, 8)[np.newaxis]), experts=entry(4, seed=2))
    write_imatrix(tmp_path / "i.gguf", original)
    assert same(read_imatrix(tmp_path / "i.gguf"), original)


def test_gguf_is_what_upstream_writes_and_another_reader_reads(tmp_path: Path) -> None:
    original = imatrix()
    write_imatrix(tmp_path / "i.gguf", original)
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    values = {key: field.contents() for key, field in reader.fields.items() if "GGUF" not in key}
    assert values == {
        "general.type": "imatrix",
        "imatrix.datasets": ["wiki.txt", "code.txt"],
        "imatrix.chunk_count": 7,
        "imatrix.chunk_size": 512,
    }
    assert [(t.name, t.shape.tolist()) for t in reader.tensors] == [
        (f"{DENSE}.in_sum2", [8]),
        (f"{DENSE}.counts", [1]),
        (f"{EXPERTS}.in_sum2", [8, 4]),
        (f"{EXPERTS}.counts", [1, 4]),
    ]
    np.testing.assert_array_equal(reader.tensors[2].data, original.entries[EXPERTS].sum_squares)


def test_slices_without_rows_of_their_own_are_told_by_the_counts(tmp_path: Path) -> None:
    sums = np.arange(12, dtype=np.float32)
    tensors = {"w.in_sum2": sums, "w.counts": np.ones((3, 1), np.float32), "w.in_sum": sums}
    write_tensors(tmp_path / "i.gguf", tensors)
    read = read_imatrix(tmp_path / "i.gguf").entries["w"]
    assert read.sum_squares.shape == (3, 4)
    assert read.sums is not None
    assert read.sums.shape == (3, 4)


def test_tensors_of_other_programs_are_ignored(tmp_path: Path) -> None:
    one = np.ones(4, dtype=np.float32)
    tensors = {"w.in_sum2": one, "w.counts": one[:1], "w.stats": one, "w.new_thing": one}
    write_tensors(tmp_path / "i.gguf", tensors)
    assert list(read_imatrix(tmp_path / "i.gguf").entries) == ["w"]


def test_the_file_may_change_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    write_imatrix(path, imatrix())
    read = read_imatrix(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(read, imatrix())


# --- legacy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trailer", [(9, "wiki.txt"), (9, "")])
def test_legacy_bytes_survive_reading_and_writing(tmp_path: Path, trailer: tuple[int, str]) -> None:
    stored = legacy_bytes([(DENSE, 3, [0.1, 0.7, 2.3]), (EXPERTS, 5, [1 / 3] * 8)], trailer)
    (tmp_path / "a.dat").write_bytes(stored)
    write_imatrix(tmp_path / "b.dat", read_imatrix(tmp_path / "a.dat"), legacy=True)
    assert (tmp_path / "b.dat").read_bytes() == stored


def test_legacy_values_are_means_times_calls(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(legacy_bytes([(DENSE, 3, [0.1, 0.7])]))
    read = read_imatrix(tmp_path / "a.dat")
    expected = np.array([[0.1, 0.7]], dtype=np.float32) / np.float32(3)
    np.testing.assert_array_equal(read.weights(DENSE), expected)
    assert (read.chunk_count, read.chunk_size, read.datasets) == (9, 0, ("wiki.txt",))


def test_legacy_values_with_no_calls_are_means_already(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(legacy_bytes([(DENSE, 0, [0.25, 4.0])]))
    assert read_imatrix(tmp_path / "a.dat").weights(DENSE).tolist() == [[0.25, 4.0]]


def test_the_legacy_trailer_may_be_absent_or_end_early(tmp_path: Path) -> None:
    body = legacy_bytes([(DENSE, 3, [0.1])], trailer=None)
    for tail, chunk_count in ((b"", 0), (struct.pack("<i", 9), 9)):
        (tmp_path / "a.dat").write_bytes(body + tail)
        read = read_imatrix(tmp_path / "a.dat")
        assert (read.chunk_count, read.datasets) == (chunk_count, ())


def test_legacy_output_follows_upstreams_formula(tmp_path: Path) -> None:
    counts = np.array([1000, 0, 513], dtype=np.float32)
    e = entry(3, 4, counts=counts)
    unseen = entry(2, 4, counts=np.zeros(2))
    write_imatrix(tmp_path / "a.dat", imatrix(experts=e, dense=unseen), legacy=True)
    n_calls = 2  # 1000 tokens make two chunks of 512, the second one short
    values = [
        float(e.sum_squares[s, j] / counts[s] * np.float32(n_calls)) if counts[s] else n_calls
        for s in range(3)
        for j in range(4)
    ]
    expected = legacy_bytes([(EXPERTS, n_calls, values)], trailer=(7, "code.txt"))
    assert (tmp_path / "a.dat").read_bytes() == expected


def test_legacy_files_become_gguf_in_tokens_with_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(legacy_bytes([(DENSE, 3, [0.1, 0.7, 1e-39])]))
    legacy = read_imatrix(tmp_path / "a.dat")
    write_imatrix(tmp_path / "b.gguf", legacy)
    converted = read_imatrix(tmp_path / "b.gguf")
    assert converted.chunk_size == 512
    assert converted.entries[DENSE].counts.tolist() == [3 * 512]
    np.testing.assert_array_equal(converted.weights(DENSE), legacy.weights(DENSE))


def test_an_imatrix_without_data_cannot_be_written(tmp_path: Path) -> None:
    unseen = imatrix(dense=entry(counts=np.zeros(1)))
    with pytest.raises(ImatrixError, match="no tensor"):
        write_imatrix(tmp_path / "a.dat", unseen, legacy=True)
    with pytest.raises(ImatrixError, match="no entries"):
        write_imatrix(tmp_path / "a.gguf", Imatrix({}))
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_name_too_long_for_gguf_is_refused(tmp_path: Path) -> None:
    name = "w" * 60
    with pytest.raises(ImatrixError) as caught:
        write_imatrix(tmp_path / "a.gguf", imatrix(**{name: entry()}))
    assert caught.value.tensor == f"{name}.in_sum2"


@pytest.mark.parametrize("legacy", [False, True])
def test_an_existing_file_is_kept_unless_forced(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "i"
    path.write_text("mine")
    with pytest.raises(OutputExistsError):
        write_imatrix(path, imatrix(), legacy=legacy)
    assert path.read_text() == "mine"
    write_imatrix(path, imatrix(), legacy=legacy, force=True)
    assert list(read_imatrix(path).entries) == [DENSE, EXPERTS]


names = st.text(st.sampled_from("abz.019_"), min_size=1, max_size=40)
values = st.floats(0, 2.0**100, width=32)


@st.composite
def entries(draw: st.DrawFn) -> ImatrixEntry:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=5))
    n_counts = draw(st.sampled_from([1, shape[0]]))
    signed = hnp.arrays(np.float32, shape, elements=st.floats(-(2.0**100), 2.0**100, width=32))
    return ImatrixEntry(
        draw(hnp.arrays(np.float32, shape, elements=values)),
        draw(hnp.arrays(np.float32, n_counts, elements=st.integers(0, 1 << 24).map(float))),
        draw(st.none() | signed),
    )


@settings(max_examples=50)
@given(
    content=st.dictionaries(names, entries(), min_size=1, max_size=4),
    datasets=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=3),
    chunk_count=st.integers(0, 2**31 - 1),
    chunk_size=st.integers(1, 2**20),
)
def test_any_imatrix_survives_gguf(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, ImatrixEntry],
    datasets: list[str],
    chunk_count: int,
    chunk_size: int,
) -> None:
    path = tmp_path_factory.mktemp("any") / "i.gguf"
    original = Imatrix(content, tuple(datasets), chunk_count, chunk_size)
    write_imatrix(path, original)
    assert same(read_imatrix(path), original)


# --- merging and identity ----------------------------------------------------------------------


def test_merging_adds_sums_counts_and_datasets() -> None:
    a, b = imatrix(dense=entry(seed=1)), imatrix(dense=entry(seed=2), experts=entry(4))
    merged = a.merge(b)
    ours, theirs, both = a.entries[DENSE], b.entries[DENSE], merged.entries[DENSE]
    np.testing.assert_array_equal(both.sum_squares, ours.sum_squares + theirs.sum_squares)
    assert both.counts[0] == ours.counts[0] + theirs.counts[0]
    assert merged.datasets == ("wiki.txt", "code.txt") * 2
    assert merged.entries[EXPERTS].counts.tolist() == b.entries[EXPERTS].counts.tolist()
    assert merged.chunk_count == max(e.max_count for e in merged.entries.values()) // 512


def test_merging_does_not_depend_on_the_order() -> None:
    a, b = imatrix(dense=entry(seed=1)), imatrix(dense=entry(seed=2), experts=entry(4))
    assert a.merge(b).content_hash() == b.merge(a).content_hash()


def test_signed_sums_survive_merging_only_if_both_have_them() -> None:
    signed = imatrix(dense=entry(sums=np.full((1, 8), -2.0)))
    both = signed.merge(signed).entries[DENSE].sums
    assert both is not None
    assert both.tolist() == [[-4.0] * 8]
    assert signed.merge(imatrix(dense=entry())).entries[DENSE].sums is None


def test_a_shared_count_is_broadcast_when_the_other_side_counts_per_slice() -> None:
    shared = imatrix(experts=entry(4, counts=np.array([10])))
    merged = shared.merge(imatrix(experts=entry(4, counts=np.array([1, 2, 3, 4]))))
    assert merged.entries[EXPERTS].counts.tolist() == [11, 12, 13, 14]


@pytest.mark.parametrize("legacy_first", [True, False])
def test_legacy_counts_become_tokens_when_merged_with_gguf(tmp_path: Path, legacy_first: bool) -> None:
    (tmp_path / "a.dat").write_bytes(legacy_bytes([(EXPERTS, 3, [1.0] * 32)]))
    legacy = read_imatrix(tmp_path / "a.dat")
    modern = imatrix(experts=entry(4, counts=np.array([1, 2, 3, 4])))
    merged = legacy.merge(modern) if legacy_first else modern.merge(legacy)
    assert merged.chunk_size == 512
    assert merged.entries[EXPERTS].sum_squares.shape == (4, 8)
    assert merged.entries[EXPERTS].counts.tolist() == [1537, 1538, 1539, 1540]


def test_legacy_matrices_merge_in_chunks(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(legacy_bytes([(DENSE, 3, [1.5])]))
    legacy = read_imatrix(tmp_path / "a.dat")
    merged = legacy.merge(legacy)
    assert (merged.chunk_size, merged.chunk_count) == (0, 6)
    np.testing.assert_array_equal(merged.weights(DENSE), legacy.weights(DENSE))


UNMERGEABLE = {
    "rows of another length": (entry(1, 8), entry(1, 16)),
    "slices that do not nest": (entry(2, 6), entry(3, 4)),
    "sums that overflow": (entry(sum_squares=np.full((1, 8), 3e38)),) * 2,
}


@pytest.mark.parametrize("pair", UNMERGEABLE.values(), ids=list(UNMERGEABLE))
def test_what_cannot_be_merged_is_named(pair: tuple[ImatrixEntry, ImatrixEntry]) -> None:
    with pytest.raises(ImatrixError) as caught:
        imatrix(dense=pair[0]).merge(imatrix(dense=pair[1]))
    assert caught.value.tensor == DENSE


def test_the_content_hash_ignores_labels_and_order() -> None:
    a = imatrix()
    b = Imatrix(dict(reversed(a.entries.items())), datasets=("elsewhere/wiki.txt",), chunk_count=1)
    assert a.content_hash() == b.content_hash()


def test_the_content_hash_sees_every_value() -> None:
    changed = entry().sum_squares.copy()
    changed[0, 3] = np.nextafter(changed[0, 3], np.float32(np.inf))
    variants = [
        imatrix(),
        imatrix(dense=entry()),
        imatrix(experts=entry()),
        imatrix(dense=entry(sum_squares=changed)),
        imatrix(dense=entry(counts=np.array([1]))),
        imatrix(dense=entry(sums=np.zeros((1, 8)))),
        imatrix(dense=entry(sum_squares=entry().sum_squares.reshape(2, 4), counts=entry().counts)),
    ]
    assert len({variant.content_hash() for variant in variants}) == len(variants)


def test_the_content_hash_is_the_same_on_every_machine() -> None:
    fixed = Imatrix({"w": ImatrixEntry(np.array([[1, 2]]), np.array([3]))})
    assert fixed.content_hash() == "116ee753e034cce8228e53e34616895c8499b1c9f5f8d0a16c4157025fc8ab25"


def test_an_imatrix_can_be_sent_to_another_process() -> None:
    assert same(pickle.loads(pickle.dumps(imatrix())), imatrix())


# --- upstream's own tool -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama_imatrix(upstream_bin: Path, builtin_model: Path) -> Callable[..., None]:
    def run(*args: str | Path) -> None:
        command = [upstream_bin / "llama-imatrix", "-m", builtin_model, "--no-ppl", *args]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)

    return run


@pytest.mark.upstream
def test_what_llama_imatrix_writes_is_reproduced_byte_for_byte(
    tmp_path: Path, llama_imatrix: Callable[..., None]
) -> None:
    collect = ("-f", builtin.CALIB_TEXT, "--chunks", "4")
    llama_imatrix(*collect, "-o", tmp_path / "up.gguf")
    llama_imatrix(*collect, "-o", tmp_path / "up.dat", "--output-format", "dat")
    llama_imatrix("--in-file", tmp_path / "up.dat", "-o", tmp_path / "up.dat.gguf")
    llama_imatrix(
        *("--in-file", tmp_path / "up.gguf", "--in-file", tmp_path / "up.dat"),
        *("-o", tmp_path / "up.merged.gguf"),
    )
    modern, legacy = read_imatrix(tmp_path / "up.gguf"), read_imatrix(tmp_path / "up.dat")
    ours = {
        "up.gguf": (modern, False),
        "up.dat": (modern, True),
        "up.dat.gguf": (legacy, False),
        "up.merged.gguf": (modern.merge(legacy), False),
    }
    for name, (content, as_legacy) in ours.items():
        write_imatrix(tmp_path / "ours", content, legacy=as_legacy, force=True)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / name).read_bytes(), name
    write_imatrix(tmp_path / "ours", legacy, legacy=True, force=True)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "up.dat").read_bytes()
