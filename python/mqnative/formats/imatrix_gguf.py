"""The importance matrix as GGUF: which keys and tensors it needs, and how they must agree.

Per weight tensor ``w`` there is ``w.in_sum2`` (sums of squared activations) and ``w.counts``; a
fork of llama.cpp adds ``w.in_sum`` (signed sums), which is kept, and statistics derived from them,
which are not. Tensors with any other ending are ignored, as upstream does.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from mqnative.errors import ImatrixError
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue, StringArray
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.imatrix_data import F32Array, Imatrix, ImatrixEntry
from mqnative.formats.qtypes import qtype

_TYPE = "general.type"
_DATASETS = "imatrix.datasets"
_CHUNK_COUNT = "imatrix.chunk_count"
_CHUNK_SIZE = "imatrix.chunk_size"

_SUM_SQUARES, _COUNTS, _SUMS = ".in_sum2", ".counts", ".in_sum"


def read_gguf(path: Path) -> Imatrix:
    """The matrix in a GGUF file; arrays are copied, so the file may change afterwards.

    Raises:
        ImatrixError: the file is not an imatrix, or its tensors do not belong together.
        GGUFError: the file is damaged.
    """
    with GGUFFile.open(path) as gguf:
        return _Reader(path, gguf).imatrix()


def write_as_gguf(path: Path, imatrix: Imatrix, *, force: bool) -> None:
    """Write ``imatrix`` as llama-imatrix does, byte for byte, with signed sums where there are any.

    Raises:
        ImatrixError: there are no entries.
        GGUFError: a name or a figure does not fit.
        OutputExistsError, OutputError: see ``write_gguf``.
    """
    if not imatrix.entries:
        raise ImatrixError("the imatrix has no entries, so there is nothing to write")
    arrays: dict[str, F32Array] = {}
    for name in sorted(imatrix.entries):
        entry = imatrix.entries[name]
        arrays[name + _SUM_SQUARES] = entry.sum_squares
        arrays[name + _COUNTS] = entry.counts[:, None]
        if entry.sums is not None:
            arrays[name + _SUMS] = entry.sums
    f32 = qtype("F32")
    layout = GGUFLayout.plan(
        {
            _TYPE: MetaValue.string("imatrix"),
            _DATASETS: MetaValue.array(MetaType.STRING, imatrix.datasets),
            _CHUNK_COUNT: MetaValue.u32(imatrix.chunk_count),
            _CHUNK_SIZE: MetaValue.u32(imatrix.chunk_size),
        },
        [(name, array.shape[::-1], f32) for name, array in arrays.items()],
    )

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        out.write(arrays[slot.name].astype("<f4", copy=False).tobytes())

    write_gguf(path, layout, write_tensor, force=force)


class _Reader:
    """Checks one open file against the rules of the module's docstring."""

    def __init__(self, path: Path, gguf: GGUFFile) -> None:
        self.path, self.gguf = path, gguf

    def imatrix(self) -> Imatrix:
        kind = self.gguf.get(_TYPE, "imatrix")
        if kind != "imatrix":
            raise self.error(
                f"{_TYPE} is {kind!r}, expected 'imatrix'",
                "give what `mqnative imatrix` or llama-imatrix wrote",
                key=_TYPE,
            )
        datasets = self.datasets()
        chunk_count, chunk_size = self.number(_CHUNK_COUNT), self.number(_CHUNK_SIZE)
        if chunk_size == 0:
            raise self.error(f"{_CHUNK_SIZE} is 0, expected tokens per chunk", key=_CHUNK_SIZE)
        names = {
            tensor.removesuffix(suffix)
            for tensor in self.gguf.tensors
            for suffix in (_SUM_SQUARES, _COUNTS, _SUMS)
            if tensor.endswith(suffix)
        }
        if not names:
            raise self.error("no tensor of the file belongs to an imatrix")
        entries = {name: self.entry(name) for name in sorted(names)}
        return Imatrix(entries, datasets, chunk_count, chunk_size)

    def entry(self, name: str) -> ImatrixEntry:
        sum_squares = self.array(name, _SUM_SQUARES)
        counts = self.array(name, _COUNTS).ravel()
        sums = self.array(name, _SUMS) if name + _SUMS in self.gguf.tensors else None
        if len(sum_squares) == 1 and sum_squares.size % counts.size == 0:
            # Upstream reads by length alone: where there is one row, the counts tell the slices.
            sum_squares = sum_squares.reshape(counts.size, -1)
        if sums is not None and sums.size == sum_squares.size:
            sums = sums.reshape(sum_squares.shape)
        try:
            return ImatrixEntry(sum_squares, counts, sums)
        except ImatrixError as error:
            raise self.error(f"tensor {name}: {error.message}", tensor=name) from None

    def array(self, name: str, suffix: str) -> F32Array:
        """A member of an entry as a float32 matrix, shape (rows, row length), not copied."""
        info = self.gguf.tensors.get(name + suffix)
        if info is None:
            raise self.error(f"tensor {name}{suffix} is missing beside its siblings", tensor=name)
        if info.qtype.name != "F32":
            raise self.error(f"tensor {name}{suffix} is {info.qtype.name}, expected F32", tensor=name)
        array: F32Array = self.gguf.array(name + suffix)
        return array.reshape(-1, array.shape[-1])

    def datasets(self) -> tuple[str, ...]:
        value = self.present(_DATASETS).value
        if not isinstance(value, StringArray):
            raise self.error(f"{_DATASETS} is not a list of strings", key=_DATASETS)
        return tuple(value)

    def number(self, key: str) -> int:
        value = self.present(key)
        if value.type is not MetaType.U32 or not isinstance(value.value, int):
            raise self.error(f"{key} is {value.type.name}, expected U32", key=key)
        return value.value

    def present(self, key: str) -> MetaValue:
        value = self.gguf.metadata.get(key)
        if value is None:
            raise self.error(
                f"the key {key} is missing, as in a model or a damaged file",
                "give what `mqnative imatrix` or llama-imatrix wrote",
                key=key,
            )
        return value

    def error(
        self,
        problem: str,
        way_out: str = "the file is damaged: copy or make it again",
        *,
        key: str | None = None,
        tensor: str | None = None,
    ) -> ImatrixError:
        return ImatrixError(
            f"cannot use {self.path} as an imatrix: {problem}; {way_out}",
            path=str(self.path),
            key=key,
            tensor=tensor,
        )
