"""Writes a planned GGUF file: header, tensors one after the other, whole or not at all.

Memory stays at one tensor, whatever the size of the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mqnative.errors import GGUFError, OutputExistsError
from mqnative.formats.atomic import atomic_path
from mqnative.formats.gguf_layout import GGUFLayout, TensorSlot
from mqnative.formats.gguf_rules import padded, shown

__all__ = ["GGUFLayout", "TensorSlot", "write_gguf", "write_tensors"]


def write_gguf(
    path: str | Path,
    layout: GGUFLayout,
    write_tensor: Callable[[TensorSlot, BinaryIO], None],
    *,
    on_tensor: Callable[[TensorSlot], None] | None = None,
    force: bool = False,
) -> None:
    """Write the file ``layout`` describes; the bytes are those upstream's writer gives.

    Args:
        path: the file to make; its folder must exist.
        layout: where everything goes.
        write_tensor: called once per slot, in file order, with the open file; writes exactly
            ``slot.size_bytes`` bytes. What it raises (a cancellation, say) ends the write and
            leaves nothing behind.
        on_tensor: called after each tensor is written, for progress.
        force: replace an existing file.

    Raises:
        OutputExistsError: ``path`` exists and ``force`` is false.
        GGUFError: a tensor got the wrong number of bytes; ``tensor`` is set.
        OutputError: the folder is missing or read-only, or the disk is full.
    """
    path = Path(path)
    if not force and os.path.lexists(path):
        raise OutputExistsError(f"{path} exists already, pass force to replace it", path=str(path))
    with atomic_path(path) as temporary, temporary.open("wb") as out:
        write_tensors(out, layout, write_tensor, path=path, on_tensor=on_tensor)


def write_tensors(
    out: BinaryIO,
    layout: GGUFLayout,
    write_tensor: Callable[[TensorSlot, BinaryIO], None],
    *,
    path: Path,
    on_tensor: Callable[[TensorSlot], None] | None = None,
) -> None:
    """Write header, tensors and padding to ``out``, for callers that place the file themselves.

    Args:
        out: an empty file, open for writing.
        layout: where everything goes.
        write_tensor: as in ``write_gguf``.
        path: the name the file will have, for messages.
        on_tensor: as in ``write_gguf``.

    Raises:
        GGUFError: a tensor got the wrong number of bytes; ``tensor`` is set.
    """
    out.write(layout.header_bytes)
    for slot in layout.slots:
        write_tensor(slot, out)
        written = out.tell() - slot.offset
        if written != slot.size_bytes:
            raise GGUFError(
                f"{path}: tensor {shown(slot.name)} got {written} bytes instead of "
                f"{slot.size_bytes}, its source does not match the plan",
                path=str(path),
                offset=slot.offset,
                tensor=slot.name,
            )
        out.write(bytes(padded(written, layout.alignment) - written))
        if on_tensor is not None:
            on_tensor(slot)
