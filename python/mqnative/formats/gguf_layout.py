"""Where every byte of a GGUF file goes, before one is written.

A plan's size is the file's size to the byte; the same plan gives the same header every time.

Source: ggml/src/gguf.cpp (`gguf_write_out`) at the pinned commit.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mqnative.errors import GGUFError
from mqnative.formats.gguf_rules import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    MAX_KEYS,
    MAX_TENSORS,
    WRITTEN_VERSION,
    alignment_fault,
    key_fault,
    name_fault,
    padded,
    row_fault,
    shape_fault,
    shown,
)
from mqnative.formats.gguf_strings import encode_string, encode_text
from mqnative.formats.gguf_values import MetaType, MetaValue
from mqnative.formats.qtypes import QType

_COUNTS = struct.Struct("<IQQ")


@dataclass(frozen=True)
class TensorSlot:
    """The place of one tensor in a planned file.

    Attributes:
        name: the tensor's name.
        shape: as it will be stored, row length first, without trailing ones.
        qtype: the type it will be stored as.
        offset: bytes from the start of the file.
        size_bytes: bytes of data; padding follows.
    """

    name: str
    shape: tuple[int, ...]
    qtype: QType
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class GGUFLayout:
    """The exact bytes of a GGUF file but its tensor data.

    Attributes:
        header_bytes: everything before the first tensor, padding included.
        slots: the tensors in file order; each starts where the padding of the one before ends.
        alignment: bytes.
        file_bytes: size of the whole file; the last tensor is padded too.
    """

    header_bytes: bytes
    slots: tuple[TensorSlot, ...]
    alignment: int
    file_bytes: int

    @classmethod
    def plan(
        cls,
        metadata: Mapping[str, MetaValue],
        tensors: Sequence[tuple[str, tuple[int, ...], QType]],
        alignment: int | None = None,
    ) -> GGUFLayout:
        """Lay out a file.

        Args:
            metadata: values by key, stored in this order.
            tensors: name, shape (row length first) and type, stored in this order. Trailing
                dimensions of 1 are dropped, as ggml does.
            alignment: bytes; None takes what ``general.alignment`` in ``metadata`` says, else 32. A
                reader learns of any other value by that key only, so the two must agree.

        Raises:
            GGUFError: a key, name, shape or alignment that no reader would accept; ``key`` or
                ``tensor`` is set.
        """
        step = _alignment(metadata, alignment)
        if len(metadata) > MAX_KEYS or len(tensors) > MAX_TENSORS:
            raise GGUFError(
                f"{len(metadata)} keys and {len(tensors)} tensors were planned, at most "
                f"{MAX_KEYS} and {MAX_TENSORS} are supported; split the model"
            )
        slots, data_bytes = _place(tensors, step)
        header = b"".join(
            [
                MAGIC + _COUNTS.pack(WRITTEN_VERSION, len(tensors), len(metadata)),
                *(_encode_pair(key, value) for key, value in metadata.items()),
                *(_encode_info(slot) for slot in slots),
            ]
        )
        data_start = padded(len(header), step)
        if data_start > MAX_HEADER_BYTES:
            raise GGUFError(
                f"the header takes {data_start} bytes, at most {MAX_HEADER_BYTES} are supported; "
                "shorten the metadata"
            )
        return cls(
            header_bytes=header.ljust(data_start, b"\0"),
            slots=tuple(replace(slot, offset=slot.offset + data_start) for slot in slots),
            alignment=step,
            file_bytes=data_start + data_bytes,
        )


def _alignment(metadata: Mapping[str, MetaValue], wanted: int | None) -> int:
    stored = metadata.get(ALIGNMENT_KEY)
    announced = DEFAULT_ALIGNMENT
    if stored is not None:
        if stored.type is not MetaType.U32 or not isinstance(stored.value, int):
            raise GGUFError(f"{ALIGNMENT_KEY} is {stored.type.name}, use MetaValue.u32", key=ALIGNMENT_KEY)
        announced = stored.value
    if wanted not in (None, announced):
        raise GGUFError(
            f"the alignment {wanted} is not what readers will find ({announced}), "
            f"set the key {ALIGNMENT_KEY} to it",
            key=ALIGNMENT_KEY,
        )
    if fault := alignment_fault(announced):
        raise GGUFError(f"{fault}, use 32", key=ALIGNMENT_KEY)
    return announced


def _place(
    tensors: Sequence[tuple[str, tuple[int, ...], QType]], alignment: int
) -> tuple[list[TensorSlot], int]:
    """The tensors with offsets from the start of the data section, and the size of that section."""
    slots: dict[str, TensorSlot] = {}
    end = 0
    for name, shape, qtype in tensors:
        if name in slots:
            raise GGUFError(f"tensor {shown(name)} was planned twice, drop one", tensor=name)
        slots[name] = slot = _slot(name, shape, qtype, end)
        end += padded(slot.size_bytes, alignment)
        if end > MAX_FILE_BYTES:
            raise GGUFError(
                f"tensor {shown(name)} would end at {end}, beyond what a file can hold; split the model",
                tensor=name,
            )
    return list(slots.values()), end


def _encode_pair(key: str, value: MetaValue) -> bytes:
    fault = key_fault(encode_text(key))
    if fault is not None:
        raise GGUFError(f"key {shown(key)}: {fault}, rename it", key=key)
    return encode_string(key) + value.encode()


def _slot(name: str, shape: tuple[int, ...], qtype: QType, offset: int) -> TensorSlot:
    stored = stored_shape(shape)
    fault = name_fault(encode_text(name)) or shape_fault(stored) or row_fault(stored, qtype)
    if fault:
        raise GGUFError(f"tensor {shown(name)}: {fault}, choose another", tensor=name)
    return TensorSlot(name, stored, qtype, offset, qtype.tensor_bytes(stored))


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` without trailing ones, which ggml does not store (``ggml_n_dims``)."""
    n_dims = len(shape)
    while n_dims > 1 and shape[n_dims - 1] == 1:
        n_dims -= 1
    return shape[:n_dims]


def _encode_info(slot: TensorSlot) -> bytes:
    n_dims = len(slot.shape)
    fields = (n_dims, *slot.shape, slot.qtype.id, slot.offset)
    return encode_string(slot.name) + struct.pack(f"<I{n_dims}qiQ", *fields)
