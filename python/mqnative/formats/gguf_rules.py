"""What a GGUF file may hold: one set of limits for the reader and the writer.

Each rule answers with the fault in words, or None; reader and writer add where it was found. Where
upstream would refuse a file these rules refuse it too; they are stricter where a file could only be
an accident.

Source: ggml/include/gguf.h, ggml/src/gguf.cpp (`gguf_init_from_reader`) at the pinned commit.
"""

from __future__ import annotations

from mqnative.formats.qtypes import QType

MAGIC = b"GGUF"
WRITTEN_VERSION = 3
# Version 2 differs from 3 only in that 3 may also be big-endian.
READABLE_VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32

MAX_DIMS = 4
MAX_NAME_BYTES = 63  # GGML_MAX_NAME less the terminator
MAX_KEY_BYTES = 65535  # the format's own limit
MAX_ELEMENTS = 2**63 - 1  # ggml counts in int64
MAX_FILE_BYTES = 2**62  # beyond any file system; offsets stay clear of int64's end
# The format asks for a multiple of 8, which also keeps every typed view into the file aligned.
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 1 << 20
# No model comes near these; they bound memory and time when a hostile file claims more.
MAX_HEADER_BYTES = 256 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 20


def padded(size_bytes: int, alignment: int) -> int:
    """``size_bytes`` rounded up to a multiple of ``alignment``."""
    return -(-size_bytes // alignment) * alignment


def key_fault(key: bytes) -> str | None:
    """Why ``key`` cannot name a metadata value."""
    if not key:
        return "the key is empty"
    if len(key) > MAX_KEY_BYTES:
        return f"the key has {len(key)} bytes, {MAX_KEY_BYTES} are allowed"
    if b"\0" in key:
        return "the key holds a zero byte"
    return None


def name_fault(name: bytes) -> str | None:
    """Why ``name`` cannot name a tensor."""
    if not name:
        return "the tensor name is empty"
    if len(name) > MAX_NAME_BYTES:
        return f"the tensor name has {len(name)} bytes, {MAX_NAME_BYTES} are allowed"
    if b"\0" in name:
        return "the tensor name holds a zero byte"  # C would read a shorter, perhaps duplicate name
    return None


def shape_fault(shape: tuple[int, ...]) -> str | None:
    """Why no tensor can have ``shape`` (row length first)."""
    if not 1 <= len(shape) <= MAX_DIMS:
        return f"the tensor has {len(shape)} dimensions, 1 to {MAX_DIMS} are allowed"
    n_elements = 1
    for axis, n in enumerate(shape):
        if n < 1:
            return f"dimension {axis} is {n}, at least 1 is needed"
        n_elements *= n
    if n_elements > MAX_ELEMENTS:
        return f"the shape {shape} has more than 2^63-1 elements"
    return None


def row_fault(shape: tuple[int, ...], qtype: QType) -> str | None:
    """Why rows of ``shape`` cannot be stored as ``qtype``."""
    if shape[0] % qtype.block:
        return f"rows of {shape[0]} weights do not fill blocks of {qtype.block}, which {qtype.name} needs"
    return None


def alignment_fault(alignment: int) -> str | None:
    """Why tensors cannot be aligned to ``alignment`` bytes."""
    if alignment < 1 or alignment & (alignment - 1):
        return f"the alignment {alignment} is not a power of two"
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT:
        return f"the alignment {alignment} is outside {MIN_ALIGNMENT} to {MAX_ALIGNMENT} bytes"
    return None


def shown(text: str, limit: int = 80) -> str:
    """``text`` quoted for a message: unprintable characters escaped, a long text shortened."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
