"""The reader and the writer against each other and against the `gguf` package."""

from __future__ import annotations

import gc
import struct
import time
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import pytest

from mqnative.errors import GGUFError, OperationCancelled, OutputExistsError
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue, StringArray
from mqnative.formats.gguf_header import TensorInfo
from mqnative.formats.gguf_splits import split_name
from mqnative.formats.gguf_strings import decode_text
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.qtypes import QType, qtype

RNG_SEED = 20

# The `gguf` package stores lists of ints as I32, of floats as F32, of bools as BOOL.
METADATA = {
    "general.architecture": MetaValue.string("llama"),
    "t.u8": MetaValue.u8(255),
    "t.i8": MetaValue.i8(-128),
    "t.u16": MetaValue.u16(65535),
    "t.i16": MetaValue.i16(-32768),
    "t.u32": MetaValue.u32(2**32 - 1),
    "t.i32": MetaValue.i32(-(2**31)),
    "t.f32": MetaValue.f32(0.1),
    "t.bool": MetaValue.boolean(True),
    "t.string": MetaValue.string('zwölf Boxkämpfer 🥊\nand "quotes"'),
    "t.u64": MetaValue.u64(2**64 - 1),
    "t.i64": MetaValue.i64(-(2**63)),
    "t.f64": MetaValue.f64(0.1),
    "a.i32": MetaValue.array(MetaType.I32, [1, -2, 3]),
    "a.f32": MetaValue.array(MetaType.F32, [0.5, -1.25]),
    "a.bool": MetaValue.array(MetaType.BOOL, [True, False, True]),
    "a.string": MetaValue.array(MetaType.STRING, ["", "a", "Ġé", "\n"]),
}
SHAPES = {
    "token_embd.weight": ((64, 10), "F32"),
    "blk.0.attn_q.weight": ((64, 3), "F16"),
    "blk.0.attn_norm.weight": ((7,), "F32"),
    "blk.0.ffn_up_exps.weight": ((64, 2, 3), "Q8_0"),
    "blk.0.four.weight": ((32, 2, 3, 4), "Q4_0"),
    "blk.0.bits.weight": ((5, 3), "BF16"),
    "blk.0.ids": ((9,), "I32"),
    "output.weight": ((256, 2), "Q6_K"),
}
ADDERS = {
    MetaType.U8: "add_uint8",
    MetaType.I8: "add_int8",
    MetaType.U16: "add_uint16",
    MetaType.I16: "add_int16",
    MetaType.U32: "add_uint32",
    MetaType.I32: "add_int32",
    MetaType.F32: "add_float32",
    MetaType.BOOL: "add_bool",
    MetaType.STRING: "add_string",
    MetaType.ARRAY: "add_array",
    MetaType.U64: "add_uint64",
    MetaType.I64: "add_int64",
    MetaType.F64: "add_float64",
}


def make_tensors(seed: int = RNG_SEED) -> dict[str, tuple[tuple[int, ...], QType, bytes]]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (shape, type_name) in SHAPES.items():
        kind = qtype(type_name)
        tensors[name] = (shape, kind, rng.bytes(kind.tensor_bytes(shape)))
    return tensors


def write_ours(
    path: Path,
    metadata: dict[str, MetaValue],
    tensors: dict[str, tuple[tuple[int, ...], QType, bytes]],
    **options: Any,
) -> GGUFLayout:
    layout = GGUFLayout.plan(metadata, [(n, s, k) for n, (s, k, _) in tensors.items()])

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        out.write(tensors[slot.name][2])

    write_gguf(path, layout, write_tensor, **options)
    return layout


