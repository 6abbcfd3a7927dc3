"""GGUF text: UTF-8 where it is UTF-8, the exact bytes in every case.

Token lists hold hundreds of thousands of strings; they stay bytes until one is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import overload

from mqnative.errors import GGUFError

LENGTH = struct.Struct("<Q")


def decode_text(raw: bytes) -> str:
    """Text of ``raw``; what is not UTF-8 becomes surrogate escapes, undone by ``encode_text``."""
    return raw.decode("utf-8", "surrogateescape")


def encode_text(text: object) -> bytes:
    """The stored bytes of ``text``, without its length.

    Raises:
        GGUFError: not a string, or a string with no UTF-8 form.
    """
    if not isinstance(text, str):
        raise GGUFError(f"expected a string, got {type(text).__name__}, convert it first")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise GGUFError(f"a string holds a lone surrogate at character {error.start}, remove it") from error


def encode_string(text: str) -> bytes:
    """The stored form of ``text``: its length in bytes as u64, then the bytes."""
    raw = encode_text(text)
    return LENGTH.pack(len(raw)) + raw


class StringArray(Sequence[str]):
    """Strings held as the file stores them (length, bytes, length, ...) and decoded on access.

    Bytes that are not UTF-8 survive as surrogate escapes, so a token list round-trips exactly.

    Args:
        stored: the elements in GGUF's encoding.
        starts: where each element's text begins in ``stored``; its length lies in the 8 bytes
            before.
    """

    __slots__ = ("_starts", "stored")

    def __init__(self, stored: bytes, starts: Sequence[int]) -> None:
        self.stored = stored
        self._starts = starts

    @classmethod
    def of(cls, strings: Sequence[str]) -> StringArray:
        """The array holding ``strings``.

        Raises:
            GGUFError: an element is not a string, or has no UTF-8 form.
        """
        parts: list[bytes] = []
        starts: list[int] = []
        position = 0
        for text in strings:
            raw = encode_text(text)
            position += LENGTH.size
            starts.append(position)
            parts += (LENGTH.pack(len(raw)), raw)
            position += len(raw)
        return cls(b"".join(parts), starts)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(start) for start in self._starts[index]]
        return self._text(self._starts[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._text, self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StringArray) and self.stored == other.stored

    def __hash__(self) -> int:
        return hash(self.stored)

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"

    def _text(self, start: int) -> str:
        (length,) = LENGTH.unpack_from(self.stored, start - LENGTH.size)
        return decode_text(self.stored[start : start + length])
