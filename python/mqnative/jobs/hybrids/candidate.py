"""A hybrid that was looked at, and which of those of one size is the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mqnative.hybrids.targets import Target
from mqnative.jobs.hybrids.refine import Round
from mqnative.jobs.hybrids.solved import Solved
from mqnative.predict.damage import Damage

F64Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A hybrid that was looked at.

    Attributes:
        name: until it is published: ``tensor 5342592``.
        solved: its mix.
        predicted: its KLD; None where a type was not measured.
        klds: mean KLD of each select chunk; None: it was not measured.
        patterns: group -> pattern, of those over groups.
        rounds: of refinement.
        said: what became of it.
    """

    name: str
    solved: Solved
    predicted: Damage | None
    klds: F64Vector | None = None
    patterns: Mapping[str, str] = field(default_factory=dict)
    rounds: tuple[Round, ...] = ()
    said: str = ""


def best_of_sizes(candidates: Mapping[str, Candidate], share: float) -> tuple[list[str], dict[str, str]]:
    """The best measured mix of each size.

    Args:
        candidates: by name.
        share: what is smaller than the largest of its size by more is a file of another size.

    Returns:
        The best, those for sizes that were asked for first; and the others, each with the one that is better.
    """
    by_target: dict[Target, list[Candidate]] = {}
    for c in candidates.values():
        if c.klds is not None:
            by_target.setdefault(c.solved.target, []).append(c)
    best: list[Candidate] = []
    beaten: dict[str, str] = {}
    for found in by_target.values():
        least = max(c.solved.size_bytes for c in found) / (1.0 + share)
        same = [c for c in found if c.solved.size_bytes >= least]
        first = min(same, key=_rank)
        beaten |= {c.name: first.name for c in same if c is not first}
        best += [c for c in found if c.name not in beaten]
    best.sort(key=lambda c: c.solved.target.why != "asked")
    return [c.name for c in best], beaten


def _rank(c: Candidate) -> tuple[float, int, str]:
    assert c.klds is not None
    return float(c.klds.mean()), c.solved.size_bytes, c.name
