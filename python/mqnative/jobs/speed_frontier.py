"""Speed against damage at one size: what tokens per second cost in quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.jobs.fit import Case
from mqnative.jobs.speed_model import SpeedModel, speed_model
from mqnative.solve.constraints import Constraints
from mqnative.solve.placed import Capacity, Site, smallest, solve_placed
from mqnative.solve.problem import Problem

N_POINTS = 12


@dataclass(frozen=True)
class SpeedPoint:
    """The least damaging mix of a size that is fast enough.

    Attributes:
        min_tps: tokens per second that were asked for.
        tps: predicted.
        size_bytes: of its file, as the solver counts it.
        damage: predicted, nats per token.
    """

    min_tps: float
    tps: float
    size_bytes: int
    damage: float

    def values(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "min_tps": self.min_tps,
            "predicted_tps": self.tps,
            "size_bytes": self.size_bytes,
            "predicted_kld": self.damage,
        }


def speed_frontier(
    case: Case,
    constraints: Constraints,
    size_bytes: int,
    *,
    n_points: int = N_POINTS,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> list[SpeedPoint]:
    """The best mixes of at most a size, from the least damaging to the fastest.

    Args:
        case: the model and its damages.
        constraints: on types.
        size_bytes: of the whole file.
        n_points: speeds that are asked for, in equal ratios.
        n_threads: that generate; default all usable processors.
        monitor: told the products that are timed.

    Raises:
        InfeasibleConstraintsError, ConstraintError: as `Case.restricted`.
        BackendError: llama.cpp cannot run the model.
    """
    problem = case.restricted(case.header_bytes(), constraints, case.damages.facts()).problem
    types = {name: tuple(by_type) for name, by_type in case.damages.table.items()}
    speed = speed_model(
        case.file, case.damages.tensors, types, case.plan, n_threads=n_threads, monitor=monitor
    )
    return points(problem, speed_site(case, problem, speed), size_bytes, n_points)


def speed_site(case: Case, problem: Problem, speed: SpeedModel) -> Site:
    """Every choice's bytes and seconds on the processor; memory is not looked at."""
    decided = {n for i in problem.items for n in i.uses(i.choices[0])}
    own = {n: t.qtype_name for n, t in case.damages.tensors.items() if n not in decided}
    choices = {
        item.name: np.array(
            [(0, 0, c.size_bytes, speed.products(c.types(item.name))) for c in item.choices],
            np.float64,
        )
        for item in problem.items
    }
    return Site("CPU", 0, 0, speed.token_seconds(own), choices)


def points(problem: Problem, site: Site, size_bytes: int, n_points: int) -> list[SpeedPoint]:
    """The frontier of speed; mixes that are no faster than the one before are left out."""
    best = solve_placed(problem, [site], Capacity(file_bytes=size_bytes), thrift=0.0)
    if best is None:
        return []
    fastest = smallest(problem, site)[3]
    found: list[SpeedPoint] = []
    for level in np.geomspace(best.seconds, fastest, n_points):
        limit = Capacity(file_bytes=size_bytes, seconds=float(level) * (1 + 1e-9))
        placed = solve_placed(problem, [site], limit, thrift=0.0)
        if placed is None:
            break
        point = SpeedPoint(
            1.0 / float(level), 1.0 / placed.seconds, placed.solution.size_bytes, placed.solution.damage
        )
        if not found or point.tps > found[-1].tps:
            found.append(point)
    return found
