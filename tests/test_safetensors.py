"""Headers of safetensors files are checked before they are believed."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.errors import SafetensorsError
from mqnative.formats.safetensors import header_bytes, join, parse_header, parse_index


def file_of(header: Any, n_data: int = 0, *, pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + bytes(n_data)


def entry(begin: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def parse(data: bytes) -> dict[str, Any]:
    return dict(parse_header(data, len(data), "x.safetensors"))


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda n: n != "__metadata__"),
        st.tuples(
            st.sampled_from(["F32", "BF16", "I64", "U8", "F8_E4M3"]), st.lists(st.integers(0, 5), max_size=3)
        ),
        max_size=8,
    ),
    st.integers(0, 9),
)
def test_what_the_format_writes_is_read_back(tensors: dict[str, tuple[str, list[int]]], pad: int) -> None:
    sizes = {"F32": 4, "BF16": 2, "I64": 8, "U8": 1, "F8_E4M3": 1}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + int(np.prod(shape, dtype=int)) * sizes[dtype]
        header[name] = entry(begin, end, dtype, shape)  # type: ignore[assignment]
    data = file_of(header, end, pad=pad)
    found = parse(data)
    assert {n: (t.dtype, list(t.shape)) for n, t in found.items()} == tensors
    assert sum(t.size_bytes for t in found.values()) == end
    assert all(t.offset >= header_bytes(data, "x") for t in found.values())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    with suppress(SafetensorsError):
        assert sum(t.size_bytes for t in parse(data).values()) < len(data)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too few"),
    "a header beyond the file": (struct.pack("<Q", 1000) + b"{}", "inside its header"),
    "a header of exabytes": (struct.pack("<Q", 1 << 60), "announces a header"),
    "a pointer of Git LFS": (b"version https", "Git LFS"),
    "no JSON": (file_of(b"not json"), "no JSON"),
    "not an object": (file_of([1]), "no JSON object"),
    "nested without end": (file_of(b'{"a":' + b"[" * 100_000), "no JSON"),
    "not UTF-8": (file_of(b'{"\xff":1}'), "no JSON"),
    "a name twice": (file_of(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{}}', 1), "twice"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4), "lacks dtype"),
    "a negative offset": (file_of({"a": entry(-4, 0, shape=[1])}, 4), "lacks dtype"),
    "a boolean length": (file_of({"a": entry(0, 4, shape=[True])}, 4), "lacks dtype"),
    "offsets the wrong way": (file_of({"a": entry(4, 0, shape=[1])}, 4), "cannot hold"),
    "a shape that does not fit": (file_of({"a": entry(0, 4, shape=[2])}, 4), "cannot hold"),
    "a shape of astronomic size": (file_of({"a": entry(0, 4, shape=[1 << 62, 1 << 62])}, 4), "cannot hold"),
    "an overlap": (file_of({"a": entry(0, 8), "b": entry(4, 12)}, 12), "overlaps"),
    "a hole": (file_of({"a": entry(0, 4), "b": entry(8, 12)}, 12), "hole"),
    "truncated data": (file_of({"a": entry(0, 400)}, 100), "truncated"),
    "data that belongs to nothing": (file_of({"a": entry(0, 4)}, 100), "longer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(SafetensorsError, match=message):
        parse(data)


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b'{"weight_map": 3}', b'{"weight_map": {}}', b'{"weight_map": {"a": "../b"}}',
     b'{"weight_map": {"a": 3}}', b'{"weight_map": {"a": "b", "a": "c"}}', b'{"weight_map": {"a": ".."}}'],
)  # fmt: skip
def test_hostile_index(text: bytes) -> None:
    with pytest.raises(SafetensorsError):
        parse_index(text, "index.json")


def test_files_and_index_must_agree() -> None:
    a = parse_header(data := file_of({"x": entry(0, 4)}, 4), len(data), "a.safetensors")
    b = parse_header(data := file_of({"y": entry(0, 4)}, 4), len(data), "b.safetensors")
    both = {"a.safetensors": a, "b.safetensors": b}
    good = {"x": "a.safetensors", "y": "b.safetensors"}
    assert set(join(both, good)) == {"x", "y"}
    assert set(join(both, None)) == {"x", "y"}
    for index, message in (
        ({"x": "a.safetensors"}, "does not name it"),
        ({**good, "z": "b.safetensors"}, "no file has it"),
        ({**good, "x": "b.safetensors"}, r"it is in a\.safetensors"),
    ):
        with pytest.raises(SafetensorsError, match=message):
            join(both, index)
    with pytest.raises(SafetensorsError, match=r"is in a\.safetensors too"):
        join({"a.safetensors": a, "c.safetensors": a}, None)
