"""What types cost a tensor in weight error, as kept and reported."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

QUANTILES = (0.5, 0.9, 0.99, 0.999)


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
        quantiles: |dW| at `QUANTILES`, within 0.8 % and the sample's chance.
    """

    qtype: str
    weighted: float
    half_width: float
    unweighted: float
    rmse: float
    max_abs: float
    cosine: float
    n_rows: int
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True)
class TensorSweep:
    """A tensor's errors at every type tried.

    Attributes:
        errors: by type.
        energy: sum of v W^2 over the whole tensor: turns e into an absolute error.
        importance: energy per weight.
        histograms: by type, packed counts of |dW|; see `unpack_histogram`.
    """

    errors: dict[str, TensorError]
    energy: float
    importance: float
    histograms: dict[str, bytes] = field(default_factory=dict)


def pack_histogram(counts: npt.NDArray[np.uint64]) -> bytes:
    """Counts of |dW|, as `RowErrors.histogram` has them, in a few kilobytes."""
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    header = np.array([len(counts), first], "<u4").tobytes()
    return zlib.compress(header + counts[first:last].astype("<u8").tobytes(), 1)


def unpack_histogram(packed: bytes) -> npt.NDArray[np.uint64]:
    """What `pack_histogram` was given."""
    raw = zlib.decompress(packed)
    n_bins, first = np.frombuffer(raw[:8], "<u4")
    values = np.frombuffer(raw[8:], "<u8")
    counts = np.zeros(n_bins, np.uint64)
    counts[first : first + len(values)] = values
    return counts
