"""GGUF metadata values: a stored type and a Python value that fits it exactly.

A value that can be constructed can be written; one that was read is written as the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.errors import GGUFError
from mqnative.formats.gguf_strings import StringArray, encode_string, encode_text

_TYPE = struct.Struct("<i")
_ARRAY_HEAD = struct.Struct("<iiQ")


class MetaType(Enum):
    """The type codes of GGUF metadata, as stored."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


# struct and NumPy share these codes.
_CODES = {
    MetaType.U8: "B",
    MetaType.I8: "b",
    MetaType.U16: "H",
    MetaType.I16: "h",
    MetaType.U32: "I",
    MetaType.I32: "i",
    MetaType.F32: "f",
    MetaType.BOOL: "?",
    MetaType.U64: "Q",
    MetaType.I64: "q",
    MetaType.F64: "d",
}
SCALARS = {kind: struct.Struct("<" + code) for kind, code in _CODES.items()}
DTYPES: dict[MetaType, np.dtype[Any]] = {kind: np.dtype("<" + c) for kind, c in _CODES.items()}


NumberArray = npt.NDArray[Any]
Scalar = bool | int | float | str
Plain = Scalar | list[Any]


@dataclass(frozen=True, eq=False)
class MetaValue:
    """One metadata value as GGUF types it; two are equal when their stored bytes are.

    Attributes:
        type: the stored type.
        value: bool, int, float or str; for arrays a one-dimensional NumPy array of the element's
            dtype, or a ``StringArray``. An F32 value is rounded to what the file will hold.
        element_type: the type of an array's elements, None for anything else.

    Raises:
        GGUFError: the value does not fit the type.
    """

    type: MetaType
    value: Scalar | NumberArray | StringArray
    element_type: MetaType | None = None

    def __post_init__(self) -> None:
        if self.type is MetaType.ARRAY:
            _check_array(self.element_type, self.value)
        elif self.type is MetaType.STRING:
            encode_text(self.value)
        else:
            (stored,) = SCALARS[self.type].unpack(_pack(self.type, (self.value,)))
            object.__setattr__(self, "value", stored)

    @classmethod
    def u8(cls, value: int) -> MetaValue:
        """An unsigned 8-bit integer."""
        return cls(MetaType.U8, value)

    @classmethod
    def i8(cls, value: int) -> MetaValue:
        """A signed 8-bit integer."""
        return cls(MetaType.I8, value)

    @classmethod
    def u16(cls, value: int) -> MetaValue:
        """An unsigned 16-bit integer."""
        return cls(MetaType.U16, value)

    @classmethod
    def i16(cls, value: int) -> MetaValue:
        """A signed 16-bit integer."""
        return cls(MetaType.I16, value)

    @classmethod
    def u32(cls, value: int) -> MetaValue:
        """An unsigned 32-bit integer."""
        return cls(MetaType.U32, value)

    @classmethod
    def i32(cls, value: int) -> MetaValue:
        """A signed 32-bit integer."""
        return cls(MetaType.I32, value)

    @classmethod
    def u64(cls, value: int) -> MetaValue:
        """An unsigned 64-bit integer."""
        return cls(MetaType.U64, value)

    @classmethod
    def i64(cls, value: int) -> MetaValue:
        """A signed 64-bit integer."""
        return cls(MetaType.I64, value)

    @classmethod
    def f32(cls, value: float) -> MetaValue:
        """A single-precision number; ``value`` is rounded."""
        return cls(MetaType.F32, value)

    @classmethod
    def f64(cls, value: float) -> MetaValue:
        """A double-precision number."""
        return cls(MetaType.F64, value)

    @classmethod
    def boolean(cls, value: bool) -> MetaValue:
        """True or false, one byte."""
        return cls(MetaType.BOOL, value)

    @classmethod
    def string(cls, value: str) -> MetaValue:
        """A text, stored as UTF-8."""
        return cls(MetaType.STRING, value)

    @classmethod
    def array(cls, element_type: MetaType, values: Sequence[Any] | NumberArray) -> MetaValue:
        """An array whose elements all have ``element_type``; it may be empty, but not nested."""
        if element_type is MetaType.STRING:
            strings = values if isinstance(values, StringArray) else StringArray.of(list(values))
            return cls(MetaType.ARRAY, strings, element_type)
        if element_type not in DTYPES:
            raise GGUFError("GGUF arrays cannot be nested, flatten the value")
        numbers = np.frombuffer(_pack(element_type, values), dtype=DTYPES[element_type])
        return cls(MetaType.ARRAY, numbers, element_type)

    @property
    def plain(self) -> Plain:
        """The value as Python's own bool, int, float, str, or a list of those."""
        if isinstance(self.value, np.ndarray):
            return list(self.value.tolist())
        if isinstance(self.value, StringArray):
            return list(self.value)
        return self.value

    def encode(self) -> bytes:
        """The bytes GGUF stores after the key: type code, then the value."""
        if isinstance(self.value, StringArray):
            head = _ARRAY_HEAD.pack(self.type.value, MetaType.STRING.value, len(self.value))
            return head + self.value.stored
        if isinstance(self.value, np.ndarray):
            assert self.element_type is not None  # __post_init__ saw to it
            head = _ARRAY_HEAD.pack(self.type.value, self.element_type.value, self.value.size)
            return head + self.value.tobytes()
        if isinstance(self.value, str):
            return _TYPE.pack(self.type.value) + encode_string(self.value)
        return _TYPE.pack(self.type.value) + SCALARS[self.type].pack(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MetaValue) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())


def _pack(kind: MetaType, values: Sequence[Any] | NumberArray) -> bytes:
    """``values`` as stored numbers of type ``kind``: refused, never wrapped or truncated."""
    if isinstance(values, np.ndarray):
        if values.dtype == DTYPES[kind] and values.ndim == 1:
            return values.tobytes()
        values = values.tolist()
    try:
        if kind is MetaType.BOOL and not all(isinstance(v, (bool, np.bool_)) for v in values):
            raise TypeError("not a bool")
        return struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
    except (struct.error, OverflowError, TypeError, ValueError) as error:
        raise GGUFError(f"a value does not fit GGUF type {kind.name}: {error}") from error


def _check_array(element_type: MetaType | None, value: object) -> None:
    if element_type is MetaType.STRING and isinstance(value, StringArray):
        return
    if element_type in DTYPES and isinstance(value, np.ndarray):
        fits = value.ndim == 1 and value.dtype == DTYPES[element_type]
        if fits:
            return
    raise GGUFError("an array value does not have its element type, build it with MetaValue.array")
