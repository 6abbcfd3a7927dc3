"""Importance matrices of several texts as one: added up, or averaged with a weight for each text.

Added up, a text counts by its length, as if llama-imatrix were run on each and the files combined with
``--in-file``. Averaged, it counts by its weight alone, however long it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from mqnative.errors import ImatrixError, ShapeError
from mqnative.formats.imatrix import DEFAULT_CHUNK_SIZE, Imatrix, ImatrixEntry, read_imatrix
from mqnative.formats.imatrix_data import entry_of


def add_up(matrices: Sequence[Imatrix]) -> Imatrix:
    """Sums and counts of all matrices added in order; a single one is returned as it is.

    Raises:
        ShapeError: no matrix is given.
        ImatrixError: as `Imatrix.merge`.
    """
    _require_some(matrices)
    return reduce(Imatrix.merge, matrices)


def weighted_mean(parts: Sequence[tuple[Imatrix, float]]) -> Imatrix:
    """Matrices averaged column by column, each with its weight.

    Args:
        parts: matrices of one model, each with a positive weight; only the weights' ratios matter.

    Returns:
        Counts are the parts' counts added up, so that they still tell how much data a slice saw. Sums are
        the weighted mean of the parts' means times that count. In every slice the mean is over the parts
        that saw it: one that a single part saw keeps that part's values. Signed sums survive where all
        parts that have the tensor have them. Datasets carry their weights, as in ``prose.txt=2``.

    Raises:
        ShapeError: no part is given.
        ImatrixError: a weight is not positive and finite, parts have different shapes for a tensor, or a
            sum overflows.

    Accuracy: computed in float64; ``ImatrixEntry.weights()`` of the result is the weighted mean to two
    roundings of float32 (a relative 2^-23), as long as it is no subnormal number.
    """
    _require_some(parts)
    require_weights([weight for _, weight in parts])
    chunk_size = next((m.chunk_size for m, _ in parts if m.chunk_size), DEFAULT_CHUNK_SIZE)
    in_tokens = [(m.in_tokens(chunk_size), weight) for m, weight in parts]
    names = sorted({name for m, _ in in_tokens for name in m.entries})
    return Imatrix(
        entries={
            name: _mean_entry(name, [(m.entries[name], w) for m, w in in_tokens if name in m.entries])
            for name in names
        },
        datasets=tuple(f"{name}={weight:.12g}" for m, weight in parts for name in m.datasets),
        chunk_count=sum(m.chunk_count for m, _ in parts),
        chunk_size=chunk_size,
    )


def require_weights(weights: Sequence[float]) -> None:
    """Weights of texts must be positive and finite, and so must their sum.

    Raises:
        ImatrixError: they are not.
    """
    for weight in weights:
        if not (weight > 0.0 and math.isfinite(sum(weights))):
            raise ImatrixError(f"a text cannot have the weight {weight:g}; give a positive number")


def read_in_files(
    paths: Sequence[Path], *, chunk_size: int, shapes: Mapping[str, Sequence[int]] | None = None
) -> Imatrix:
    """Existing imatrix files added up in order, as llama-imatrix takes them with ``--in-file``.

    Args:
        paths: GGUF or legacy files.
        chunk_size: tokens per chunk of the result, and of the chunks that a legacy file counts.
        shapes: GGUF shapes of the model's tensors by name, which the files must fit.

    Raises:
        ImatrixError: a file is unusable, has a tensor of another shape than the model or the files before
            it, or has none of the model's tensors; ``path`` is set, and ``tensor`` where one is at fault.

    Source: tools/imatrix/imatrix.cpp, `load_imatrix`, at the pinned commit.
    """
    total = Imatrix({}, chunk_size=chunk_size)
    for path in paths:
        matrix = read_imatrix(path)
        try:
            if shapes is not None:
                _require_fit(matrix, shapes)
            total = total.merge(matrix)
        except ImatrixError as error:
            raise ImatrixError(
                f"cannot add {path}: {error.message}", path=str(path), tensor=error.tensor
            ) from None
    return total


def _require_fit(matrix: Imatrix, shapes: Mapping[str, Sequence[int]]) -> None:
    shared = [name for name in matrix.entries if name in shapes]
    if not shared:
        raise ImatrixError(
            "none of its tensors is in the model; use an imatrix that was made from this model"
        )
    for name in shared:
        matrix.weights_for(name, shapes[name])


def _mean_entry(name: str, parts: Sequence[tuple[ImatrixEntry, float]]) -> ImatrixEntry:
    entries = [entry for entry, _ in parts]
    shapes = {entry.sum_squares.shape for entry in entries}
    if len(shapes) > 1:
        raise ImatrixError(
            f"cannot average {name}: shapes {' and '.join(map(str, sorted(shapes)))} disagree; average only "
            "matrices that were made from the same model",
            tensor=name,
        )
    n_counts = max(entry.counts.size for entry in entries)
    counts = np.stack([np.broadcast_to(entry.counts, n_counts) for entry in entries]).astype(np.float64)
    mass = np.where(counts > 0, np.array([[weight] for _, weight in parts]), 0.0)
    seen = mass.sum(axis=0)
    share = np.divide(mass, seen, out=np.zeros_like(mass), where=seen > 0)
    total = counts.sum(axis=0).astype(np.float32)  # the count as stored, since it divides the sums again
    factors = (share * (total / np.maximum(counts, 1.0)))[:, :, np.newaxis]
    sum_squares = sum(f * e.sum_squares.astype(np.float64) for f, e in zip(factors, entries, strict=True))
    sums = None
    signed = [entry.sums for entry in entries if entry.sums is not None]
    if len(signed) == len(entries):
        sums = sum(f * s.astype(np.float64) for f, s in zip(factors, signed, strict=True))
    return entry_of(name, sum_squares, total, sums)


def _require_some(matrices: Sequence[object]) -> None:
    if not matrices:
        raise ShapeError("there is no imatrix to combine; give at least one", expected="1 or more", got=0)
