"""Upstream's statistics of a KLD run, formula by formula.

Source: tools/perplexity/perplexity.cpp, `kl_divergence`, at the pinned commit. Its uncertainties treat
tokens as independent; ours (uncertainty.py) do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MeanError:
    """A mean and upstream's standard error of it."""

    mean: float
    se: float


def mean_and_uncertainty(total: float, total_of_squares: float, n: int) -> MeanError:
    """Mean and sqrt(variance / (n - 1)); 0 uncertainty up to ten values."""
    mean = total / n
    variance = total_of_squares / n - mean * mean
    return MeanError(mean, float(np.sqrt(variance / (n - 1))) if variance > 0 and n > 10 else 0.0)


def of_values(values: npt.NDArray[np.float64]) -> MeanError:
    """Mean and uncertainty of a list of values."""
    return mean_and_uncertainty(float(values.sum()), float((values * values).sum()), values.size)


def of_floats(values: F32Vector) -> MeanError:
    """The same where upstream squares in float32 before it adds in double."""
    squares = (values * values).astype(np.float64)
    return mean_and_uncertainty(float(values.sum(dtype=np.float64)), float(squares.sum()), values.size)


def covariance(a: F32Vector, b: F32Vector) -> float:
    """Covariance of the two means; the products are float32, as upstream's are."""
    n = a.size
    if n < 10:
        return 0.0
    product = float((a * b).astype(np.float64).sum())
    mean_product = float(a.sum(dtype=np.float64)) / n * (float(b.sum(dtype=np.float64)) / n)
    return (product / n - mean_product) / (n - 1)


def percentile(sorted_values: F32Vector, fraction: float) -> float:
    """Upstream's percentile of sorted float32 values: linear between neighbours, position in float32."""
    position = np.float32(fraction) * np.float32(sorted_values.size - 1)
    index = int(position)
    rest = np.float32(position - np.float32(index))
    after = min(index + 1, sorted_values.size - 1)
    return float((1 - rest) * sorted_values[index] + rest * sorted_values[after])


def median(sorted_values: F32Vector) -> float:
    """Upstream's median of sorted float32 values."""
    n = sorted_values.size
    if n % 2:
        return float(sorted_values[n // 2])
    return float(np.float32(0.5) * (sorted_values[n // 2] + sorted_values[n // 2 - 1]))
