"""The header of one GGUF file: parsed from bytes, believed in nothing.

What passes here also passes llama.cpp's own parser: the rules follow it, and are stricter where a
file could only be an accident (empty tensors, zero bytes in names, absurd counts).

Source: ggml/src/gguf.cpp (`gguf_init_from_reader`), src/llama-model-loader.h
(`llama_tensor_weight`) at the pinned commit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mqnative.formats.gguf_cursor import Buffer, Cursor
from mqnative.formats.gguf_rules import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMS,
    MAX_KEYS,
    MAX_TENSORS,
    READABLE_VERSIONS,
    alignment_fault,
    key_fault,
    name_fault,
    padded,
    row_fault,
    shape_fault,
)
from mqnative.formats.gguf_strings import decode_text
from mqnative.formats.gguf_values import MetaType, MetaValue
from mqnative.formats.qtypes import QType, types_by_id

_LEAST_KEY_BYTES = 8 + 1 + 4 + 1  # length, a letter, type, one byte of value
_LEAST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length, a letter, n_dims, one dimension, type, offset

# What people open by mistake, by its first four bytes.
_LOOKALIKES = {
    b"FUGG": "a big-endian GGUF file; convert it with llama.cpp's gguf_convert_endian.py",
    b"vers": "a Git LFS pointer; fetch the real file with git lfs pull",
    b"PK\x03\x04": "a zip archive or PyTorch checkpoint; convert it to GGUF first",
    b"<!DO": "a web page; download the file itself",
    b"<htm": "a web page; download the file itself",
    b"lmgg": "a model from before GGUF; convert it again from its source",
    b"tjgg": "a model from before GGUF; convert it again from its source",
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies and how to read it.

    Attributes:
        name: as stored, for example ``blk.0.attn_q.weight``.
        shape: as stored, row length first; 1 to 4 dimensions.
        qtype: the stored type.
        offset: bytes from the start of its file to the data.
        size_bytes: bytes of data, padding not included.
        path: the file (one of the splits) that holds it.
    """

    name: str
    shape: tuple[int, ...]
    qtype: QType
    offset: int
    size_bytes: int
    path: Path

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def n_rows(self) -> int:
        """Number of rows, over all slices."""
        return math.prod(self.shape[1:])

    @property
    def bpw(self) -> float:
        """Bits per weight, block scales included."""
        return self.qtype.bpw

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(n_slices, n_rows per slice, n_per_row); a mixture's experts are slices."""
        n_per_row, n_rows, *slices = (*self.shape, 1)
        return math.prod(slices), n_rows, n_per_row


@dataclass(frozen=True)
class Header:
    """Everything in a GGUF file but the tensor data."""

    version: int
    alignment: int
    metadata: dict[str, MetaValue]
    tensors: dict[str, TensorInfo]


def parse_header(buffer: Buffer, path: Path) -> Header:
    """The header of the GGUF file whose bytes are ``buffer``, every field of it checked.

    Args:
        buffer: the whole file, usually mapped; nothing of it is kept.
        path: its name, for messages and ``TensorInfo.path``.

    Raises:
        GGUFError: with ``path``, ``offset`` and, where one is at fault, ``key`` or ``tensor``.
    """
    cursor = Cursor(buffer, path)
    version = _version(cursor)
    n_tensors = cursor.count("the tensor count", _LEAST_TENSOR_BYTES, MAX_TENSORS)
    n_keys = cursor.count("the key count", _LEAST_KEY_BYTES, MAX_KEYS)
    metadata = _metadata(cursor, n_keys)
    alignment = _alignment(cursor, metadata)
    infos = [_tensor_info(cursor) for _ in range(n_tensors)]
    return Header(version, alignment, metadata, _placed(cursor, infos, alignment))


def _version(cursor: Cursor) -> int:
    magic = cursor.buffer[: cursor.advance(len(MAGIC), "the magic") + len(MAGIC)]
    if magic != MAGIC:
        what = _LOOKALIKES.get(magic, "not GGUF; name a .gguf file")
        raise cursor.error(f"starts with {magic!r} instead of {MAGIC!r}, it is {what}", offset=0)
    start = cursor.position
    version = cursor.number(MetaType.U32, "the version")
    if version in READABLE_VERSIONS:
        return version
    if version and version & 0xFFFF == 0:  # a small number, read from the wrong end
        raise cursor.error(f"is {_LOOKALIKES[b'FUGG']}", offset=start)
    if version == 1:
        raise cursor.error("is GGUF version 1, no longer supported; convert it again", offset=start)
    raise cursor.error(f"is GGUF version {version}, versions 2 and 3 are supported", offset=start)


