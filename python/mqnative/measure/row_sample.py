"""Which rows of a tensor are measured, and what its total is, judging by them.

Unusual rows are all taken; the rest is drawn at random, slice by slice in turn, so that all experts are
sampled alike. Totals are regression estimates: what is known of every row (its energy, the largest weights
of its blocks) explains most of what rows differ in.

Source: Cochran (1977), Sampling Techniques, chapters 5 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.measure.uncertainty import student_t95

F64Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

# A row of this many times the mean of something known is always taken, but not more than this share of all.
_UNUSUAL = 3.0
_UNUSUAL_SHARE = 1 / 8


@dataclass(frozen=True, eq=False)
class RowOrder:
    """Every row of a tensor once.

    Attributes:
        certain: int64, the rows that are always measured.
        rest: int64, the others in random order: any beginning of it is a sample.
    """

    certain: Rows
    rest: Rows

    @classmethod
    def of(cls, known: F64Array, n_slices: int, seed: int) -> RowOrder:
        """The order for rows of which ``known`` is known, shape (figures, n_slices * rows)."""
        n_all = known.shape[1]
        n_rows = n_all // n_slices
        rng = np.random.default_rng(seed)
        # One row of every slice, slices in random order; then another one of every slice; ...
        within = np.stack([rng.permutation(n_rows) for _ in range(n_slices)])
        turns = np.stack([rng.permutation(n_slices) for _ in range(n_rows)])
        order = (turns * n_rows + within[turns, np.arange(n_rows)[:, None]]).ravel().astype(np.int64)
        means = known.mean(axis=1, keepdims=True)
        size = np.divide(known, means, out=np.zeros_like(known), where=means > 0).max(axis=0)
        unusual = np.flatnonzero(size > _UNUSUAL)
        unusual = unusual[np.argsort(-size[unusual], kind="stable")][: int(n_all * _UNUSUAL_SHARE)]
        return cls(np.sort(unusual).astype(np.int64), order[~np.isin(order, unusual)])


@dataclass(frozen=True)
class Total:
    """An estimated sum over rows, and half of its 95 % interval."""

    value: float
    half_width: float


class Regression:
    """What a random sample of rows tells of the sum over ``n_total`` rows, for any figure of the sample.

    The regression estimate with an intercept; infinitely unsure with no more rows than it has terms.

    Args:
        known: shape (n, p): figures of the sampled rows whose sums over all rows are known.
        known_sums: shape (p,).
        n_total: rows in all.

    Source: Saerndal, Swensson and Wretman (1992), section 6.6; the leverage correction HC3 is of MacKinnon
    and White (1985).
    """

    def __init__(self, known: F64Array, known_sums: F64Array, n_total: int) -> None:
        n = len(known)
        self._n, self._n_total = n, n_total
        self._degrees = 0
        if n in (0, n_total):
            return
        # A figure that is 0 everywhere explains nothing; the others are scaled alike.
        useful = known_sums > 0
        design = np.ones((n, 1 + int(useful.sum())))
        design[:, 1:] = known[:, useful] / (known_sums[useful] / n_total)
        u, sizes, v = np.linalg.svd(design, full_matrices=False)
        kept = sizes > sizes[0] * 1e-9
        self._degrees = n - int(kept.sum())
        self._u = u[:, kept]
        # The weight with which each sampled row stands for all; every figure's mean over all rows is 1.
        self._g = self._u @ (v[kept].sum(axis=1) / sizes[kept])
        # Rows that pull the fit towards themselves leave residuals that are too small.
        leverage = np.minimum((self._u**2).sum(axis=1), 0.99)
        self._spread = self._g**2 / (1 - leverage) ** 2 * (1 - n / n_total)
        self._quantile = student_t95(self._degrees) if self._degrees > 0 else np.inf

    def total(self, y: F64Array) -> Total:
        """The sum over all rows of what is ``y``, shape (n,), in the sampled ones."""
        if self._n == self._n_total:
            return Total(float(y.sum()), 0.0)
        if self._degrees <= 0:
            return Total(float(y.mean()) * self._n_total if self._n else 0.0, np.inf)
        residuals = y - self._u @ (self._u.T @ y)
        error = np.sqrt(float(self._spread @ residuals**2))
        return Total(float(self._g @ y) * self._n_total, float(self._quantile * error) * self._n_total)


def rows_needed(half_width: float, wanted: float, n: int, n_total: int) -> int:
    """Rows to sample for an interval that narrow, if ``n`` of ``n_total`` give ``half_width``."""
    if not np.isfinite(half_width):
        return n_total
    if half_width <= wanted:
        return n
    # Without the correction for sampling from finitely many rows, width goes with 1 / sqrt(n).
    endless = n * (half_width / wanted) ** 2 / (1 - n / n_total)
    return min(n_total, int(np.ceil(endless / (1 + endless / n_total))))
