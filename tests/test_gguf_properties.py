"""Properties of GGUF files: whatever can be planned can be read back, exactly."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.errors import GGUFError
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue
from mqnative.formats.gguf_cursor import Cursor
from mqnative.formats.gguf_header import parse_header
from mqnative.formats.gguf_layout import stored_shape
from mqnative.formats.gguf_rules import padded
from mqnative.formats.gguf_strings import StringArray, decode_text, encode_text
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.qtypes import qtype

RANGES = {
    MetaType.U8: (0, 2**8 - 1),
    MetaType.I8: (-(2**7), 2**7 - 1),
    MetaType.U16: (0, 2**16 - 1),
    MetaType.I16: (-(2**15), 2**15 - 1),
    MetaType.U32: (0, 2**32 - 1),
    MetaType.I32: (-(2**31), 2**31 - 1),
    MetaType.U64: (0, 2**64 - 1),
    MetaType.I64: (-(2**63), 2**63 - 1),
}
TYPE_NAMES = ("F32", "F16", "BF16", "F64", "I8", "I32", "Q8_0", "Q4_0", "Q4_K", "IQ2_XXS")

# Any bytes can stand in a file; text is what they decode to.
texts = st.binary(max_size=40).map(decode_text) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
keys = texts.filter(lambda key: bool(key) and "\0" not in key and key != "general.alignment")
names = keys.filter(lambda name: len(encode_text(name)) <= 63)

scalars: dict[MetaType, st.SearchStrategy[Any]] = {
    **{kind: st.integers(*bounds) for kind, bounds in RANGES.items()},
    MetaType.F32: st.floats(width=32),
    MetaType.F64: st.floats(),
    MetaType.BOOL: st.booleans(),
    MetaType.STRING: texts,
}


@st.composite
def values(draw: st.DrawFn) -> MetaValue:
    kind = draw(st.sampled_from(list(scalars)))
    if draw(st.booleans()):
        return MetaValue(kind, draw(scalars[kind]))
    return MetaValue.array(kind, draw(st.lists(scalars[kind], max_size=6)))


@st.composite
def shapes_and_types(draw: st.DrawFn) -> tuple[tuple[int, ...], str]:
    name = draw(st.sampled_from(TYPE_NAMES))
    n_blocks = draw(st.integers(1, 3))
    rest = draw(st.lists(st.integers(1, 4), max_size=3))
    return (n_blocks * qtype(name).block, *rest), name


metadatas = st.dictionaries(keys, values(), max_size=6)
tensor_lists = st.dictionaries(names, shapes_and_types(), max_size=5)
alignments = st.sampled_from([8, 32, 64, 256])


@settings(deadline=None, max_examples=150)
@given(metadatas, tensor_lists, alignments, st.integers(0, 2**32 - 1))
def test_what_is_planned_and_written_is_read_back(
    metadata: dict[str, MetaValue],
    tensors: dict[str, tuple[tuple[int, ...], str]],
    alignment: int,
    seed: int,
) -> None:
    if alignment != 32:
        metadata = {**metadata, "general.alignment": MetaValue.u32(alignment)}
    wanted = [(name, shape, qtype(kind)) for name, (shape, kind) in tensors.items()]
    layout = GGUFLayout.plan(metadata, wanted, alignment)
    rng = np.random.default_rng(seed)
    written: dict[str, bytes] = {}

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        written[slot.name] = rng.bytes(slot.size_bytes)
        out.write(written[slot.name])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(path, layout, write_tensor)
        assert path.stat().st_size == layout.file_bytes
        with GGUFFile.open(path) as file:
            assert list(file.metadata.items()) == list(metadata.items())
            assert file.alignment == alignment
            infos = list(file.tensors.values())
            assert [TensorSlot(i.name, i.shape, i.qtype, i.offset, i.size_bytes) for i in infos] == list(
                layout.slots
            )
            for (name, shape, kind), info in zip(wanted, infos, strict=True):
                assert (info.name, info.shape) == (name, stored_shape(shape))
                assert info.size_bytes * 8 == math.prod(shape) * kind.bpw
                assert info.offset % alignment == 0
                assert file.data(name).tobytes() == written[name]
                assert file.array(name).tobytes() == written[name]


@given(values())
def test_a_value_keeps_its_meaning_and_its_bytes(value: MetaValue) -> None:
    encoded = value.encode()
    cursor = Cursor(encoded, Path("x"))
    again = cursor.value()
    assert cursor.position == len(encoded)
    assert again.encode() == encoded
    assert again == value
    assert hash(again) == hash(value)
    plain: Any = value.plain
    if value.element_type is None:
        assert MetaValue(value.type, plain) == value
    else:
        assert MetaValue.array(value.element_type, plain) == value


@given(st.lists(texts, max_size=20), st.data())
def test_a_string_array_behaves_like_the_list(strings: list[str], data: st.DataObject) -> None:
    array = StringArray.of(strings)
    assert list(array) == strings
    assert len(array) == len(strings)
    part = data.draw(st.slices(len(strings)))
    assert array[part] == strings[part]
    for index in range(-len(strings), len(strings)):
        assert array[index] == strings[index]
    with pytest.raises(IndexError):
        array[len(strings)]


@given(st.binary(max_size=60))
def test_any_bytes_survive_as_text(raw: bytes) -> None:
    assert encode_text(decode_text(raw)) == raw


@given(st.integers(0, 2**50), st.sampled_from([1, 8, 32, 4096]))
def test_padding_is_the_next_multiple(size_bytes: int, alignment: int) -> None:
    result = padded(size_bytes, alignment)
    assert result % alignment == 0
    assert 0 <= result - size_bytes < alignment


def refusal(content: bytes) -> GGUFError | None:
    try:
        header = parse_header(content, Path("x"))
    except GGUFError as error:
        return error
    for info in header.tensors.values():
        assert info.offset + info.size_bytes <= len(content)
    return None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_escape_as_another_error(tail: bytes) -> None:
    for content in (tail, b"GGUF\x03\0\0\0" + tail):
        error = refusal(content)
        assert error is None or (error.path == "x" and error.offset is not None)


@settings(deadline=None)
@given(metadatas, tensor_lists, st.data())
def test_a_damaged_header_is_parsed_or_refused(
    metadata: dict[str, MetaValue],
    tensors: dict[str, tuple[tuple[int, ...], str]],
    data: st.DataObject,
) -> None:
    wanted = [(name, shape, qtype(kind)) for name, (shape, kind) in tensors.items()]
    layout = GGUFLayout.plan(metadata, wanted)
    content = bytearray(layout.file_bytes)
    content[: len(layout.header_bytes)] = layout.header_bytes
    place = data.draw(st.integers(0, len(layout.header_bytes) - 1))
    content[place : place + 8] = data.draw(st.binary(min_size=1, max_size=8))
    del content[data.draw(st.integers(0, len(content))) :]
    refusal(bytes(content))
