"""The header of a safetensors file, and the index of a checkpoint in several: parsed, believed in nothing.

Source: the format's own description: a length (u64, little-endian), JSON of that length, then the data, in
which the tensors follow one another without holes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqnative.errors import SafetensorsError
from mqnative.formats.gguf_rules import shown

_LENGTH = struct.Struct("<Q")
LENGTH_BYTES = _LENGTH.size
# The reference implementation's own limit.
MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"
# Bits of one element.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64,
    "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        name: as the model's author calls it.
        dtype: as the format calls it: ``BF16``.
        shape: rows last, as in NumPy.
        file: the file that holds it.
        offset: bytes from the file's start.
        size_bytes: of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    size_bytes: int

    @property
    def n_elements(self) -> int:
        """Numbers in it; of packed types, containers."""
        return math.prod(self.shape)


def header_bytes(beginning: bytes, file: str) -> int:
    """How far the header reaches, from the file's first eight bytes.

    Raises:
        SafetensorsError: no header is that long.
    """
    if len(beginning) < LENGTH_BYTES:
        raise _error(file, f"has {len(beginning)} bytes, too few for a safetensors file; fetch it again", 0)
    (length,) = _LENGTH.unpack_from(beginning)
    if length > MAX_HEADER_BYTES:
        what = "a Git LFS pointer, fetch the real file" if beginning.startswith(b"version ") else "damaged"
        raise _error(file, f"announces a header of {length} bytes, it is {what}", 0)
    return LENGTH_BYTES + int(length)


def parse_header(header: bytes, file_bytes: int, file: str) -> dict[str, StoredTensor]:
    """The tensors of a file, by name.

    Args:
        header: the file's beginning, at least as far as `header_bytes` says.
        file_bytes: its whole size.
        file: its name, for messages and ``StoredTensor.file``.

    Raises:
        SafetensorsError: with ``offset`` and, where one is at fault, ``tensor``.
    """
    end = header_bytes(header, file)
    if len(header) < end or file_bytes < end:
        raise _error(file, f"ends at {min(len(header), file_bytes)}, inside its header; fetch it again", end)
    entries = _json_object(header[LENGTH_BYTES:end], file)
    entries.pop(_METADATA, None)
    tensors = [_tensor(name, entry, end, file) for name, entry in entries.items()]
    expected = end
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.size_bytes)):
        if tensor.offset != expected:
            where = "overlaps the one before" if tensor.offset < expected else "leaves a hole before it"
            raise _error(file, f"the data {where}; the file is damaged", tensor.offset, tensor.name)
        expected += tensor.size_bytes
    if expected != file_bytes:
        what = "truncated" if expected > file_bytes else "longer than its tensors"
        raise _error(
            file, f"has {file_bytes} bytes instead of {expected}, it is {what}; fetch it again", file_bytes
        )
    return {t.name: t for t in tensors}


def parse_index(text: bytes, file: str) -> dict[str, str]:
    """The file of each tensor, from ``model.safetensors.index.json``.

    Raises:
        SafetensorsError: it is no index, or names files outside its folder.
    """
    weight_map = _json_object(text, file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _error(
            file, "has no weight_map; it is no index of weights, fetch it again", None, key="weight_map"
        )
    for name, part in weight_map.items():
        if not isinstance(part, str) or not part or "/" in part or "\\" in part or part in (".", ".."):
            raise _error(file, f"names {part!r} for it, which is no file beside it", None, name)
    return weight_map


def join(
    parts: Mapping[str, Mapping[str, StoredTensor]], index: Mapping[str, str] | None
) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint in several files.

    Args:
        parts: the tensors of each file, by file name.
        index: the file of each tensor; None without an index.

    Raises:
        SafetensorsError: files and index contradict each other; ``tensor`` is set.
    """
    found: dict[str, StoredTensor] = {}
    for file, tensors in parts.items():
        for name, tensor in tensors.items():
            if name in found:
                raise _error(file, f"it is in {found[name].file} too; the upload is mixed up", None, name)
            found[name] = tensor
    for name, file in (index or {}).items():
        if name not in found or found[name].file != file:
            where = f"it is in {found[name].file}" if name in found else "no file has it"
            raise _error(
                file,
                f"the index places it here, but {where}; the upload is broken, fetch it again",
                None,
                name,
            )
    extra = [n for n in found if index is not None and n not in index]
    if extra:
        first = found[extra[0]]
        raise _error(first.file, "the index does not name it; the upload is broken", None, first.name)
    return found


def _tensor(name: str, entry: Any, data_start: int, file: str) -> StoredTensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _error(file, "its entry lacks dtype, shape or data_offsets; the file is damaged", None, name)
    begin, end = offsets
    bits = _BITS.get(dtype)
    if end < begin or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
        raise _error(
            file, f"{end - begin} bytes cannot hold {shape} of {dtype}; the file is damaged", begin, name
        )
    return StoredTensor(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value
    )


def _json_object(text: bytes, file: str) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice = next(k for k, _ in items if sum(k == other for other, _ in items) > 1)
            raise _error(file, "it occurs twice; the file is damaged", None, twice)
        return found

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _error(file, "is not what it should be (no JSON inside); fetch it again", 0) from error
    if not isinstance(value, dict):
        raise _error(file, "holds no JSON object; fetch it again", 0)
    return value


def _error(
    file: str, fault: str, offset: int | None, tensor: str | None = None, key: str | None = None
) -> SafetensorsError:
    about = file if tensor is None else f"{file}: tensor {shown(tensor)}:"
    return SafetensorsError(f"{about} {fault}", path=file, offset=offset, key=key, tensor=tensor)
