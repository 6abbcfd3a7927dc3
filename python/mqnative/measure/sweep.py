"""What each type costs each tensor in weight error, from a sample of rows.

The error of tensor W at a type is e = sum_j v_j dW_j^2 / sum_j v_j W_j^2 with v_j = E[x_j^2] from the
imatrix. Rows are drawn at random until the 95 % interval of e is narrow enough; experts are sampled alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.core.quantize import MatrixShape, RowErrors, row_errors
from mqnative.errors import QuantizeError
from mqnative.formats.qtypes import QType

METRIC_VERSION = 1
TOLERANCE = 0.02
# The first sample: enough rows for a variance, enough weights to drown the overhead.
_FIRST_ROWS = 32
_FIRST_WEIGHTS = 64 * 1024
_Z95 = 1.96


@dataclass(frozen=True)
class TensorError:
    """What a tensor loses at one type.

    Attributes:
        qtype: the type.
        weighted: e as above; the error that predicts damage.
        half_width: relative half-width of its 95 % interval; 0 where every row was taken.
        unweighted: the same with v = 1.
        rmse, max_abs: of dW, in units of the weights; max_abs over the sampled rows.
        cosine: between original and decoded weights, importance-weighted.
        n_rows: rows sampled.
    """

    qtype: str
    weighted: float
    half_width: float
    unweighted: float
    rmse: float
    max_abs: float
    cosine: float
    n_rows: int


@dataclass(frozen=True)
class TensorSweep:
    """A tensor's errors at every type tried.

    Attributes:
        errors: by type.
        energy: sum of v W^2 over the whole tensor, estimated from the sample: turns e into an absolute error.
        importance: energy per weight.
    """

    errors: dict[str, TensorError]
    energy: float
    importance: float


def sweep_tensor(
    data: npt.NDArray[Any],
    source: QType,
    shape: MatrixShape,
    targets: Sequence[str],
    imatrix: npt.NDArray[np.float32] | None,
    *,
    seed: int,
    tolerance: float = TOLERANCE,
    n_threads: int | None = None,
) -> TensorSweep:
    """Measure one tensor at every type in ``targets``.

    Args:
        data: its rows as stored.
        source: the stored type.
        shape: (slices, rows, weights per row).
        targets: legal types.
        imatrix: float32 importances, (slices, weights); None means 1 everywhere.
        seed: decides which rows are drawn; take it from the tensor's content.
        tolerance: relative half-width of the 95 % interval of e to reach.
        n_threads: default all usable processors; figures do not depend on it.

    Raises:
        as `mqnative.row_errors`.
    """
    order = _row_order(shape, seed)
    n_first = max(_FIRST_ROWS, _FIRST_WEIGHTS // shape[2])
    results: dict[str, TensorError] = {}
    open_types = list(targets)
    samples: list[RowErrors] = []
    taken = 0
    energy = 0.0
    while open_types and taken < len(order):
        n_next = min(len(order) - taken, max(n_first, taken))
        rows = order[taken : taken + n_next]
        try:
            sample = row_errors(data, source, shape, open_types, imatrix, rows=rows, n_threads=n_threads)
        except QuantizeError as error:
            # One type overflows on these weights (F16 above 65504, say); the others are still of use.
            if error.qtype not in open_types:
                raise
            open_types.remove(error.qtype)
            continue
        samples.append(sample)
        taken += n_next
        energy = sum(float(s.vw2.sum()) for s in samples) * len(order) / taken
        found = {t: _error_of(t, samples, len(order)) for t in open_types}
        done = [t for t in open_types if found[t].half_width <= tolerance or taken == len(order)]
        results.update({t: found[t] for t in done})
        open_types = [t for t in open_types if t not in done]
    n_weights = shape[0] * shape[1] * shape[2]
    return TensorSweep({t: results[t] for t in targets if t in results}, energy, energy / n_weights)


def _row_order(shape: MatrixShape, seed: int) -> npt.NDArray[np.int64]:
    """Every row once, at random, the slices taking turns: any beginning of it samples all experts alike."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(shape[1]) for _ in range(shape[0])])
    order: npt.NDArray[np.int64] = (rows + np.arange(shape[0])[:, None] * shape[1]).T.ravel()
    return order


def _error_of(qtype: str, samples: list[RowErrors], n_total: int) -> TensorError:
    def rows_of(name: str) -> npt.NDArray[np.float64]:
        return np.concatenate([getattr(s, name)[s.qtypes.index(qtype)] for s in samples])

    d2, vd2, max_abs = rows_of("d2"), rows_of("vd2"), rows_of("max_abs")
    vwq, vq2 = rows_of("vwq"), rows_of("vq2")
    w2 = np.concatenate([s.w2 for s in samples])
    vw2 = np.concatenate([s.vw2 for s in samples])
    n = len(d2)
    norm = float(vw2.sum())
    ratio = float(vd2.sum()) / norm if norm > 0 else 0.0
    spread = float(np.sqrt(norm * float(vq2.sum())))
    return TensorError(
        qtype,
        ratio,
        _half_width(vd2, vw2, ratio, n_total),
        float(d2.sum() / w2.sum()) if w2.sum() > 0 else 0.0,
        float(np.sqrt(d2.sum() / (n * samples[0].n_per_row))),
        float(max_abs.max()),
        float(vwq.sum()) / spread if spread > 0 else 1.0,
        n,
    )


def _half_width(
    vd2: npt.NDArray[np.float64], vw2: npt.NDArray[np.float64], ratio: float, n_total: int
) -> float:
    """Relative half-width of a ratio's 95 % interval, from its linearised variance.

    Source: Cochran (1977), Sampling Techniques, eq. 6.13.
    """
    n = len(vd2)
    if n >= n_total or ratio <= 0:
        return 0.0
    residuals = vd2 - ratio * vw2
    variance = float((residuals**2).sum()) * n / (n - 1) / float(vw2.sum()) ** 2 * (1 - n / n_total)
    return _Z95 * float(np.sqrt(variance)) / ratio
