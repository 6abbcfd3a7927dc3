"""The frontier of a model: the best mix of every size, its knees, and where others' mixes lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mqnative.jobs.choose import problem_knees
from mqnative.jobs.fit import Case, Demand
from mqnative.jobs.linking import damage_sum
from mqnative.jobs.presets import Rival
from mqnative.predict.link import Total
from mqnative.solve.constraints import Constraints
from mqnative.solve.distinct import smallest_bytes
from mqnative.solve.exact import solve_exact
from mqnative.solve.frontier import N_POINTS, default_budgets, frontier
from mqnative.solve.knees import Knee

# With a limit on the number of types every point is solved on its own.
_FEW_TYPES_POINTS = 40


@dataclass(frozen=True)
class Point:
    """The best mix within a budget.

    Attributes:
        budget_bytes, size_bytes: whole-file bytes.
        bpw: 8 x tensor bytes / weights, padding included.
        damage: of its tensors, added up.
        gap: proven.
        types: how many tensors have each type.
    """

    budget_bytes: int
    size_bytes: int
    bpw: float
    damage: Total
    gap: float
    types: Mapping[str, int]


@dataclass(frozen=True)
class Placed:
    """Another mix on the same axes.

    Attributes:
        name: a preset's or a candidate's.
        kind: which of the two.
        size_bytes, bpw: of its file.
        damage: of its tensors, added up; None where a type of it was not measured.
        best: damage of the best mix of its size, nats per token; None if none is that small.
    """

    name: str
    kind: str
    size_bytes: int
    bpw: float
    damage: Total | None
    best: float | None


@dataclass(frozen=True)
class Curve:
    """A frontier.

    Attributes:
        points: by size, each better than all smaller ones.
        knees: the first is the one that is taken as a budget.
        placed: presets and candidates.
        n_weights: of the model.
    """

    points: tuple[Point, ...]
    knees: tuple[Knee, ...]
    placed: tuple[Placed, ...]
    n_weights: int


def curve_of(
    case: Case,
    demand: Demand,
    presets: Mapping[str, Rival],
    candidates: Mapping[str, Rival] | None = None,
    *,
    n_points: int = N_POINTS,
) -> Curve:
    """The frontier under a demand's constraints.

    Args:
        case: the model and its damages.
        demand: its constraints; budget and method are not looked at.
        presets: to be placed on it, whether they keep the constraints or not.
        candidates: the same.
        n_points: budgets to solve.

    Raises:
        ConstraintError, InfeasibleConstraintsError: as `Case.restricted`.
    """
    header = case.header_bytes()
    problem = case.restricted(header, demand.constraints, case.damages.facts()).problem
    smallest = smallest_bytes(problem)
    assert smallest is not None  # restricted() has seen to it
    n = n_points if problem.max_types is None else min(n_points, _FEW_TYPES_POINTS)
    budgets = default_budgets(problem, smallest, n)
    found = frontier(problem, budgets)
    n_weights = case.file.n_weights
    points: list[Point] = []
    for budget, solution in zip(budgets, found, strict=True):
        if points and solution.size_bytes <= points[-1].size_bytes:
            continue
        damage = damage_sum(case.damages, solution.types)
        assert damage is not None  # solvers choose among measured types
        bpw = 8.0 * (solution.size_bytes - header) / n_weights
        types = Counter(solution.types.values())
        points.append(
            Point(budget, solution.size_bytes, bpw, damage, solution.gap, dict(types.most_common()))
        )
    kinds = [("preset", r) for r in presets.values()]
    kinds += [("candidate", r) for r in (candidates or {}).values()]
    others = [
        Placed(r.name, kind, r.size_bytes, r.bpw, damage_sum(case.damages, r.types), None)
        for kind, r in kinds
    ]
    free = case.restricted(header, Constraints(), {}).problem
    placed = [
        replace(o, best=solve_exact(free, min(o.size_bytes, free.largest_bytes)).damage)
        if o.size_bytes >= free.smallest_bytes
        else o
        for o in sorted(others, key=lambda o: (o.size_bytes, o.name))
    ]
    return Curve(tuple(points), problem_knees(problem), tuple(placed), n_weights)
