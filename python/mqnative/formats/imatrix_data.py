"""What an importance matrix means: sums and counts per tensor, and the weights a quantizer sees.

Upstream's arithmetic is kept operation by operation, in float32, so that weights computed here are
the very bits that llama-quantize passes to the kernels.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mqnative.errors import ImatrixError
from mqnative.formats.gguf_strings import encode_text

F32Array = NDArray[np.float32]

DEFAULT_CHUNK_SIZE = 512
"""Tokens per chunk assumed where a file does not say: llama-imatrix's default context."""

# A count is stored as a 32-bit float; past 2^53 it is no longer a whole number even in float64.
_MAX_COUNT = 2.0**53

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
"""Tensors looked up by token: upstream collects no row for them, and ignores one that does not fit."""


@dataclass(frozen=True, eq=False)
class ImatrixEntry:
    """Activation statistics of one weight tensor; arrays are checked, float32 and read-only.

    Attributes:
        sum_squares: float32, shape (n_slices, n_per_row): sums of squared activations per column; a
            slice is an expert, and a dense matrix has one.
        counts: float32 whole numbers, shape (n_slices,), or (1,) for one count shared by all
            slices: the activations added per slice (chunks instead of tokens if the imatrix has no
            chunk size).
        sums: float32 like ``sum_squares``: sums of the signed activations, where they were
            collected.

    Raises:
        ImatrixError: shapes disagree, or a value is not finite, negative or absurd.
    """

    sum_squares: F32Array
    counts: F32Array
    sums: F32Array | None = None

    def __post_init__(self) -> None:
        sum_squares = _float32(self.sum_squares)
        if sum_squares.ndim != 2 or sum_squares.size == 0:
            raise ImatrixError(
                f"expected sums of squares of shape (slices, columns), got {sum_squares.shape}"
            )
        counts = _float32(self.counts)
        if counts.ndim != 1 or counts.size not in (1, len(sum_squares)):
            raise ImatrixError(
                f"expected one count for each of {len(sum_squares)} slices, or one for all, "
                f"got counts of shape {counts.shape}"
            )
        _check_values("sum of squares", sum_squares)
        _check_values("count", counts)
        if counts.max() > _MAX_COUNT:
            raise ImatrixError(f"a count of {counts.max():g} is beyond any text")
        object.__setattr__(self, "sum_squares", _frozen(sum_squares))
        object.__setattr__(self, "counts", _frozen(_round_half_away(counts)))
        if self.sums is not None:
            sums = _float32(self.sums)
            if sums.shape != sum_squares.shape:
                raise ImatrixError(
                    f"expected signed sums of shape {sum_squares.shape} like the squares, got {sums.shape}"
                )
            _check_values("sum", sums, signed=True)
            object.__setattr__(self, "sums", _frozen(sums))

    @property
    def n_values(self) -> int:
        """Columns of all slices together: upstream's only notion of an entry's size."""
        return int(self.sum_squares.size)

    @property
    def max_count(self) -> int:
        """The largest count of any slice."""
        return int(self.counts.max())

    def slice_counts(self) -> F32Array:
        """Counts per slice, float32 of shape (n_slices,), a shared count repeated."""
        return np.broadcast_to(self.counts, (len(self.sum_squares),))

    def weights(self) -> F32Array:
        """Mean squared activation per column, float32 of shape (n_slices, n_per_row).

        A slice that saw nothing, such as an expert that no token reached, gets ones: it is quantized
        without preferring any column, and types that need importances still work for it.

        Accuracy: bit-equal to what llama-quantize computes.
        Source: tools/quantize/quantize.cpp, `load_imatrix`, at the pinned commit.
        """
        counts = self.slice_counts()[:, np.newaxis]
        ones = np.ones_like(self.sum_squares)
        return np.divide(self.sum_squares, counts, out=ones, where=counts > 0)


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix: one entry per weight tensor, by the tensor's GGUF name.

    Two of them say the same if their ``content_hash()`` is the same.

    Attributes:
        entries: statistics by tensor name.
        datasets: names of the texts it was computed from, in order.
        chunk_count: chunks of text it was computed from; 0 if the file did not tell.
        chunk_size: tokens per chunk. 0 means unknown, as in legacy files, whose counts are chunks.
    """

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", dict(self.entries))
        object.__setattr__(self, "datasets", tuple(self.datasets))

    def weights(self, name: str) -> F32Array | None:
        """Weights of tensor ``name`` as the file splits them into slices; None if it is absent.

        Returns:
            float32, shape (n_slices, n_per_row): see ``ImatrixEntry.weights``.
        """
        entry = self.entries.get(name)
        return None if entry is None else entry.weights()

    def weights_for(self, name: str, shape: Sequence[int]) -> F32Array | None:
        """Weights of tensor ``name`` laid out for its GGUF shape ``shape`` (row length first).

        Returns:
            float32, shape (ne2, ne0), one row per expert; None if the matrix has nothing for the
            tensor, or has a row of another length for a token embedding, which upstream ignores as
            well.

        Raises:
            ImatrixError: the entry does not hold ne0 * ne2 values, so it belongs to another model.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        n_per_row, n_slices = shape[0], shape[2] if len(shape) > 2 else 1
        if entry.n_values == n_per_row * n_slices:
            return entry.weights().reshape(n_slices, n_per_row)
        if name in EMBEDDINGS:
            return None
        raise ImatrixError(
            f"the imatrix has {entry.n_values} values for {name}, which needs "
            f"{n_per_row * n_slices} ({n_slices} x {n_per_row}); use an imatrix that was made from "
            "this very model",
            tensor=name,
        )

    def content_hash(self) -> str:
        """SHA-256, in hex, of everything that bears on a result: names, shapes, counts and sums.

        Datasets and chunk figures are left out: they are labels (often somebody's file paths), and
        the same statistics under another label quantize every model to the same bytes.
        """
        digest = hashlib.sha256(b"mqnative imatrix/1\0")
        for name in sorted(self.entries):
            entry = self.entries[name]
            encoded = encode_text(name)
            n_slices, n_per_row = entry.sum_squares.shape
            has_sums = entry.sums is not None
            digest.update(struct.pack("<Q", len(encoded)) + encoded)
            digest.update(struct.pack("<QQQ?", n_slices, n_per_row, len(entry.counts), has_sums))
            for array in (entry.counts, entry.sum_squares, entry.sums):
                if array is not None:
                    digest.update(array.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    def in_tokens(self, chunk_size: int = DEFAULT_CHUNK_SIZE) -> Imatrix:
        """The same matrix with counts in tokens, where a legacy file counts chunks.

        Weights keep their bits if ``chunk_size`` is a power of two. A matrix that already counts
        tokens is returned unchanged.

        Source: tools/imatrix/imatrix.cpp, `load_imatrix`, at the pinned commit.
        """
        if self.chunk_size:
            return self
        factor = np.float32(chunk_size)
        scaled = {}
        for name, entry in self.entries.items():
            with np.errstate(over="ignore"):
                sum_squares = entry.sum_squares * factor
                sums = None if entry.sums is None else entry.sums * factor
            scaled[name] = entry_of(name, sum_squares, entry.counts * factor, sums)
        return replace(self, entries=scaled, chunk_size=chunk_size)

    def merge(self, other: Imatrix) -> Imatrix:
        """Statistics of both texts together: sums and counts add, tensors and datasets unite.

        Signed sums survive only where both sides have them. A side that counts chunks is first
        converted to tokens with the other's chunk size; if both sides have one and they differ,
        this side's is kept.

        Raises:
            ImatrixError: a tensor has another number of values on the other side, or a sum
                overflows.

        Source: tools/imatrix/imatrix.cpp, `load_imatrix`, at the pinned commit.
        """
        chunk_size = self.chunk_size or other.chunk_size
        ours, theirs = self, other
        if chunk_size:
            ours, theirs = self.in_tokens(chunk_size), other.in_tokens(chunk_size)
        entries = {**ours.entries, **theirs.entries}
        for name in ours.entries.keys() & theirs.entries.keys():
            entries[name] = _add_entries(name, ours.entries[name], theirs.entries[name])
        most = max((entry.max_count for entry in entries.values()), default=0)
        return Imatrix(
            entries=dict(sorted(entries.items())),
            datasets=self.datasets + other.datasets,
            chunk_count=most // (chunk_size or 1),
            chunk_size=chunk_size,
        )


def _add_entries(name: str, a: ImatrixEntry, b: ImatrixEntry) -> ImatrixEntry:
    if a.n_values != b.n_values:
        raise ImatrixError(
            f"cannot merge {name}: {a.n_values} values on one side and {b.n_values} on the other; "
            "merge only matrices that were made from the same model",
            tensor=name,
        )
    # A legacy file flattens experts into one slice; the finer split of the two is the true one.
    shape = max(a.sum_squares.shape, b.sum_squares.shape)
    if len(a.sum_squares) not in (1, shape[0]) or len(b.sum_squares) not in (1, shape[0]):
        raise ImatrixError(
            f"cannot merge {name}: {len(a.sum_squares)} slices on one side and "
            f"{len(b.sum_squares)} on the other; merge only matrices made from the same model",
            tensor=name,
        )
    sums = None
    with np.errstate(over="ignore"):
        sum_squares = a.sum_squares.reshape(shape) + b.sum_squares.reshape(shape)
        if a.sums is not None and b.sums is not None:
            sums = a.sums.reshape(shape) + b.sums.reshape(shape)
    # Whole numbers above 2^24 would lose their last digits one addition at a time in float32.
    counts = a.counts.astype(np.float64) + b.counts.astype(np.float64)
    return entry_of(name, sum_squares, counts, sums)


def entry_of(name: str, sum_squares: ArrayLike, counts: ArrayLike, sums: ArrayLike | None) -> ImatrixEntry:
    """An entry of tensor ``name`` computed from valid ones, whose only possible fault is an overflow.

    Raises:
        ImatrixError: a value is not finite in float32, or a count is absurd; the tensor is named.
    """
    try:
        return ImatrixEntry(_float32(sum_squares), _float32(counts), None if sums is None else _float32(sums))
    except ImatrixError as error:
        raise ImatrixError(
            f"the statistics of {name} outgrow 32-bit floats ({error.message}); "
            "merge fewer or smaller matrices",
            tensor=name,
        ) from None


def _float32(values: Any) -> F32Array:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _frozen(array: F32Array) -> F32Array:
    """A read-only array that owns its memory, out of reach of callers and mapped files."""
    if array.flags.writeable or not array.flags.owndata:
        array = array.copy()
        array.setflags(write=False)
    return array


def _check_values(what: str, values: F32Array, *, signed: bool = False) -> None:
    bad = ~np.isfinite(values)
    if not signed:
        bad |= values < 0
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        kind = "finite" if signed else "finite and not negative"
        raise ImatrixError(f"{what} {index} is {values.ravel()[index]:g}, expected it to be {kind}")


def _round_half_away(counts: F32Array) -> F32Array:
    """Counts as upstream reads them (`lround`); a float32 that is not whole is small, so exact."""
    return np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)