def write_theirs(
    path: Path,
    metadata: dict[str, MetaValue],
    tensors: dict[str, tuple[tuple[int, ...], QType, bytes]],
    **options: Any,
) -> None:
    writer = gguf.GGUFWriter(path, arch=str(metadata["general.architecture"].plain), **options)
    for key, value in metadata.items():
        if key == "general.alignment":
            writer.add_custom_alignment(int(str(value.plain)))
        elif key != "general.architecture":  # the constructor has written it, first
            getattr(writer, ADDERS[value.type])(key, value.plain)
    for name, (shape, kind, data) in tensors.items():
        rows = np.frombuffer(data, np.uint8).reshape(*shape[:0:-1], kind.row_bytes(shape[0]))
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType(kind.id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_ours(path, METADATA, make_tensors())
    return path


# Against the gguf package


@pytest.mark.parametrize("alignment", [None, 8, 32, 64, 4096])
def test_our_file_equals_the_gguf_packages_byte_for_byte(tmp_path: Path, alignment: int | None) -> None:
    metadata = dict(METADATA)
    if alignment is not None:
        metadata["general.alignment"] = MetaValue.u32(alignment)
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    layout = write_ours(ours, metadata, make_tensors())
    write_theirs(theirs, metadata, make_tensors())
    assert ours.read_bytes() == theirs.read_bytes()
    assert layout.file_bytes == ours.stat().st_size


def test_a_file_of_the_gguf_package_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    tensors = make_tensors()
    write_theirs(path, METADATA, tensors)
    with GGUFFile.open(path) as file:
        assert dict(file.metadata) == METADATA
        assert list(file.tensors) == list(tensors)
        for name, (shape, kind, data) in tensors.items():
            assert (file.tensors[name].shape, file.tensors[name].qtype) == (shape, kind)
            assert file.data(name).tobytes() == data


def test_the_gguf_package_reads_our_file(model: Path) -> None:
    reader = gguf.GGUFReader(model)
    for key, value in METADATA.items():
        assert reader.fields[key].contents() == value.plain, key
    tensors = make_tensors()
    assert [tensor.name for tensor in reader.tensors] == list(tensors)
    for tensor in reader.tensors:
        shape, kind, data = tensors[tensor.name]
        assert tuple(tensor.shape) == shape
        assert tensor.tensor_type == kind.id
        assert tensor.data.tobytes() == data


# Reading


def test_what_is_read_and_written_again_is_the_same_file(model: Path, tmp_path: Path) -> None:
    with GGUFFile.open(model) as file:
        tensors = {
            name: (info.shape, info.qtype, file.data(name).tobytes()) for name, info in file.tensors.items()
        }
        write_ours(tmp_path / "again.gguf", dict(file.metadata), tensors)
    assert (tmp_path / "again.gguf").read_bytes() == model.read_bytes()


def test_arrays_have_the_reversed_shape_and_the_stored_values(model: Path) -> None:
    tensors = make_tensors()
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "token_embd.weight": ((10, 64), "<f4"),
        "blk.0.attn_q.weight": ((3, 64), "<f2"),
        "blk.0.attn_norm.weight": ((7,), "<f4"),
        "blk.0.ffn_up_exps.weight": ((3, 2, 68), "u1"),
        "blk.0.four.weight": ((4, 3, 2, 18), "u1"),
        "blk.0.bits.weight": ((3, 5), "<u2"),
        "blk.0.ids": ((9,), "<i4"),
        "output.weight": ((2, 210), "u1"),
    }
    with GGUFFile.open(model) as file:
        for name, (shape, dtype) in expected.items():
            array = file.array(name)
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype)), name
            assert array.tobytes() == tensors[name][2]
            assert array.flags.aligned


def test_views_are_read_only_and_copy_nothing(model: Path) -> None:
    with GGUFFile.open(model) as file:
        first, second = file.data("output.weight"), file.array("output.weight")
        assert not first.flags.writeable
        assert not second.flags.writeable
        assert np.shares_memory(first, second)
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 1


def test_a_view_outlives_the_file(model: Path) -> None:
    with GGUFFile.open(model) as file:
        view = file.array("token_embd.weight")[3:5]
    del file
    gc.collect()
    assert view.tobytes() == make_tensors()["token_embd.weight"][2][3 * 256 : 5 * 256]


