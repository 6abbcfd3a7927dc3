"""GGUF models as files: one or several splits, mapped read-only, tensors as views into them.

A file is checked completely when it is opened; afterwards no access can leave it.
"""

from __future__ import annotations

import mmap
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from mqnative.errors import GGUFError
from mqnative.formats.gguf_header import Header, TensorInfo, parse_header
from mqnative.formats.gguf_rules import shown
from mqnative.formats.gguf_splits import check_splits, split_paths
from mqnative.formats.gguf_strings import StringArray
from mqnative.formats.gguf_values import MetaType, MetaValue

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GGUFFile", "MetaType", "MetaValue", "StringArray", "TensorInfo"]

_ARRAY_DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the bits: NumPy has no bfloat16
    "F64": "<f8",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}


class GGUFFile:
    """An open GGUF model, all its splits together.

    Arrays handed out keep the mapping alive on their own; they stay valid after ``close``.

    Attributes:
        path: the file that was opened (the first split).
        paths: every split, in order.
        version: 2 or 3.
        alignment: bytes, of the first split.
        metadata: values by key, of the first split, in file order.
        tensors: where each tensor lies, in file order, split after split.
        file_bytes: size of all files together.
    """

    def __init__(self, paths: tuple[Path, ...], maps: list[mmap.mmap], headers: list[Header]) -> None:
        """Join files that were mapped and parsed; ``open`` does both."""
        first = headers[0]
        self.path = paths[0]
        self.paths = paths
        self.version = first.version
        self.alignment = first.alignment
        self.metadata: Mapping[str, MetaValue] = MappingProxyType(first.metadata)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: info for header in headers for name, info in header.tensors.items()}
        )
        self.file_bytes = sum(len(mapped) for mapped in maps)
        self._maps = dict(zip(paths, maps, strict=True))

    @classmethod
    def open(cls, path: str | Path) -> GGUFFile:
        """Map and check a model.

        Args:
            path: a GGUF file; of a split model the first file, the others are found beside it.

        Raises:
            GGUFError: a file is missing, unreadable, damaged or unsupported, or the splits do not
                fit together.
        """
        path = Path(path)
        maps: list[mmap.mmap] = []
        try:
            maps.append(_map(path))
            headers = [parse_header(maps[0], path)]
            paths = split_paths(path, headers[0])
            for other in paths[1:]:
                maps.append(_map(other))
                headers.append(parse_header(maps[-1], other))
            if len(paths) > 1:
                check_splits(paths, headers)
            return cls(paths, maps, headers)
        except BaseException:
            for mapped in maps:
                mapped.close()
            raise

    def close(self) -> None:
        """Give the mappings back; where an array still looks into one, it goes with the array."""
        for mapped in self._maps.values():
            with suppress(BufferError):
                mapped.close()
        self._maps = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.tensors)} tensors)"

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key`` as plain Python (arrays become lists), or ``default``."""
        value = self.metadata.get(key)
        return default if value is None else value.plain

    @overload
    def string(self, key: str) -> str | None: ...
    @overload
    def string(self, key: str, default: str) -> str: ...
    def string(self, key: str, default: str | None = None) -> str | None:
        """The text of ``key``, or ``default``.

        Raises:
            GGUFError: the key holds something else.
        """
        value = self.get(key, default)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong_kind(key, "a string")

    @overload
    def integer(self, key: str) -> int | None: ...
    @overload
    def integer(self, key: str, default: int) -> int: ...
    def integer(self, key: str, default: int | None = None) -> int | None:
        """The number of ``key``, stored as an integer of any width, or ``default``.

        Raises:
            GGUFError: the key holds something else.
        """
        value = self.get(key, default)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self._wrong_kind(key, "an integer")

    @property
    def architecture(self) -> str | None:
        """The model family (``llama``, ``qwen3moe``), None if the file does not say."""
        return self.string("general.architecture")

    @property
    def tensor_bytes(self) -> int:
        """Bytes of tensor data, padding not included."""
        return sum(info.size_bytes for info in self.tensors.values())

    @property
    def n_weights(self) -> int:
        """Weights in all tensors."""
        return sum(info.n_weights for info in self.tensors.values())

    @property
    def bpw(self) -> float:
        """Bits of tensor data per weight; 0 without tensors."""
        return 8.0 * self.tensor_bytes / max(self.n_weights, 1)

    @property
    def bpw_file(self) -> float:
        """Bits per weight counting whole files; 0 without tensors."""
        return 8.0 * self.file_bytes / self.n_weights if self.n_weights else 0.0

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes of tensor ``name``: a read-only view, uint8, shape (size_bytes,).

        Raises:
            GGUFError: no such tensor, or the file is closed.
        """
        info = self._info(name)
        return self._view(info, np.dtype(np.uint8), info.size_bytes)

    def array(self, name: str) -> npt.NDArray[Any]:
        """Tensor ``name`` as a read-only view in NumPy order (the GGUF shape reversed).

        Nothing is copied. F32, F16, F64 and integers get their dtype; BF16 comes as uint16 bits; a
        quantized tensor as uint8 rows, shape (..., row_bytes).

        Raises:
            GGUFError: no such tensor, or the file is closed.
        """
        info = self._info(name)
        rows = info.shape[:0:-1]
        dtype = _ARRAY_DTYPES.get(info.qtype.name)
        if dtype is None:
            return self.data(name).reshape(*rows, info.qtype.row_bytes(info.shape[0]))
        return self._view(info, np.dtype(dtype), info.n_weights).reshape(*rows, info.shape[0])

    def _view(self, info: TensorInfo, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        mapped = self._maps.get(info.path)
        if mapped is None:
            raise GGUFError(f"{self.path} is closed, open it again", path=str(self.path))
        return np.frombuffer(mapped, dtype, count, info.offset)

    def _info(self, name: str) -> TensorInfo:
        info = self.tensors.get(name)
        if info is None:
            raise GGUFError(
                f"{self.path} has no tensor {shown(name)}, list its tensors for the names",
                path=str(self.path),
                tensor=name,
            )
        return info

    def _wrong_kind(self, key: str, expected: str) -> GGUFError:
        kind = self.metadata[key].type.name if key in self.metadata else "another type"
        return GGUFError(
            f"{self.path}: {shown(key)} is {kind}, expected {expected}; convert the model again",
            path=str(self.path),
            key=key,
        )


def _map(path: Path) -> mmap.mmap:
    """The file's bytes, mapped read-only.

    Raises:
        GGUFError: missing, empty, unreadable, or not a regular file (a pipe would block, a device
            never ends).
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            fault = "is a folder, name a .gguf file in it"
        elif not stat.S_ISREG(status.st_mode):
            fault = "is not a regular file, name a .gguf file"
        elif status.st_size == 0:
            fault = "is empty, download or copy it again"
        else:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError):
        fault = "does not exist, check the spelling"
    except PermissionError:
        fault = "cannot be read, ask for permission or copy it"
    except (OSError, ValueError) as error:
        # ValueError: a zero byte in the name, or a file emptied since it was looked at.
        fault = f"cannot be mapped ({error}), check the path and the disk"
    raise GGUFError(f"{path} {fault}", path=str(path))
