"""What each type costs each tensor in weight error, from a sample of rows.

The error of tensor W at a type is e = sum_j v_j dW_j^2 / sum_j v_j W_j^2 with v_j = E[x_j^2] from the
imatrix. The denominator is exact. Rows are added until the 95 % interval of e is narrow enough; what the
largest weight of every block tells of every row's error, without encoding it, keeps them few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.core.monitor import Monitor
from mqnative.core.quantize import MatrixShape, RowErrors, error_quantiles, row_errors
from mqnative.errors import QuantizeError
from mqnative.formats.qtypes import QType
from mqnative.measure.row_sample import Regression, RowOrder, Total, rows_needed
from mqnative.measure.weight_error import QUANTILES, TensorError, TensorSweep, pack_histogram

METRIC_VERSION = 3
TOLERANCE = 0.02
# Rows of the first sample: enough for a variance that can be trusted.
_FIRST_ROWS = 32
# Numbers of rows grow by this factor.
_STEP = 1.05
# At most by this one at a time: what a few rows tell of the rows needed is itself unsure.
_MOST_GROWTH = 1.5


Progress = Callable[[float], None]


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
    progress: Progress | None = None,
) -> TensorSweep:
    """Measure one tensor at every type in ``targets``.

    Args:
        data: its rows as stored.
        source: the stored type.
        shape: (slices, rows, weights per row).
        targets: legal types.
        imatrix: float32 importances, (slices, weights); None means 1 everywhere.
        seed: decides which rows are drawn; take it from the tensor's content.
        tolerance: relative half-width of the 95 % interval of e to reach; 0 takes every row.
        n_threads: default all usable processors; figures do not depend on it.
        progress: called with the share of the tensor that is done, and from the calling thread.

    Returns:
        Types that overflow on these weights (F16 above 65504, say) are left out.

    Raises:
        as `mqnative.row_errors`.
    """
    sampler = _Sampler(data, source, shape, imatrix, seed, n_threads)
    tensor = _Tensor(sampler, tuple(targets), progress or _ignore)
    if tolerance <= 0:
        tensor.everything(targets)
    else:
        tensor.sample(targets, tolerance)
    counts = {t: tensor.histogram(t) for t in targets if t in tensor.kept}
    found = {t: tensor.error(t, counts[t]) for t in counts}
    packed = {t: pack_histogram(c) for t, c in counts.items()}
    energy = float(sampler.vw2.sum())
    return TensorSweep(found, energy, energy / (shape[0] * shape[1] * shape[2]), packed)


def _ignore(_share: float) -> None:
    """No one listens."""


class _Sampler:
    """Measures rows of one tensor; knows the energy and the peaks of each."""

    def __init__(
        self,
        data: npt.NDArray[Any],
        source: QType,
        shape: MatrixShape,
        imatrix: npt.NDArray[np.float32] | None,
        seed: int,
        n_threads: int | None,
    ) -> None:
        self._arguments = (data, source, shape)
        self._imatrix = imatrix
        self._n_threads = n_threads
        norms = row_errors(*self._arguments, [], imatrix, n_threads=n_threads)
        self.w2, self.vw2 = norms.w2, norms.vw2
        self.n_weights = shape[0] * shape[1] * shape[2]
        known = np.vstack([norms.vw2, norms.peaks])
        self.order = RowOrder.of(known, shape[0], seed)
        self._known = np.ascontiguousarray(known[:, self.order.rest].T)
        self._known_sums = self._known.sum(axis=0)
        self.n_rest = len(self.order.rest)
        self._regressions: dict[int, Regression] = {}

    def regression(self, n: int) -> Regression:
        """On the first ``n`` rows of the order: types share them."""
        if n not in self._regressions:
            self._regressions[n] = Regression(self._known[:n], self._known_sums, self.n_rest)
        return self._regressions[n]

    def measure(self, types: Sequence[str], rows: npt.NDArray[np.int64], monitor: Monitor) -> RowErrors:
        return row_errors(
            *self._arguments,
            types,
            self._imatrix,
            rows=rows,
            histogram=True,
            n_threads=self._n_threads,
            monitor=monitor,
        )


class _Steps:
    """Turns the progress of measuring some rows at some types into that of the tensor."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.start_share, self.share = 0.0, 1.0
        self._total = 1

    def start(self, _step: str, total: int, _unit: str) -> None:
        self._total = max(1, total)

    def update(self, done: int) -> None:
        self._progress(self.start_share + self.share * done / self._total)

    def finish(self) -> None:
        """Another call may follow."""


