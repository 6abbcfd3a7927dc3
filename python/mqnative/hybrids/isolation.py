"""What each group of tensors loses by itself, at every pattern that others or plain types have for it.

A sample is the original with one group changed. Samples of one group are compared on the same chunks; those
measured on part of the text are carried to all of it by the ratio to one sample of their group that was
measured on all (double sampling), since what makes a chunk hard is much the same for all of them.

Source of the estimator: Cochran (1977), Sampling Techniques, 12.8 and 12.9, ratio estimation in two phases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mqnative.hybrids.contrast import Weights
from mqnative.measure.uncertainty import Estimate, student_t95

F64Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pattern:
    """Types for the tensors of one group.

    Attributes:
        group: its label.
        name: the first of `sources`.
        sources: every learned config and plain type that comes to exactly these types.
        types: tensor -> type.
        size_bytes: of the group's tensors in a file, padding included.
    """

    group: str
    name: str
    sources: tuple[str, ...]
    types: Mapping[str, str] = field(repr=False)
    size_bytes: int


@dataclass(frozen=True, eq=False)
class Sample:
    """A pattern that was measured by itself.

    Attributes:
        pattern: the types.
        klds: mean KLD of the first chunks of the text, float64, shape (n_chunks,).
        damage: KLD on the whole text, nats per token.
    """

    pattern: Pattern
    klds: F64Vector
    damage: Estimate

    @property
    def name(self) -> str:
        """The pattern's."""
        return self.pattern.name


def patterns_of(
    group: str,
    tensors: Sequence[str],
    mixes: Mapping[str, Mapping[str, str]],
    sizes: Mapping[tuple[str, str], int],
) -> list[Pattern]:
    """The different patterns that mixes have for a group, the smallest first.

    Args:
        group: the group's label.
        tensors: its tensors that may change.
        mixes: name -> types of every tensor; of equal patterns the first name is theirs.
        sizes: (tensor, type) -> bytes.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for name, types in mixes.items():
        found.setdefault(tuple(types[t] for t in tensors), []).append(name)
    patterns = [
        Pattern(
            group,
            names[0],
            tuple(names),
            dict(zip(tensors, types, strict=True)),
            sum(sizes[pair] for pair in zip(tensors, types, strict=True)),
        )
        for types, names in found.items()
    ]
    return sorted(patterns, key=lambda p: (p.size_bytes, p.name))


def leader_of(patterns: Sequence[Pattern]) -> Pattern:
    """The pattern to measure on all of the text: of middle size, so that the others are like it."""
    return patterns[len(patterns) // 2]


def carried(few: F64Vector, leader: F64Vector) -> Estimate:
    """The mean on all chunks of what was measured on the first few.

    Args:
        few: on the first chunks, at least 2.
        leader: of a sample like it on all chunks.

    Returns:
        The ratio estimate; its interval is Student's, with the degrees of the few.
    """
    n, n_all = len(few), len(leader)
    share = n / n_all
    if n == n_all:
        mean = float(few.mean())
        return _student(mean, float(few.std(ddof=1)) / math.sqrt(n), n - 1)
    near, everywhere = float(leader[:n].mean()), float(leader.mean())
    if near <= 0:
        return _student(float(few.mean()), float(few.std(ddof=1)) / math.sqrt(n), n - 1)
    ratio = float(few.mean()) / near
    rests = few - ratio * leader[:n]
    variance = (1.0 - share) * float(rests.var(ddof=1)) / n
    variance += ratio**2 * float(leader.var(ddof=1)) / n_all
    return _student(ratio * everywhere, math.sqrt(variance), n - 1)


def contrast(samples: Mapping[str, F64Vector], weights: Weights) -> Estimate:
    """A weighted sum of samples on the chunks that all of them were measured on, with Student's interval.

    Chunks are dealt at random, so that they are independent.

    Args:
        samples: name -> mean KLD of the first chunks.
        weights: name -> factor.
    """
    n = min(len(samples[name]) for name in weights)
    values = np.sum([factor * samples[name][:n] for name, factor in weights.items()], axis=0)
    error = float(values.std(ddof=1)) / math.sqrt(n)
    return _student(float(values.mean()), error, n - 1)


def _student(mean: float, error: float, degrees: int) -> Estimate:
    half = student_t95(degrees) * error
    return Estimate(mean, error, (mean - half, mean + half))
