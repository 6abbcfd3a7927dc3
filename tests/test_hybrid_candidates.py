"""Which of the mixes that were solved for one size is the candidate."""

from __future__ import annotations

import numpy as np

from mqnative.hybrids.targets import Target
from mqnative.jobs.hybrids.candidate import Candidate, best_of_sizes
from mqnative.jobs.hybrids.solved import Level, Solved
from mqnative.solve.problem import Problem


def candidate(name: str, target: Target, size: int, kld: float | None, level: Level = "tensor") -> Candidate:
    klds = None if kld is None else np.full(4, kld)
    return Candidate(name, Solved(target, level, Problem((), 0), {}, size, 0.0), None, klds)


def test_of_mixes_for_one_size_the_best_is_the_candidate() -> None:
    at, asked = Target(1000, "at", ("a",)), Target(2000, "asked")
    found = {
        c.name: c
        for c in (
            candidate("t1", at, 1000, 0.5),
            candidate("g1", at, 995, 0.4, "group"),
            candidate("small", at, 900, 0.9, "group"),  # so much smaller that it is a file of another size
            candidate("t2", asked, 1999, 0.2),
            candidate("g2", asked, 1998, 0.2, "group"),
            candidate("unmeasured", asked, 2000, None),
        )
    }
    best, beaten = best_of_sizes(found, 0.01)
    # What was asked for comes first; of equal ones the smaller.
    assert best == ["g2", "g1", "small"]
    assert beaten == {"t1": "g1", "t2": "g2"}
