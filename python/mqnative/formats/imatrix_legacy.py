"""The importance matrix file (``.dat``) of llama.cpp before GGUF, and of ik_llama.cpp.

Little-endian throughout: int32 number of entries; per entry int32 name length, name, int32 n_calls,
int32 number of values, float32 values; then, optionally, int32 chunk count, and int32 length with
the name of the text. A value is the mean squared activation times n_calls, and n_calls is the
entry's number of chunks: tokens and experts are not recorded.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mqnative.errors import ImatrixError
from mqnative.formats.gguf_strings import decode_text, encode_text
from mqnative.formats.imatrix_data import F32Array, Imatrix, ImatrixEntry

_INT32 = struct.Struct("<i")
_INT32_MAX = 2**31 - 1

# A name of one byte with one value: name length, name, n_calls, number of values, value.
_SMALLEST_ENTRY = 4 + 1 + 4 + 4 + 4


def read_legacy(path: Path) -> Imatrix:
    """The matrix in a legacy file, values untouched: writing it again gives the same bytes.

    Counts are chunks and ``chunk_size`` is 0: see ``Imatrix.in_tokens``. An entry with n_calls 0
    holds plain means, as upstream takes it, and gets the count 1.

    Raises:
        ImatrixError: the file is cut short, contradicts itself or holds unusable numbers.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(path, data).imatrix()


def write_legacy(out: BinaryIO, imatrix: Imatrix) -> None:
    """Write ``imatrix`` in the legacy form; tensors whose counts are all zero are left out.

    What the form cannot hold is lost: signed sums, counts per expert, all datasets but the last.

    Raises:
        ImatrixError: no tensor has data, or a figure does not fit the form's 32 bits.

    Source: tools/imatrix/imatrix.cpp, `save_imatrix_legacy`, at the pinned commit.
    """
    entries = {name: imatrix.entries[name] for name in sorted(imatrix.entries)}
    entries = {name: entry for name, entry in entries.items() if entry.max_count > 0}
    if not entries:
        raise ImatrixError("no tensor of the imatrix has data, so there is nothing to write")
    out.write(_int32(len(entries), "number of tensors"))
    for name, entry in entries.items():
        n_calls = -(-entry.max_count // (imatrix.chunk_size or 1))
        encoded = encode_text(name)
        out.write(_int32(len(encoded), "name length") + encoded)
        out.write(_int32(n_calls, f"number of chunks of {name}"))
        out.write(_int32(entry.n_values, f"number of values of {name}"))
        # What came from a legacy file is in its form already; dividing it again would cost a bit.
        as_read = imatrix.chunk_size == 0 and len(entry.counts) == 1
        values = entry.sum_squares if as_read else _means_times(entry, n_calls)
        if not np.isfinite(values).all():
            raise ImatrixError(
                f"the values of {name} outgrow 32-bit floats in the legacy form; write GGUF",
                tensor=name,
            )
        out.write(values.astype("<f4", copy=False).tobytes())
    out.write(_int32(imatrix.chunk_count, "number of chunks"))
    dataset = encode_text(imatrix.datasets[-1]) if imatrix.datasets else b""
    out.write(_int32(len(dataset), "dataset name length") + dataset)


def _means_times(entry: ImatrixEntry, n_calls: int) -> F32Array:
    """The form's values by upstream's float32 operations; a slice without data counts as mean 1."""
    with np.errstate(over="ignore"):
        values: F32Array = entry.weights() * np.float32(n_calls)
    return values


def _int32(value: int, what: str) -> bytes:
    if value > _INT32_MAX:
        raise ImatrixError(f"{what} is {value}, which the legacy form cannot hold; write GGUF")
    return _INT32.pack(value)


class _Cursor:
    """Reads a mapped file front to back; allocates nothing before its bytes are known to exist."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.offset = path, data, 0

    @property
    def remaining(self) -> int:
        return len(self.data) - self.offset

    def imatrix(self) -> Imatrix:
        n_entries = self.int32("number of tensors")
        if not 0 < n_entries <= self.remaining // _SMALLEST_ENTRY:
            raise self.error(
                "this is neither a GGUF file nor a legacy imatrix "
                f"(its first four bytes would mean {n_entries} tensors)",
                "give what `mqnative imatrix` or llama-imatrix wrote",
                offset=0,
            )
        entries: dict[str, ImatrixEntry] = {}
        for index in range(n_entries):
            start = self.offset
            name = self.name(index)
            if name in entries:
                raise self.error(f"tensor {name} appears twice", offset=start, tensor=name)
            entries[name] = self.entry(name)
        # The trailer came later than the format: it may be absent, or stop after the chunk count.
        chunk_count = self.count("number of chunks") if self.remaining else 0
        datasets: tuple[str, ...] = ()
        if self.remaining:
            n_bytes = self.count("length of the dataset name")
            datasets = (decode_text(self.take(n_bytes, "the dataset name")),)
        if self.remaining:
            raise self.error(f"{self.remaining} bytes follow the end of the imatrix")
        return Imatrix(entries, tuple(filter(None, datasets)), chunk_count)

    def entry(self, name: str) -> ImatrixEntry:
        n_calls = self.count(f"number of chunks of {name}", tensor=name)
        start = self.offset
        n_values = self.count(f"number of values of {name}", tensor=name)
        if n_values == 0:
            raise self.error(f"tensor {name} has no values", offset=start, tensor=name)
        start = self.offset
        values = self.take(4 * n_values, f"the values of {name}", tensor=name)
        try:
            return ImatrixEntry(
                sum_squares=np.frombuffer(values, dtype="<f4")[np.newaxis, :],
                counts=np.array([max(n_calls, 1)], dtype=np.float32),
            )
        except ImatrixError as error:
            problem = f"tensor {name}: {error.message}"
            raise self.error(problem, offset=start, tensor=name) from None

    def name(self, index: int) -> str:
        start = self.offset
        n_bytes = self.count(f"name length of entry {index}")
        raw = self.take(n_bytes, f"the name of entry {index}")
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            name = ""
        if not name.isprintable() or not name:
            raise self.error(f"entry {index} has no readable name", offset=start)
        return name

    def count(self, what: str, tensor: str | None = None) -> int:
        """An int32 that cannot be negative."""
        start = self.offset
        value = self.int32(what, tensor=tensor)
        if value < 0:
            raise self.error(f"{what} is {value}", offset=start, tensor=tensor)
        return value

    def int32(self, what: str, tensor: str | None = None) -> int:
        value: int = _INT32.unpack(self.take(4, f"the {what}", tensor=tensor))[0]
        return value

    def take(self, n_bytes: int, what: str, tensor: str | None = None) -> bytes:
        if n_bytes > self.remaining:
            raise self.error(
                f"{what} needs {n_bytes} bytes and only {self.remaining} are left",
                "the file is cut short or damaged: copy or make it again",
                tensor=tensor,
            )
        start, self.offset = self.offset, self.offset + n_bytes
        return self.data[start : self.offset]

    def error(
        self,
        problem: str,
        way_out: str = "the file is damaged: copy or make it again",
        *,
        offset: int | None = None,
        tensor: str | None = None,
    ) -> ImatrixError:
        at = self.offset if offset is None else offset
        return ImatrixError(
            f"cannot read {self.path} at byte {at}: {problem}; {way_out}",
            path=str(self.path),
            offset=at,
            tensor=tensor,
        )