class _Tensor:
    """The rows measured so far, type by type; types that cannot encode the tensor drop out."""

    def __init__(self, sampler: _Sampler, types: tuple[str, ...], progress: Progress) -> None:
        self._sampler = sampler
        self._steps = _Steps(progress)
        self._n_types = len(types)
        self.kept = list(types)
        self._samples: dict[str, list[RowErrors]] = {}
        self._certain: dict[str, RowErrors] = {}
        self._taken: dict[str, int] = {}

    def everything(self, targets: Sequence[str]) -> None:
        """Take every row."""
        order = self._sampler.order
        certain = len(order.certain) / (len(order.certain) + len(order.rest))
        self._steps.share = certain
        self.extend(targets, 0)
        self._steps.start_share, self._steps.share = certain, 1 - certain
        self.extend(targets, self._sampler.n_rest)

    def sample(self, targets: Sequence[str], tolerance: float) -> None:
        """Add rows until every type is known well enough; how many a type gets depends on it alone."""
        # A type is done when it is known well enough; how far the others are is not known.
        self._steps.share = 0.0
        self.extend(targets, _FIRST_ROWS)
        open_types = list(self.kept)
        while open_types:
            needed = {t: self._needed(t, tolerance) for t in open_types if t in self.kept}
            open_types = [t for t, n in needed.items() if n > self._taken[t]]
            self._steps.start_share = 1 - len(open_types) / self._n_types
            for n in sorted({needed[t] for t in open_types}):
                self.extend([t for t in open_types if needed[t] == n], n)

    def extend(self, types: Sequence[str], n: int) -> None:
        """Have the first ``n`` rows of the order for these types."""
        new = [t for t in types if t in self.kept and t not in self._taken]
        for t, part in self._measure(new, self._sampler.order.certain).items():
            self._certain[t], self._samples[t], self._taken[t] = part, [], 0
        n = min(n, self._sampler.n_rest)
        wanted = [t for t in types if t in self.kept and self._taken[t] < n]
        for taken in sorted({self._taken[t] for t in wanted}):
            group = [t for t in wanted if self._taken[t] == taken]
            for t, part in self._measure(group, self._sampler.order.rest[taken:n]).items():
                self._samples[t].append(part)
                self._taken[t] = n

    def _measure(self, types: Sequence[str], rows: npt.NDArray[np.int64]) -> dict[str, RowErrors]:
        types = list(types)
        while types:
            try:
                found = self._sampler.measure(types, rows, self._steps)
            except QuantizeError as error:
                # The type overflows on these weights; the others are still of use.
                if error.qtype not in types:
                    raise
                types.remove(error.qtype)
                self.kept.remove(error.qtype)
                continue
            return dict.fromkeys(types, found)
        return {}

    def _rest(self, qtype_: str, figure: str) -> npt.NDArray[np.float64]:
        """A figure of the sampled rows, in the order's order."""
        parts = self._samples[qtype_]
        if not parts:
            return np.zeros(0)
        return np.concatenate([getattr(s, figure)[s.qtypes.index(qtype_)] for s in parts])

    def _certain_sum(self, qtype_: str, figure: str) -> float:
        part = self._certain[qtype_]
        return float(getattr(part, figure)[part.qtypes.index(qtype_)].sum())

    def _total(self, qtype_: str) -> Total:
        """The sum of v dW^2 over the whole tensor."""
        y = self._rest(qtype_, "vd2")
        found = self._sampler.regression(len(y)).total(y)
        return Total(max(0.0, found.value) + self._certain_sum(qtype_, "vd2"), found.half_width)

    def _needed(self, qtype_: str, tolerance: float) -> int:
        total, n, n_rest = self._total(qtype_), self._taken[qtype_], self._sampler.n_rest
        wanted = tolerance * total.value
        if total.half_width <= wanted:
            return n
        more = max(n + 1, min(int(_MOST_GROWTH * n), rows_needed(total.half_width, wanted, n, n_rest)))
        # Few different numbers, so that types that need about as many are measured together.
        steps = np.ceil(np.log(more / _FIRST_ROWS) / np.log(_STEP))
        rounded = int(np.ceil(_FIRST_ROWS * _STEP**steps))
        # The last rows cost less than another look.
        return n_rest if rounded > 0.9 * n_rest else rounded

    def error(self, qtype_: str, counts: npt.NDArray[np.uint64]) -> TensorError:
        """The figures of one type, whose histogram is ``counts``."""
        s, n = self._sampler, self._taken[qtype_]
        total = self._total(qtype_)
        share = s.n_rest / n if n else 0.0

        def whole(figure: str) -> float:
            return self._certain_sum(qtype_, figure) + share * float(self._rest(qtype_, figure).sum())

        d2, energy = whole("d2"), float(s.vw2.sum())
        spread = float(np.sqrt(energy * whole("vq2")))
        largest = [p.max_abs[p.qtypes.index(qtype_)] for p in (self._certain[qtype_], *self._samples[qtype_])]
        return TensorError(
            qtype_,
            total.value / energy if energy > 0 else 0.0,
            total.half_width / total.value if total.value > 0 else 0.0,
            d2 / float(s.w2.sum()) if s.w2.any() else 0.0,
            float(np.sqrt(d2 / s.n_weights)),
            float(np.concatenate(largest).max()),
            min(1.0, whole("vwq") / spread) if spread > 0 else 1.0,
            len(s.order.certain) + n,
            error_quantiles(counts, QUANTILES),
        )

    def histogram(self, qtype_: str) -> npt.NDArray[np.uint64]:
        """Counts of |dW|, the sampled rows standing for the others."""
        counts: npt.NDArray[np.uint64] = _counts(self._certain[qtype_], qtype_).copy()
        parts = [_counts(part, qtype_) for part in self._samples[qtype_]]
        if parts:
            sampled: npt.NDArray[np.uint64] = np.sum(parts, axis=0, dtype=np.uint64)
            bins = np.flatnonzero(sampled)
            scale = self._sampler.n_rest / self._taken[qtype_]
            counts[bins] += np.round(sampled[bins] * scale).astype(np.uint64)
        return counts


def _counts(part: RowErrors, qtype_: str) -> npt.NDArray[np.uint64]:
    assert part.histogram is not None
    counts: npt.NDArray[np.uint64] = part.histogram[part.qtypes.index(qtype_)]
    return counts
