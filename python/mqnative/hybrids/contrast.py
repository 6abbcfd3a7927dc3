"""Which of several mixes is better, judged together: paired differences whose intervals hold all at once.

Whoever compares hundreds of mixes on one text finds some that are better by chance. The intervals here are as
wide as it takes for all of a family to cover the truth with 95 %: chunks are drawn again and again, each time
every difference is put over its own standard error, and the largest of them decides how many standard errors
an interval has. What is clear at that width leaves the family, and the rest is judged again. Mixes that err
on the same tokens deviate together, so that this asks for less than as many independent tests; where it would
ask for more, which very few chunks make it, Bonferroni's bound serves.

Source: Westfall and Young (1993), Resampling-Based Multiple Testing, step-down max-T; Hall (1992), The
Bootstrap and Edgeworth Expansion, percentile-t. Chunks are dealt at random and so are drawn one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.measure.uncertainty import N_RESAMPLES, SEED, Estimate, Verdict, verdict

F64Vector = npt.NDArray[np.float64]
# Name -> factor: the sum of the mixes' KLD times their factors. A difference has 1 and -1.
Weights = Mapping[str, float]

_ERROR_RATE = 0.05
# Below this share of the KLD compared, a deviation is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Family:
    """Contrasts that were judged together.

    Attributes:
        estimates: one for each contrast, in their order: value, standard error, simultaneous 95 % interval.
        critical: half of an interval in standard errors for what is least clear; about 1.96 for a single
            contrast on much text, more for what was decided before it.
    """

    estimates: tuple[Estimate, ...]
    critical: float


def judge_together(klds: Mapping[str, F64Vector], contrasts: Sequence[Weights]) -> Family:
    """Estimate contrasts of KLD with intervals that hold together with 95 %.

    Args:
        klds: mix -> mean KLD of each chunk, nats per token, float64, shape (n_chunks,); the same chunks for
            all.
        contrasts: what to estimate.

    Raises:
        ValueError: the mixes were scored on different numbers of chunks, or on fewer than two.
    """
    lengths = {len(k) for k in klds.values()}
    if len(lengths) > 1 or min(lengths, default=2) < 2:
        raise ValueError(f"expected the same chunks, at least 2, for every mix; got {sorted(lengths)}")
    if not contrasts:
        return Family((), 0.0)
    names = list(klds)
    column = {name: i for i, name in enumerate(names)}
    factors = np.zeros((len(contrasts), len(names)))
    for row, weights in enumerate(contrasts):
        for name, factor in weights.items():
            factors[row, column[name]] += factor
    matrix = np.array([klds[name] for name in names])
    chunks = factors @ matrix
    n = chunks.shape[1]
    values = chunks.mean(axis=1)
    errors = chunks.std(axis=1, ddof=1) / np.sqrt(n)
    errors[errors <= _ROUNDING * (np.abs(factors) @ np.abs(matrix).mean(axis=1))] = 0.0
    widths = np.zeros(len(values))
    moving = errors > 0
    widths[moving] = _critical(chunks[moving], np.abs(values[moving]) / errors[moving])
    half = widths * errors
    return Family(
        tuple(
            Estimate(float(v), float(e), (float(v - h), float(v + h)))
            for v, e, h in zip(values, errors, half, strict=True)
        ),
        float(widths[moving].min()) if moving.any() else 0.0,
    )


def _critical(chunks: npt.NDArray[np.float64], found: F64Vector) -> F64Vector:
    """How many standard errors half of each interval has.

    Step by step: what is decided at one width leaves the family, and the rest needs less.

    Args:
        chunks: float64, shape (n_contrasts, n_chunks).
        found: each contrast's value over its standard error, at least 0.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    n = chunks.shape[1]
    ratios = _resampled(chunks)
    widths = np.zeros(len(found))
    open_ = np.ones(len(found), np.bool_)
    while open_.any():
        largest = ratios[:, open_].max(axis=1)
        width = float(np.percentile(largest, 100.0 * (1.0 - _ERROR_RATE), method="higher"))
        width = min(width, float(stdtrit(n - 1, 1.0 - _ERROR_RATE / (2 * int(open_.sum())))))
        widths[open_] = width
        decided = open_ & (found > width)
        if not decided.any():
            break
        open_ &= ~decided
    return widths


def _resampled(chunks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Deviations of resamples over their own standard errors: float64, shape (n_resamples, n_contrasts)."""
    n = chunks.shape[1]
    counts = _draws(n)
    # About their means, so that the squares below do not cancel.
    centred = chunks - chunks.mean(axis=1)[:, None]
    deviations = counts @ centred.T / n
    variances = (counts @ (centred**2).T / n - deviations**2) / (n - 1)
    usable = variances > _ROUNDING * (centred**2).mean(axis=1)
    ratios: npt.NDArray[np.float64] = np.abs(deviations) / np.sqrt(np.where(usable, variances, 1.0))
    return np.where(usable, ratios, np.inf)


def _draws(n: int) -> npt.NDArray[np.float64]:
    """How often each chunk is drawn in each resample: float64, shape (n_resamples, n)."""
    rng = np.random.default_rng([SEED, n])
    drawn = rng.integers(0, n, (N_RESAMPLES, n))
    counts = np.zeros((N_RESAMPLES, n))
    np.add.at(counts, (np.repeat(np.arange(N_RESAMPLES), n), drawn.ravel()), 1.0)
    return counts


class Contest:
    """All pairs of mixes as one family.

    Args:
        klds: as for `judge_together`.
    """

    def __init__(self, klds: Mapping[str, F64Vector]) -> None:
        self.klds = dict(klds)
        self.means = {name: float(k.mean()) for name, k in klds.items()}
        names = sorted(klds)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        family = judge_together(klds, [{a: 1.0, b: -1.0} for a, b in pairs])
        self.critical = family.critical
        self.n_comparisons = len(pairs)
        self._pairs = dict(zip(pairs, family.estimates, strict=True))

    def difference(self, one: str, other: str) -> Estimate:
        """KLD of ``one`` minus that of ``other``, nats per token; negative if ``one`` is better."""
        if one < other:
            return self._pairs[one, other]
        found = self._pairs[other, one]
        return Estimate(-found.value, found.se, (-found.ci95[1], -found.ci95[0]))

    def verdict(self, one: str, other: str) -> Verdict:
        """What ``one`` is against ``other``."""
        return verdict(self.difference(one, other))