def test_a_closed_file_says_so_and_may_be_closed_again(model: Path) -> None:
    file = GGUFFile.open(model)
    file.close()
    file.close()
    with pytest.raises(GGUFError, match="is closed"):
        file.data("output.weight")
    assert file.get("t.u8") == 255


def test_sizes_count_what_they_say(model: Path) -> None:
    tensors = make_tensors()
    with GGUFFile.open(model) as file:
        weights = sum(int(np.prod(shape)) for shape, _, _ in tensors.values())
        assert file.n_weights == weights
        assert file.tensor_bytes == sum(len(data) for _, _, data in tensors.values())
        assert file.file_bytes == model.stat().st_size
        assert file.bpw == pytest.approx(8 * file.tensor_bytes / weights)
        assert file.bpw_file == pytest.approx(8 * file.file_bytes / weights)
        assert file.architecture == "llama"
        assert (file.version, file.alignment, file.paths) == (3, 32, (model,))


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((64,), (1, 1, 64)),
        ((64, 3), (1, 3, 64)),
        ((64, 3, 5), (5, 3, 64)),
        ((64, 3, 5, 2), (10, 3, 64)),
    ],
)
def test_a_tensor_knows_its_rows_and_slices(shape: tuple[int, ...], matrix: tuple[int, int, int]) -> None:
    info = TensorInfo("w", shape, qtype("Q8_0"), 0, 0, Path("x"))
    assert info.matrix_shape == matrix
    assert info.n_rows == matrix[0] * matrix[1]
    assert info.n_weights == info.n_rows * 64
    assert info.bpw == 8.5


def test_keys_are_read_by_kind(model: Path) -> None:
    with GGUFFile.open(model) as file:
        assert file.integer("t.u64") == 2**64 - 1
        assert file.integer("absent") is None
        assert file.integer("absent", 7) == 7
        assert file.string("absent", "x") == "x"
        assert file.get("a.bool") == [True, False, True]
        assert file.get("absent", "default") == "default"
        for key in ("t.bool", "t.f32", "t.string", "a.i32"):
            with pytest.raises(GGUFError, match="expected an integer") as caught:
                file.integer(key)
            assert caught.value.key == key
        with pytest.raises(GGUFError, match="expected a string"):
            file.string("t.u8")
        with pytest.raises(GGUFError, match="no tensor 'nope'") as caught:
            file.array("nope")
        assert caught.value.tensor == "nope"


def test_the_mappings_cannot_be_changed(model: Path) -> None:
    with GGUFFile.open(model) as file:
        with pytest.raises(TypeError):
            file.metadata["x"] = METADATA["t.u8"]  # type: ignore[index]
        with pytest.raises(TypeError):
            del file.tensors["output.weight"]  # type: ignore[attr-defined]


