"""Rows to blocks and back, and what is lost on the way: NumPy arrays over ggml's own kernels.

Arrays are C-contiguous, rows last: ``(rows, weights)`` or ``(experts, rows, weights)``. They are never copied
silently. bfloat16 travels as uint16 bits (``bf16_bits``) under the source type BF16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, thread_count
from mqnative.errors import ShapeError
from mqnative.formats.qtypes import QType, qtype

Array = npt.NDArray[Any]
MatrixShape = tuple[int, int, int]

# Of floats: the unsigned integer that holds one, and its exponent bits, all set in an infinity or a NaN.
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
_SOURCE_TYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.uint16): "BF16"}


def source_type(array: Array) -> QType:
    """The ggml type of a float array: float32, float16, or uint16 holding bfloat16 bits.

    Raises:
        ShapeError: another dtype; nothing is converted silently.
    """
    name = _SOURCE_TYPES.get(array.dtype)
    if name is None:
        raise ShapeError(
            f"expected float32, float16 or uint16 (bfloat16 bits), got {array.dtype}; convert it first",
            expected="float32, float16 or uint16",
            got=str(array.dtype),
        )
    return qtype(name)


def matrix_shape(array: Array) -> MatrixShape:
    """(slices, rows, weights per row) of a 1-D, 2-D or 3-D array."""
    if array.ndim not in (1, 2, 3) or not array.size:
        raise ShapeError(
            f"expected (rows, weights) or (experts, rows, weights), got {array.shape}",
            expected="1 to 3 dimensions, none empty",
            got=str(array.shape),
        )
    padded = (1,) * (3 - array.ndim) + array.shape
    return padded[0], padded[1], padded[2]


def quantize(
    x: Array,
    target: str,
    imatrix: npt.NDArray[np.float32] | None = None,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> npt.NDArray[np.uint8]:
    """Encode float rows as ggml blocks, byte for byte as llama-quantize does.

    Args:
        x: float32, float16 or uint16 (bfloat16 bits), shape (rows, weights) or (experts, rows, weights).
        target: a type that ggml can write, in any case (``"Q4_K"``).
        imatrix: float32 importances, shape (weights,) or (experts, weights), finite and >= 0.
        n_threads: default all usable processors; the bytes do not depend on it.
        monitor: told the weights done.

    Returns:
        uint8, the shape of ``x`` with the last axis in bytes.

    Raises:
        UnsupportedTypeError: unknown type, no encoder, or rows that do not fill blocks.
        NonFiniteError: a NaN or infinity among the weights; row and slice are named.
        ImatrixError: importances missing where the type needs them, or unusable.
        ShapeError: wrong dtype, shape or memory layout.
        OperationCancelled: the monitor or Ctrl-C stopped it.

    Source: ggml_quantize_chunk (ggml.c), driven as llama_tensor_quantize_impl (llama-quant.cpp) does.
    """
    return quantize_blocks(
        x, source_type(x), matrix_shape(x), qtype(target), imatrix, n_threads=n_threads, monitor=monitor
    ).reshape(*x.shape[:-1], -1)


def quantize_blocks(
    data: Array,
    source: QType,
    shape: MatrixShape,
    target: QType,
    imatrix: npt.NDArray[np.float32] | None = None,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> npt.NDArray[np.uint8]:
    """Encode rows stored as ``source`` (any type ggml can decode) as ``target``; 1-D uint8.

    The general form of `quantize`, for tensors that lie in a GGUF. Raises the same.
    """
    out = np.empty(shape[0] * shape[1] * target.row_bytes(shape[2]), np.uint8)
    flat = _flat_importances(imatrix, shape)
    monitor.start(f"quantize to {target.name}", shape[0] * shape[1] * shape[2], "weights")
    core().quantize(data, source.id, shape, target.id, out, flat, thread_count(n_threads), progress(monitor))
    monitor.finish()
    return out


def dequantize(
    blocks: npt.NDArray[np.uint8],
    source: str,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> npt.NDArray[np.float32]:
    """Decode ggml blocks to float32.

    Args:
        blocks: uint8, rows last, the last axis a whole number of blocks.
        source: the blocks' type.
        n_threads: default all usable processors.
        monitor: told the weights done.

    Returns:
        float32, the shape of ``blocks`` with the last axis in weights.

    Raises:
        UnsupportedTypeError: unknown type, or one that ggml cannot decode.
        ShapeError: the last axis does not hold whole blocks, or the layout is not C-contiguous.
    """
    stored = qtype(source)
    n_slices, n_rows, row_bytes = matrix_shape(blocks)
    if row_bytes % stored.block_bytes:
        raise ShapeError(
            f"rows of {row_bytes} bytes are not whole {stored.name} blocks of {stored.block_bytes}",
            expected=f"a multiple of {stored.block_bytes} bytes",
            got=str(row_bytes),
        )
    n_per_row = row_bytes // stored.block_bytes * stored.block
    out = np.empty((*blocks.shape[:-1], n_per_row), np.float32)
    monitor.start(f"dequantize {stored.name}", out.size, "weights")
    core().dequantize(
        blocks, stored.id, (n_slices, n_rows, n_per_row), out, thread_count(n_threads), progress(monitor)
    )
    monitor.finish()
    return out


def _flat_importances(
    imatrix: npt.NDArray[np.float32] | None, shape: MatrixShape
) -> npt.NDArray[np.float32] | None:
    """The importances of every slice one after the other.

    Raises:
        ShapeError: neither (slices, weights) nor the same flat.
    """
    if imatrix is None:
        return None
    expected = (shape[0], shape[2])
    if imatrix.dtype != np.float32 or imatrix.shape not in (expected, (shape[0] * shape[2],)):
        raise ShapeError(
            f"expected float32 importances of shape {expected}, got {imatrix.dtype} of {imatrix.shape}",
            expected=str(expected),
            got=f"{imatrix.dtype} {imatrix.shape}",
        )
    return imatrix.reshape(-1)


def _row_numbers(rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
    given = np.asarray(rows)
    if given.size and given.dtype.kind not in "iu":
        raise ShapeError(
            f"row numbers are integers, got {given.dtype}", expected="integers", got=str(given.dtype)
        )
    return np.ascontiguousarray(given, np.int64)


def validate_blocks(blocks: npt.NDArray[np.uint8], target: QType) -> bool:
    """Whether the floats, or the scales of the blocks, are finite (ggml_validate_row_data)."""
    # ggml would write to standard error about floats.
    if target.name in _EXPONENTS:
        code, exponent = _EXPONENTS[target.name]
        return not bool((blocks.reshape(-1).view(code) & exponent == exponent).any())
    return bool(core().validate_rows(blocks, target.id))


def progress(monitor: Monitor) -> Any:
    """The callback that the compiled module calls ten times a second; None where no one listens."""
    if monitor is NULL_MONITOR:
        return None
    return lambda done, _total: monitor.update(done)


@dataclass(frozen=True)
class RowErrors:
    """What rows lose at each of several types; see `row_errors`.

    Attributes:
        qtypes: the types, in the order of the first axis.
        rows: int64, shape (n_rows,): row numbers over all slices.
        d2, vd2, max_abs, wq, q2, vwq, vq2: float64, shape (n_types, n_rows): sums over the row of d^2, v d^2,
            max |d|, w q, q^2, v w q, v q^2, for weights w, their decoded copies q, d = q - w, importances v.
        w2, vw2: float64, shape (n_rows,): sums of w^2 and v w^2.
        peaks: float64, shape (3, n_rows): sums over blocks of 16, 32 and 256 weights of (max w^2) (sum v).
            Types scale their blocks by the largest weight, so that errors go with these.
        n_per_row: weights per row.
        histogram: uint64, shape (n_types, n_bins), counts of |d|, if asked for; see
            `error_quantile`.
    """

    qtypes: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    d2: npt.NDArray[np.float64]
    vd2: npt.NDArray[np.float64]
    max_abs: npt.NDArray[np.float64]
    wq: npt.NDArray[np.float64]
    q2: npt.NDArray[np.float64]
    vwq: npt.NDArray[np.float64]
    vq2: npt.NDArray[np.float64]
    w2: npt.NDArray[np.float64]
    vw2: npt.NDArray[np.float64]
    peaks: npt.NDArray[np.float64]
    n_per_row: int
    histogram: npt.NDArray[np.uint64] | None


def row_errors(
    data: Array,
    source: QType,
    shape: MatrixShape,
    targets: Sequence[str],
    imatrix: npt.NDArray[np.float32] | None = None,
    *,
    rows: npt.NDArray[np.int64] | None = None,
    histogram: bool = False,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> RowErrors:
    """Encode and decode rows at many types and sum what each row loses.

    Args:
        data: rows stored as ``source``, C-contiguous.
        source: any type ggml can decode.
        shape: (slices, rows, weights per row).
        targets: types to try; all must be legal for the row length.
        imatrix: float32 importances, (slices, weights) or flat; None means 1 for every weight.
        rows: int64 row numbers over all slices (slice * n_rows + row); default every row.
        histogram: also count the errors' sizes, for quantiles.
        n_threads: default all usable processors; the sums do not depend on it.
        monitor: told weights times types done.

    Raises:
        The same as `quantize`.
    """
    wanted = [qtype(name) for name in targets]
    numbers = np.arange(shape[0] * shape[1]) if rows is None else _row_numbers(rows)
    flat = _flat_importances(imatrix, shape)
    monitor.start("weight errors", len(numbers) * shape[2] * len(wanted), "weights")
    errors, norms, bins = core().row_errors(
        data,
        source.id,
        shape,
        numbers,
        [t.id for t in wanted],
        flat,
        histogram,
        thread_count(n_threads),
        progress(monitor),
    )
    monitor.finish()
    names = ("d2", "vd2", "max_abs", "wq", "q2", "vwq", "vq2")
    return RowErrors(
        qtypes=tuple(t.name for t in wanted),
        rows=numbers,
        w2=np.ascontiguousarray(norms[:, 0]),
        vw2=np.ascontiguousarray(norms[:, 1]),
        peaks=np.ascontiguousarray(norms[:, 2:].T),
        n_per_row=shape[2],
        histogram=bins if histogram else None,
        **{name: np.ascontiguousarray(errors[:, :, i]) for i, name in enumerate(names)},
    )


@dataclass(frozen=True)
class QuantizationError:
    """How well a tensor survives one type; every figure without ``weighted`` counts all weights alike.

    Attributes:
        qtype: the type.
        mse, rmse, max_abs: of d = decoded - original, in units of the weights.
        relative: sum d^2 / sum w^2. ``weighted_relative`` = sum v d^2 / sum v w^2 with importances v.
        weighted_mse: sum v d^2 / sum v.
        cosine, weighted_cosine: between original and decoded weights.
        quantiles: |d| at the fractions asked for, within 0.8 %.
    """

    qtype: str
    mse: float
    rmse: float
    max_abs: float
    relative: float
    cosine: float
    weighted_mse: float
    weighted_relative: float
    weighted_cosine: float
    quantiles: dict[float, float]


def quantization_error(
    x: Array,
    targets: Sequence[str],
    imatrix: npt.NDArray[np.float32] | None = None,
    *,
    quantiles: Sequence[float] = (0.5, 0.9, 0.99, 0.999),
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> dict[str, QuantizationError]:
    """What ``x`` loses at each of ``targets``: arguments, layout and errors as in `quantize`."""
    shape = matrix_shape(x)
    found = row_errors(
        x, source_type(x), shape, targets, imatrix, histogram=True, n_threads=n_threads, monitor=monitor
    )
    v_total = x.size if imatrix is None else float(imatrix.sum(dtype=np.float64)) * shape[1]
    return {name: _summary(found, i, v_total, quantiles) for i, name in enumerate(found.qtypes)}


def _summary(e: RowErrors, i: int, v_total: float, quantiles: Sequence[float]) -> QuantizationError:
    n = len(e.rows) * e.n_per_row
    d2, vd2 = e.d2[i].sum(), e.vd2[i].sum()
    w2, vw2 = e.w2.sum(), e.vw2.sum()
    assert e.histogram is not None
    return QuantizationError(
        qtype=e.qtypes[i],
        mse=d2 / n,
        rmse=float(np.sqrt(d2 / n)),
        max_abs=float(e.max_abs[i].max()),
        relative=_ratio(d2, w2),
        cosine=_ratio(e.wq[i].sum(), np.sqrt(w2 * e.q2[i].sum())),
        weighted_mse=_ratio(vd2, v_total),
        weighted_relative=_ratio(vd2, vw2),
        weighted_cosine=_ratio(e.vwq[i].sum(), np.sqrt(vw2 * e.vq2[i].sum())),
        quantiles={q: error_quantile(e.histogram[i], q) for q in quantiles},
    )


def _ratio(a: float, b: float) -> float:
    """A / b; 0 / 0 is 0, so that an all-zero tensor loses nothing."""
    return float(a / b) if b else 0.0


def error_quantile(histogram: npt.NDArray[np.uint64], fraction: float) -> float:
    """The |d| below which ``fraction`` of the weights lie; see `error_quantiles`."""
    return error_quantiles(histogram, (fraction,))[0]


def error_quantiles(histogram: npt.NDArray[np.uint64], fractions: Sequence[float]) -> tuple[float, ...]:
    """The |d| below which these fractions of the weights lie, from a row of `RowErrors.histogram`.

    A bin holds the floats that share their upper bits, 64 bins to the octave; its geometric middle is
    returned, so that a figure is within 0.8 %.
    """
    filled = np.flatnonzero(histogram)
    if not len(filled):
        return tuple(0.0 for _ in fractions)
    below = np.cumsum(histogram[filled])
    ranks = np.maximum(1, np.ceil(np.array(fractions) * float(below[-1])))
    low, high = error_bin_edges(filled[np.minimum(np.searchsorted(below, ranks), len(filled) - 1)])
    return tuple(float(np.sqrt(a * b)) for a, b in zip(low, high, strict=True))


def error_bin_edges(
    bins: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The lowest and the highest |d| of bins of `RowErrors.histogram`."""
    shift, first = core().error_bin_shift, bins.astype(np.uint32)
    edges = [(b << shift).astype(np.uint32).view(np.float32).astype(np.float64) for b in (first, first + 1)]
    return edges[0], edges[1]
