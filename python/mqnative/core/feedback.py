"""Rounding with error feedback (GPTQ): every weight of a row takes over what those before it lost.

A row's product with activations x loses (sum of e_j x_j)^2 for errors e_j, so that errors in columns whose
activations go together can cancel. ggml chooses the scales of the blocks as ever; then the integers are
chosen one column after the other. Sizes and readers of the blocks stay as they are.

Source: Frantar et al., GPTQ (2022), in the form of Chee et al., QuIP (2023): LDLQ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, thread_count
from mqnative.core.quantize import Array, MatrixShape, progress
from mqnative.errors import ShapeError
from mqnative.formats.qtypes import QType

# Columns whose errors are handed on among each other: a matrix of 4 MB for each such group.
COLUMNS = 1024
# Of one tensor of experts: a hundred of them, each with inputs of its own, would fill the memory.
MAX_OWN_BYTES = 128 << 20
# Of the mean second moment, added to each: what a text of some ten thousand tokens does not know.
DAMPING = 0.05


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of the activations that enter a weight; see `Model.second_moments`.

    Attributes:
        sums: float32, shape (n_slices, n): sums of x_j x_k over the tokens, the upper triangles of a square
            matrix for each group of columns, one after the other. One slice, or one for each expert.
        counts: int64, shape (n_slices,): tokens seen.
        n_per_row: columns.
        columns: of a group.
    """

    sums: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    n_per_row: int
    columns: int


@dataclass(frozen=True, eq=False)
class Factors:
    """How much of an error each later column takes over.

    Attributes:
        values: float32, shape (n_slices, n), as `Moments.sums`: U of H = U D U', with a diagonal of ones.
        n_per_row: columns.
        columns: of a group.
    """

    values: npt.NDArray[np.float32]
    n_per_row: int
    columns: int

    def of_slice(self, number: int) -> Factors:
        """Those of one slice."""
        if len(self.values) == 1:
            return self
        return Factors(self.values[number : number + 1], self.n_per_row, self.columns)


def takes_feedback(target: QType) -> bool:
    """Whether a type rounds weights one by one; those with codebooks for several weights do not."""
    return target.id in core().feedback_types()


def factors_of(
    moments: Moments,
    *,
    damping: float = DAMPING,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> Factors:
    """The factors, written over the moments: of a large model there is no room for both.

    Args:
        moments: not to be used afterwards.
        damping: of the mean second moment, added to each column's; 0 or more.
        n_threads: default all usable processors; the digits do not depend on it.
        monitor: told the groups done.

    Raises:
        OperationCancelled: the monitor or Ctrl-C stopped it.
    """
    if not 0.0 <= damping < np.inf:
        raise ShapeError(f"expected a damping of 0 or more, got {damping}", expected=">= 0", got=str(damping))
    monitor.start("feedback", 0, "groups")
    core().feedback_factors(
        moments.sums, moments.n_per_row, moments.columns, damping, thread_count(n_threads), progress(monitor)
    )
    monitor.finish()
    return Factors(moments.sums, moments.n_per_row, moments.columns)


def round_with_feedback(
    data: Array,
    source: QType,
    shape: MatrixShape,
    target: QType,
    blocks: npt.NDArray[np.uint8],
    factors: Factors,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> None:
    """Choose the integers of encoded rows anew, in place; their scales stay.

    Args:
        data: the rows as they were before, stored as ``source``.
        source: any type ggml can decode.
        shape: (slices, rows, weights per row).
        target: of the blocks; see `takes_feedback`.
        blocks: uint8, from `quantize_blocks`.
        factors: one slice, or as many as ``shape`` has.
        n_threads: default all usable processors; the bytes do not depend on it.
        monitor: told the weights done.

    Raises:
        UnsupportedTypeError: the type takes no feedback.
        NonFiniteError: a NaN or infinity among the weights.
        ShapeError: factors or blocks of rows of another length.
        OperationCancelled: the monitor or Ctrl-C stopped it; the blocks are then of no use.
    """
    if factors.n_per_row != shape[2]:
        raise ShapeError(
            f"the factors are of rows of {factors.n_per_row} weights, these have {shape[2]}",
            expected=str(factors.n_per_row),
            got=str(shape[2]),
        )
    monitor.start("feedback", shape[0] * shape[1] * shape[2], "weights")
    core().round_with_feedback(
        data,
        source.id,
        shape,
        target.id,
        blocks,
        np.ascontiguousarray(factors.values),
        factors.columns,
        thread_count(n_threads),
        progress(monitor),
    )
    monitor.finish()
