"""A position in a GGUF header that cannot leave it.

Every read names what it reads, so that a damaged file is described by the field at fault.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from pathlib import Path

import numpy as np

from mqnative.errors import GGUFError
from mqnative.formats.gguf_rules import MAX_HEADER_BYTES, shown
from mqnative.formats.gguf_strings import LENGTH, StringArray, decode_text
from mqnative.formats.gguf_values import DTYPES, SCALARS, MetaType, MetaValue

Buffer = bytes | mmap.mmap


class Cursor:
    """Reads little-endian fields one after the other, checking each against the bytes that remain.

    ``key`` and ``tensor`` say what is being read; they travel with every error.
    """

    def __init__(self, buffer: Buffer, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.position = 0
        self.end = min(len(buffer), MAX_HEADER_BYTES)
        self.key: str | None = None
        self.tensor: str | None = None

    def error(self, fault: str, *, offset: int | None = None) -> GGUFError:
        """``fault`` as an exception about the field at ``offset`` (default: the position)."""
        about = ""
        if self.key is not None:
            about = f" key {shown(self.key)}:"
        elif self.tensor is not None:
            about = f" tensor {shown(self.tensor)}:"
        return GGUFError(
            f"{self.path}:{about} {fault}",
            path=str(self.path),
            offset=self.position if offset is None else offset,
            key=self.key,
            tensor=self.tensor,
        )

    def advance(self, size_bytes: int, what: str) -> int:
        """Step over ``size_bytes``; the position before the step."""
        start = self.position
        if size_bytes > self.end - start:
            raise self._past_end(f"{what} needs {size_bytes} bytes at offset {start}", start)
        self.position = start + size_bytes
        return start

    def number(self, kind: MetaType, what: str) -> int:
        """One integer of type ``kind``."""
        codec = SCALARS[kind]
        (value,) = codec.unpack_from(self.buffer, self.advance(codec.size, what))
        return int(value)

    def text(self, what: str) -> bytes:
        """One length-prefixed string, as bytes."""
        size_bytes = self.number(MetaType.U64, f"the length of {what}")
        start = self.advance(size_bytes, what)
        return self.buffer[start : self.position]

    def count(self, what: str, least_bytes: int, limit: int) -> int:
        """A u64 count of things of at least ``least_bytes`` each: refused before any is read."""
        start = self.position
        n = self.number(MetaType.U64, what)
        if n * least_bytes > self.end - self.position:
            raise self._past_end(f"{what} is {n}, which cannot fit in what follows", start)
        if n > limit:
            fault = f"{what} is {n}, at most {limit} is supported; the file is damaged"
            raise self.error(fault, offset=start)
        return n

    def meta_type(self, what: str) -> MetaType:
        """One metadata type code."""
        start = self.position
        code = self.number(MetaType.I32, what)
        try:
            return MetaType(code)
        except ValueError:
            fault = f"{what} is {code}, which GGUF does not define; the file is damaged"
            raise self.error(fault, offset=start) from None

    def value(self) -> MetaValue:
        """One metadata value: type code, then the value."""
        kind = self.meta_type("the value type")
        if kind is MetaType.ARRAY:
            return self._array()
        if kind is MetaType.STRING:
            return MetaValue(kind, decode_text(self.text("the value")))
        codec = SCALARS[kind]
        (value,) = codec.unpack_from(self.buffer, self.advance(codec.size, "the value"))
        return MetaValue(kind, value)

    def _array(self) -> MetaValue:
        start = self.position
        element = self.meta_type("the element type")
        if element is MetaType.ARRAY:
            fault = "an array of arrays, which llama.cpp refuses; convert the model again"
            raise self.error(fault, offset=start)
        if element is MetaType.STRING:
            n = self.count("the array length", LENGTH.size, self.end)
            return MetaValue(MetaType.ARRAY, self._strings(n), element)
        dtype = DTYPES[element]
        n = self.count("the array length", dtype.itemsize, self.end)
        begin = self.advance(n * dtype.itemsize, "the array")
        raw = self.buffer[begin : self.position]
        if element is MetaType.BOOL:  # any other byte than 0 is true, as upstream reads it
            raw = (np.frombuffer(raw, np.uint8) != 0).tobytes()
        return MetaValue(MetaType.ARRAY, np.frombuffer(raw, dtype), element)

    def _strings(self, n: int) -> StringArray:
        """``n`` strings: their places are checked now, their text is decoded when asked for."""
        begin = position = self.position
        starts = array("q")
        unpack_length, append = LENGTH.unpack_from, starts.append
        # A token list has hundreds of thousands of entries: the loop holds what each of them needs.
        with memoryview(self.buffer)[: self.end] as window:
            try:
                for _ in range(n):
                    (size_bytes,) = unpack_length(window, position)
                    position += 8
                    append(position - begin)
                    position += size_bytes
            except (struct.error, OverflowError):
                position = self.end + 1
        if position > self.end:
            last = max(len(starts) - 1, 0)
            raise self._past_end(f"string {last} of {n} reaches beyond what follows", begin)
        self.position = position
        return StringArray(self.buffer[begin:position], starts)

    def _past_end(self, fault: str, offset: int) -> GGUFError:
        size_bytes = len(self.buffer)
        if self.end < size_bytes:
            fault = f"{fault}, and headers above {self.end} bytes are refused"
            return self.error(fault, offset=offset)
        way_out = "it is truncated or damaged, download or copy it again"
        return self.error(f"{fault}, but the file ends at {size_bytes}; {way_out}", offset=offset)
