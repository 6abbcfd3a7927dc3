"""What a user may ask of a run: a budget, how much effort, and what the mix must hold to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mqnative.jobs.choose import (
    Importance,
)
from mqnative.jobs.fit import Demand
from mqnative.jobs.memory_budget import MemoryBudget
from mqnative.jobs.refinement import MOST_ROUNDS
from mqnative.measure.study import Compute
from mqnative.solve.constraints import NO_CONSTRAINTS, Constraints
from mqnative.solve.limits import Pin
from mqnative.solve.solvers import Settings

PROBE_CHUNKS = 16
PRECISION = 0.1
SELECT_CHUNKS = 8


@dataclass(frozen=True)
class Options:
    """What a user may choose; see `Request` for the meanings.

    Attributes:
        probe_chunks: at most so many for each tensor.
        precision: of a probe; see `mqnative.measure.probes.probe_until`.
        rivals: presets to verify besides the standard ones and the best of at most equal size.
        fast: no probes: weight errors and priors alone.
        refine_rounds: at most so many times moves are measured on the solved mix.
        incumbents: others' mixes (recipes, manifests, models) to measure as rivals.
        like: manifest of a sibling, whose damage table is a prior that a few probes check.
        constraints, method, settings: how the mix is chosen.
        importance: whether tensors are encoded and weighed with the imatrix, without it, or as is better.
        keep_tied: whether a head that is the embedding must stay so.
        memory: a machine that the result must fit.
        gptq: weights are rounded with error feedback, if that does better.
    """

    size_bytes: int | None = None
    bpw: float | None = None
    n_ctx: int = 512
    targets: tuple[str, ...] = ()
    probe_chunks: int = PROBE_CHUNKS
    precision: float = PRECISION
    select_chunks: int = SELECT_CHUNKS
    verify_chunks: int | None = None
    rivals: tuple[str, ...] = ()
    fast: bool = False
    refine_rounds: int = MOST_ROUNDS
    compute: Compute = field(default_factory=Compute)
    incumbents: tuple[Path, ...] = ()
    like: Path | None = None
    constraints: Constraints = NO_CONSTRAINTS
    method: str = "exact"
    settings: Settings = field(default_factory=Settings)
    importance: Importance = "imatrix"
    keep_tied: bool = False
    memory: MemoryBudget | None = None
    gptq: bool = False

    @property
    def demand(self) -> Demand:
        """What is asked of the mix."""
        return Demand(self.size_bytes, self.bpw, self.constraints, self.method, self.settings, self.memory)

    @property
    def measured_types(self) -> tuple[str, ...]:
        """The types whose damage must be known: those allowed, and those pinned; none for all."""
        pinned = (limit.qtype for limit in self.constraints.limits if isinstance(limit, Pin))
        return tuple(dict.fromkeys((*self.targets, *pinned))) if self.targets else ()