def _metadata(cursor: Cursor, n_keys: int) -> dict[str, MetaValue]:
    metadata: dict[str, MetaValue] = {}
    for index in range(n_keys):
        start = cursor.position
        raw = cursor.text(f"key {index}")
        cursor.key = key = decode_text(raw)
        if fault := key_fault(raw):
            raise cursor.error(f"{fault}; the file is damaged", offset=start)
        if key in metadata:
            raise cursor.error("it occurs twice; the file is damaged", offset=start)
        metadata[key] = cursor.value()
        cursor.key = None
    return metadata


def _alignment(cursor: Cursor, metadata: dict[str, MetaValue]) -> int:
    stored = metadata.get(ALIGNMENT_KEY)
    if stored is None:
        return DEFAULT_ALIGNMENT
    cursor.key = ALIGNMENT_KEY
    if stored.type is not MetaType.U32 or not isinstance(stored.value, int):
        raise cursor.error(f"the type is {stored.type.name}, U32 is needed; the file is damaged")
    if fault := alignment_fault(stored.value):
        raise cursor.error(f"{fault}; the file is damaged")
    cursor.key = None
    return stored.value


@dataclass(frozen=True)
class _StoredInfo:
    """A tensor's entry, valid in itself; ``offset`` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    qtype: QType
    offset: int
    at: int


def _tensor_info(cursor: Cursor) -> _StoredInfo:
    start = cursor.position
    raw = cursor.text("a tensor name")
    cursor.tensor = name = decode_text(raw)
    if fault := name_fault(raw):
        raise cursor.error(f"{fault}; the file is damaged", offset=start)
    start = cursor.position
    n_dims = cursor.number(MetaType.U32, "the number of dimensions")
    if n_dims > MAX_DIMS:
        fault = f"{n_dims} dimensions, 1 to {MAX_DIMS} are allowed"
        raise cursor.error(f"{fault}; the file is damaged", offset=start)
    shape = tuple(cursor.number(MetaType.I64, "a dimension") for _ in range(n_dims))
    if fault := shape_fault(shape):
        raise cursor.error(f"{fault}; the file is damaged", offset=start)
    start = cursor.position
    type_id = cursor.number(MetaType.I32, "the tensor type")
    qtype = types_by_id().get(type_id)
    if qtype is None or not qtype.block:
        raise cursor.error(
            f"type id {type_id} is unknown to this ggml or was removed from it; "
            "convert the model again with a current llama.cpp",
            offset=start,
        )
    if fault := row_fault(shape, qtype):
        raise cursor.error(f"{fault}; the file is damaged", offset=start)
    start = cursor.position
    offset = cursor.number(MetaType.U64, "the tensor offset")
    cursor.tensor = None
    return _StoredInfo(name, shape, qtype, offset, start)


def _placed(cursor: Cursor, infos: list[_StoredInfo], alignment: int) -> dict[str, TensorInfo]:
    """Tensors at absolute offsets.

    Upstream demands that they follow one another with nothing but padding between, and so do we.
    Padding after the last one may be missing: its loader does not ask for it.
    """
    data_start = padded(cursor.position, alignment)
    file_bytes = len(cursor.buffer)
    if infos and data_start > file_bytes:
        fault = f"the file ends at {file_bytes}, before its data section; download it again"
        raise cursor.error(fault)
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for info in infos:
        cursor.tensor = info.name
        if info.name in tensors:
            raise cursor.error("it occurs twice; the file is damaged", offset=info.at)
        if info.offset != expected:
            raise cursor.error(
                f"the data lies at {info.offset} of the data section, where "
                f"{_misplacement(info.offset, expected, alignment)}; write the file again",
                offset=info.at,
            )
        size_bytes = info.qtype.tensor_bytes(info.shape)
        begin = data_start + info.offset
        if begin + size_bytes > file_bytes:
            raise cursor.error(
                f"the data ends at {begin + size_bytes}, but the file ends at {file_bytes}; "
                "it is truncated, download or copy it again",
                offset=info.at,
            )
        tensors[info.name] = TensorInfo(info.name, info.shape, info.qtype, begin, size_bytes, cursor.path)
        expected += padded(size_bytes, alignment)
    return tensors


def _misplacement(offset: int, expected: int, alignment: int) -> str:
    if offset % alignment:
        return f"{expected} was expected and multiples of {alignment} are allowed"
    if offset < expected:
        return f"it overlaps the tensor before it, which reaches to {expected}"
    return f"it leaves a gap after the tensor before it, which reaches to {expected}"
