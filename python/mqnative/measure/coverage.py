"""What an importance matrix covers: how its importances are spread, and which experts no token reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mqnative.formats.imatrix import Imatrix, ImatrixEntry

ACTIVE_ABOVE = np.float32(1e-5)
"""A column with a mean square above this is active (tools/imatrix/imatrix.cpp, `compute_statistics`)."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The quantiles of counts per expert that are reported: least, quartiles, most."""


@dataclass(frozen=True)
class ImportanceStatistics:
    """How the importances of one tensor are spread over the columns of the slices that saw data.

    Attributes:
        n_values: columns of these slices together.
        total: sum of the importances (mean squared activations).
        minimum, maximum, mean, std: of the importances; std divides by n_values.
        active_share: share of importances above ACTIVE_ABOVE, 0 to 1.
        entropy_bits: entropy of the importances as parts of their total; 0 if they are all 0.
        entropy_share: entropy_bits / log2(n_values): 1 if all columns matter alike; 0 for one column.
        z_density: share of importances more than one std above the mean, 0 to 1.
    """

    n_values: int
    total: float
    minimum: float
    maximum: float
    mean: float
    std: float
    active_share: float
    entropy_bits: float
    entropy_share: float
    z_density: float


@dataclass(frozen=True)
class ExpertCounts:
    """How often the experts of one tensor were reached.

    Attributes:
        n_experts: all of them.
        unseen: numbers of those that no token reached, ascending; `ImatrixEntry.weights` gives them ones.
        count_quantiles: of the counts per expert, at QUANTILES, interpolated.
    """

    n_experts: int
    unseen: tuple[int, ...]
    count_quantiles: tuple[float, ...]


@dataclass(frozen=True)
class TensorCoverage:
    """One tensor of the matrix.

    Attributes:
        name: the tensor's GGUF name.
        importances: None if no slice saw any data.
        experts: None unless the slices are counted apart, as legacy files cannot.
    """

    name: str
    importances: ImportanceStatistics | None
    experts: ExpertCounts | None


@dataclass(frozen=True)
class Coverage:
    """What a whole matrix covers.

    Attributes:
        tensors: every tensor of the matrix, by name.
        without_data: tensors of the matrix that saw nothing, and expected ones that it lacks, by name.
    """

    tensors: tuple[TensorCoverage, ...]
    without_data: tuple[str, ...]

    @property
    def unseen_experts(self) -> dict[str, tuple[int, ...]]:
        """Per tensor with such, the numbers of the experts that no token reached."""
        return {t.name: t.experts.unseen for t in self.tensors if t.experts and t.experts.unseen}


def coverage(imatrix: Imatrix, expected: Iterable[str] = ()) -> Coverage:
    """What ``imatrix`` covers; ``expected`` are tensor names that should have data.

    Accuracy: importances are the float32 bits that a quantizer sees; their statistics are computed in
    float64, where llama-imatrix's ``--show-statistics`` sums in float32.
    """
    tensors = tuple(
        TensorCoverage(name, importance_statistics(entry), expert_counts(entry))
        for name, entry in sorted(imatrix.entries.items())
    )
    with_data = {t.name for t in tensors if t.importances}
    without = (imatrix.entries.keys() | set(expected)) - with_data
    return Coverage(tensors, tuple(sorted(without)))


def importance_statistics(entry: ImatrixEntry) -> ImportanceStatistics | None:
    """Statistics of an entry's importances over the slices that saw data; None if none did.

    Source: tools/imatrix/imatrix.cpp, `compute_statistics`, at the pinned commit.
    """
    importances = entry.weights()[entry.slice_counts() > 0].ravel()
    if not importances.size:
        return None
    values = importances.astype(np.float64)
    n, total, mean, std = values.size, float(values.sum()), float(values.mean()), float(values.std())
    parts = values[values > 0] / total
    entropy = float(-(parts * np.log2(parts)).sum()) + 0.0  # no -0.0 for a single part
    return ImportanceStatistics(
        n_values=n,
        total=total,
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=mean,
        std=std,
        active_share=float((importances > ACTIVE_ABOVE).mean()),
        entropy_bits=entropy,
        entropy_share=entropy / float(np.log2(n)) if n > 1 else 0.0,
        z_density=float(((values - mean) / std > 1.0).mean()) if std > 0 else 0.0,
    )


def expert_counts(entry: ImatrixEntry) -> ExpertCounts | None:
    """How often each expert was reached; None if the entry does not count its slices apart."""
    if entry.counts.size == 1:
        return None
    return ExpertCounts(
        n_experts=entry.counts.size,
        unseen=tuple(int(i) for i in np.flatnonzero(entry.counts == 0)),
        count_quantiles=tuple(float(q) for q in np.quantile(entry.counts.astype(np.float64), QUANTILES)),
    )