def test_version_2_is_read(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    model.write_bytes(data)
    with GGUFFile.open(model) as file:
        assert file.version == 2
        assert dict(file.metadata) == METADATA


def test_padding_may_be_missing_at_the_very_end(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    layout = write_ours(path, {}, {"w": ((3,), qtype("F32"), bytes(12))})
    path.write_bytes(path.read_bytes()[: layout.slots[-1].offset + 12])
    with GGUFFile.open(path) as file:
        assert file.data("w").size == 12


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    write_ours(tmp_path / "vocab.gguf", METADATA, {})
    with GGUFFile.open(tmp_path / "vocab.gguf") as file:
        assert not file.tensors
        assert (file.bpw, file.bpw_file) == (0.0, 0.0)
        assert dict(file.metadata) == METADATA


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    raw = [b"\xff\xfe", b"ok", b"\xed\xa0\x80", b"\xe2\x96"]
    tokens = [decode_text(item) for item in raw]
    metadata = {"tokens": MetaValue.array(MetaType.STRING, tokens), "a\udcffb": MetaValue.u8(1)}
    write_ours(tmp_path / "m.gguf", metadata, {})
    assert all(item in (tmp_path / "m.gguf").read_bytes() for item in (*raw, b"a\xffb"))
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        assert file.get("tokens") == tokens
        assert dict(file.metadata) == metadata


def test_a_true_stored_as_another_byte_than_one_is_true(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_ours(path, {"flags": MetaValue.array(MetaType.BOOL, [True, True, False])}, {})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x01\x01\x00", b"\x02\xff\x00"))
    with GGUFFile.open(path) as file:
        assert file.get("flags") == [True, True, False]


def test_a_large_vocabulary_opens_quickly(tmp_path: Path) -> None:
    tokens = [f"token number {i}" for i in range(150_000)]
    merges = [f"to ken{i}" for i in range(150_000)]
    metadata = {
        "tokenizer.ggml.tokens": MetaValue.array(MetaType.STRING, tokens),
        "tokenizer.ggml.merges": MetaValue.array(MetaType.STRING, merges),
        "tokenizer.ggml.token_type": MetaValue.array(MetaType.I32, np.ones(150_000, np.int32)),
    }
    write_ours(tmp_path / "m.gguf", metadata, {})
    start = time.perf_counter()
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        elapsed_s = time.perf_counter() - start
        stored = file.metadata["tokenizer.ggml.tokens"].value
        assert isinstance(stored, StringArray)
        assert (stored[0], stored[-1], stored[7:9]) == (tokens[0], tokens[-1], tokens[7:9])
        assert file.get("tokenizer.ggml.merges") == merges
    assert elapsed_s < 2.0  # about 0.06 s; the slack is for a busy build server


# Splits


def write_splits(
    folder: Path, count: int = 3, *, overrides: dict[int, dict[str, MetaValue]] | None = None
) -> list[Path]:
    """Tensors of ``SHAPES`` dealt to ``count`` files; ``overrides`` changes the keys of one."""
    tensors = list(make_tensors().items())
    paths = []
    for index in range(count):
        keys = {
            **(METADATA if index == 0 else {}),
            "split.no": MetaValue.u16(index),
            "split.count": MetaValue.u16(count),
            "split.tensors.count": MetaValue.i32(len(tensors)),
            **(overrides or {}).get(index, {}),
        }
        path = folder / split_name("model", index, count)
        write_ours(path, keys, dict(tensors[index::count]))
        paths.append(path)
    return paths


def test_splits_are_joined_in_order(tmp_path: Path) -> None:
    paths = write_splits(tmp_path)
    tensors = make_tensors()
    with GGUFFile.open(str(paths[0])) as file:
        assert file.paths == tuple(paths)
        assert list(file.tensors) == [name for i in range(3) for name in list(tensors)[i::3]]
        assert file.file_bytes == sum(path.stat().st_size for path in paths)
        assert {key: file.metadata[key] for key in METADATA} == METADATA
        assert (file.get("split.no"), file.get("split.count")) == (0, 3)
        for name, (_, _, data) in tensors.items():
            assert file.data(name).tobytes() == data
        assert file.tensors["output.weight"].path in paths


def test_splits_of_the_gguf_package_are_joined(tmp_path: Path) -> None:
    tensors = make_tensors()
    write_theirs(tmp_path / "model.gguf", METADATA, tensors, split_max_tensors=3)
    with GGUFFile.open(tmp_path / split_name("model", 0, 3)) as file:
        assert list(file.tensors) == list(tensors)
        for name, (_, _, data) in tensors.items():
            assert file.data(name).tobytes() == data


def test_a_merged_file_that_still_counts_splits_is_one_file(tmp_path: Path) -> None:
    for count in (0, 1):
        metadata = {"split.count": MetaValue.u16(count), "split.no": MetaValue.u16(0)}
        path = tmp_path / f"{count}.gguf"
        write_ours(path, metadata, make_tensors())
        with GGUFFile.open(path) as file:
            assert file.paths == (path,)


def test_a_name_that_looks_split_is_only_a_name(tmp_path: Path) -> None:
    path = tmp_path / "model-00002-of-00003.gguf"
    write_ours(path, METADATA, make_tensors())
    with GGUFFile.open(path) as file:
        assert file.paths == (path,)


def test_a_missing_split_is_named_exactly(tmp_path: Path) -> None:
    paths = write_splits(tmp_path)
    paths[1].unlink()
    with pytest.raises(GGUFError, match=r"model-00002-of-00003\.gguf is missing") as caught:
        GGUFFile.open(paths[0])
    assert caught.value.path == str(paths[1])


def test_opening_another_split_names_the_first(tmp_path: Path) -> None:
    paths = write_splits(tmp_path)
    with pytest.raises(GGUFError, match=r"open .*model-00001-of-00003\.gguf") as caught:
        GGUFFile.open(paths[2])
    assert (caught.value.path, caught.value.key) == (str(paths[2]), "split.no")


def test_a_split_must_have_the_name_llama_cpp_looks_for(tmp_path: Path) -> None:
    path = write_splits(tmp_path)[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(GGUFError, match=r"rename it NAME-00001-of-00003\.gguf") as caught:
        GGUFFile.open(path)
    assert (caught.value.path, caught.value.key) == (str(path), "split.count")


SPLIT_FAULTS: dict[str, tuple[int, dict[str, MetaValue], str]] = {
    "the first split has no number": (0, {"split.no": MetaValue.i16(0)}, "split.no"),
    "a number beyond the count": (0, {"split.no": MetaValue.u16(3)}, "split.no"),
    "a count of another type": (0, {"split.count": MetaValue.u32(3)}, "split.count"),
    "a count that is no number": (0, {"split.count": MetaValue.string("3")}, "split.count"),
    "a count that the name denies": (0, {"split.count": MetaValue.u16(4)}, "split.count"),
    "a second split in third place": (2, {"split.no": MetaValue.u16(1)}, "split.no"),
    "a third split of another type": (2, {"split.no": MetaValue.u32(2)}, "split.no"),
    "a split of another model": (1, {"split.count": MetaValue.u16(5)}, "split.count"),
    "too few tensors announced": (
        0,
        {"split.tensors.count": MetaValue.i32(7)},
        "split.tensors.count",
    ),
    "tensors counted in another type": (
        0,
        {"split.tensors.count": MetaValue.u32(8)},
        "split.tensors.count",
    ),
}


@pytest.mark.parametrize("fault", SPLIT_FAULTS)
def test_splits_that_do_not_fit_together_are_refused(tmp_path: Path, fault: str) -> None:
    index, change, key = SPLIT_FAULTS[fault]
    paths = write_splits(tmp_path, overrides={index: change})
    with pytest.raises(GGUFError) as caught:
        GGUFFile.open(paths[0])
    assert (caught.value.path, caught.value.key) == (str(paths[index]), key)


@pytest.mark.parametrize("index", [0, 1])
def test_a_split_without_its_number_is_refused(tmp_path: Path, index: int) -> None:
    paths = write_splits(tmp_path)
    keys = {"split.count": MetaValue.u16(3)}
    write_ours(paths[index], keys, {"w": ((1,), qtype("F32"), bytes(4))}, force=True)
    with pytest.raises(GGUFError, match=r"lacks split\.no") as caught:
        GGUFFile.open(paths[0])
    assert (caught.value.path, caught.value.key) == (str(paths[index]), "split.no")


def test_a_tensor_in_two_splits_is_refused(tmp_path: Path) -> None:
    paths = write_splits(tmp_path)
    name, tensor = next(iter(make_tensors().items()))
    keys = {"split.no": MetaValue.u16(2), "split.count": MetaValue.u16(3)}
    write_ours(paths[2], keys, {name: tensor}, force=True)
    with pytest.raises(GGUFError, match="is also in model-00001") as caught:
        GGUFFile.open(paths[0])
    assert (caught.value.path, caught.value.tensor) == (str(paths[2]), name)


def test_a_damaged_split_is_the_one_that_is_named(tmp_path: Path) -> None:
    paths = write_splits(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    with pytest.raises(GGUFError, match="truncated") as caught:
        GGUFFile.open(paths[0])
    assert caught.value.path == str(paths[1])


# Values


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (MetaType.U8, -1),
        (MetaType.U8, 256),
        (MetaType.I8, 128),
        (MetaType.U32, 2**32),
        (MetaType.U64, -1),
        (MetaType.I64, 2**63),
        (MetaType.U32, 1.0),
        (MetaType.U32, "1"),
        (MetaType.F32, 1e39),
        (MetaType.F32, "1"),
        (MetaType.BOOL, 1),
        (MetaType.STRING, b"bytes"),
        (MetaType.STRING, "\ud800"),
        (MetaType.STRING, 3),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(kind: MetaType, value: Any) -> None:
    with pytest.raises(GGUFError):
        MetaValue(kind, value)
    with pytest.raises(GGUFError):
        MetaValue.array(kind, [value])


def test_an_array_must_be_flat_and_typed() -> None:
    with pytest.raises(GGUFError, match="nested"):
        MetaValue.array(MetaType.ARRAY, [[1]])
    with pytest.raises(GGUFError):
        MetaValue.array(MetaType.I32, np.zeros((2, 2), np.int32))
    with pytest.raises(GGUFError):
        MetaValue(MetaType.ARRAY, np.zeros(2, np.int64), MetaType.I32)
    with pytest.raises(GGUFError):
        MetaValue(MetaType.ARRAY, np.zeros(2, np.int32))
    with pytest.raises(GGUFError):
        MetaValue(MetaType.ARRAY, 3, MetaType.I32)


def test_a_float_is_what_the_file_will_hold() -> None:
    assert MetaValue.f32(0.1).value == float(np.float32(0.1))
    assert MetaValue.f32(0.1) == MetaValue.f32(float(np.float32(0.1)))
    assert MetaValue.f64(0.1).value == 0.1


def test_values_are_equal_when_their_bytes_are() -> None:
    assert MetaValue.f32(float("nan")) == MetaValue.f32(float("nan"))
    assert MetaValue.u32(1) != MetaValue.i32(1)
    assert MetaValue.u32(1) != 1
    array = MetaValue.array(MetaType.I32, [1, 2])
    assert array == MetaValue.array(MetaType.I32, np.array([1, 2], np.int32))
    assert array == MetaValue.array(MetaType.I32, np.array([1, 2], np.int64))
    assert array != MetaValue.array(MetaType.I32, [1, 3])
    assert len({array, MetaValue.array(MetaType.I32, (1, 2))}) == 1
    assert StringArray.of(["a"]) == StringArray.of(("a",))
    assert len({StringArray.of(["a"]), StringArray.of(["a"])}) == 1


# Writing


def test_trailing_ones_are_not_stored_as_ggml_does_it() -> None:
    shapes = [(64, 1), (1, 1, 1, 1), (64, 1, 3), (64, 1, 3, 1)]
    layout = GGUFLayout.plan({}, [(f"w{i}", s, qtype("F32")) for i, s in enumerate(shapes)])
    assert [slot.shape for slot in layout.slots] == [(64,), (1,), (64, 1, 3), (64, 1, 3)]


def test_slots_are_aligned_and_the_plan_counts_every_byte() -> None:
    layout = GGUFLayout.plan(
        {"general.alignment": MetaValue.u32(64)},
        [("a", (3,), qtype("F32")), ("b", (32, 3), qtype("Q8_0"))],
        alignment=64,
    )
    start = len(layout.header_bytes)
    assert start % 64 == 0
    assert [(slot.offset, slot.size_bytes) for slot in layout.slots] == [
        (start, 12),
        (start + 64, 102),
    ]
    assert layout.file_bytes == start + 64 + 128


LONG = "n" * 64
BAD_PLANS: dict[str, tuple[dict[str, MetaValue], list[tuple[str, Any, str]], dict[str, Any]]] = {
    "an empty key": ({"": MetaValue.u8(1)}, [], {"key": ""}),
    "a key with a zero byte": ({"a\0b": MetaValue.u8(1)}, [], {"key": "a\0b"}),
    "a key that is too long": ({"k" * 65536: MetaValue.u8(1)}, [], {"key": "k" * 65536}),
    "an empty name": ({}, [("", (1,), "F32")], {"tensor": ""}),
    "a name that is too long": ({}, [(LONG, (1,), "F32")], {"tensor": LONG}),
    "a name with a zero byte": ({}, [("a\0", (1,), "F32")], {"tensor": "a\0"}),
    "a name twice": ({}, [("a", (1,), "F32"), ("a", (1,), "F32")], {"tensor": "a"}),
    "no dimension": ({}, [("a", (), "F32")], {"tensor": "a"}),
    "five dimensions": ({}, [("a", (1, 1, 1, 1, 2), "F32")], {"tensor": "a"}),
    "a dimension of zero": ({}, [("a", (4, 0), "F32")], {"tensor": "a"}),
    "a negative dimension": ({}, [("a", (-4, -4), "F32")], {"tensor": "a"}),
    "too many weights": ({}, [("a", (2**62, 2), "F32")], {"tensor": "a"}),
    "too many bytes": ({}, [("a", (2**61, 1), "F32")], {"tensor": "a"}),
    "too many bytes in all": (
        {},
        [("a", (2**59,), "F32"), ("b", (2**59,), "F32"), ("c", (1,), "F32")],
        {"tensor": "c"},
    ),
    "half a block": ({}, [("a", (48, 1), "Q8_0")], {"tensor": "a"}),
    "an alignment of 24": (
        {"general.alignment": MetaValue.u32(24)},
        [],
        {"key": "general.alignment"},
    ),
    "an alignment of another type": (
        {"general.alignment": MetaValue.u64(32)},
        [],
        {"key": "general.alignment"},
    ),
}


@pytest.mark.parametrize("fault", BAD_PLANS)
def test_a_plan_that_no_reader_would_accept_is_refused(fault: str) -> None:
    metadata, tensors, fields = BAD_PLANS[fault]
    with pytest.raises(GGUFError) as caught:
        GGUFLayout.plan(metadata, [(name, shape, qtype(kind)) for name, shape, kind in tensors])
    found = {"key": caught.value.key, "tensor": caught.value.tensor}
    assert found == {"key": None, "tensor": None, **fields}


def test_an_alignment_must_be_announced() -> None:
    with pytest.raises(GGUFError, match=r"set the key general\.alignment") as caught:
        GGUFLayout.plan({}, [], alignment=64)
    assert caught.value.key == "general.alignment"


@pytest.mark.parametrize("n_bytes", [0, 3, 5])
def test_a_tensor_with_the_wrong_number_of_bytes_stops_the_write(tmp_path: Path, n_bytes: int) -> None:
    layout = GGUFLayout.plan({}, [("w", (1,), qtype("F32"))])

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        out.write(bytes(n_bytes))

    with pytest.raises(GGUFError, match=f"got {n_bytes} bytes instead of 4") as caught:
        write_gguf(tmp_path / "m.gguf", layout, write_tensor)
    assert (caught.value.tensor, caught.value.path) == ("w", str(tmp_path / "m.gguf"))
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_write_leaves_nothing(tmp_path: Path) -> None:
    layout = GGUFLayout.plan({}, [("w", (1,), qtype("F32"))])

    def cancel(slot: TensorSlot, out: BinaryIO) -> None:
        out.write(b"ab")
        raise OperationCancelled("stopped", done=0, total=1)

    with pytest.raises(OperationCancelled):
        write_gguf(tmp_path / "m.gguf", layout, cancel)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_when_forced(model: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(OutputExistsError) as caught:
        write_ours(model, {}, {})
    assert caught.value.path == str(model)
    assert model.read_bytes() == before
    layout = write_ours(model, {}, {}, force=True)
    assert model.read_bytes() == layout.header_bytes


def test_progress_is_reported_after_each_tensor(tmp_path: Path) -> None:
    seen: list[TensorSlot] = []
    layout = write_ours(tmp_path / "m.gguf", METADATA, make_tensors(), on_tensor=seen.append)
    assert tuple(seen) == layout.slots
