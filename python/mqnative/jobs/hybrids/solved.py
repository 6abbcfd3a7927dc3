"""An exact solution for a size, its file planned to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mqnative.hybrids.targets import Target
from mqnative.jobs.hybrids.ground import Ground
from mqnative.solve.exact import solve_exact
from mqnative.solve.problem import Problem

Level = Literal["tensor", "group"]
# The header's length depends on the mix by a few lines; so many corrections are always enough.
_MOST_TRIES = 12


@dataclass(frozen=True)
class Solved:
    """A mix for a size.

    Attributes:
        target: the size it is for.
        level: whether types were chosen for tensors or patterns for groups.
        problem: what was solved.
        types: of every tensor.
        size_bytes: of the whole file.
        damage: the sum of what was chosen, nats per token.
    """

    target: Target
    level: Level
    problem: Problem = field(repr=False)
    types: Mapping[str, str] = field(repr=False)
    size_bytes: int
    damage: float


def solve_for(ground: Ground, problem: Problem, target: Target, level: Level = "tensor") -> Solved:
    """The least damaging mix whose file, header and all, has at most the target's bytes.

    Raises:
        InfeasibleBudgetError: no mix of the problem does.
    """
    longer = problem
    for _ in range(_MOST_TRIES):
        solution = solve_exact(longer, target.size_bytes)
        plan = ground.plan(solution.types)
        if plan.file_bytes <= target.size_bytes:
            return Solved(target, level, problem, plan.types, plan.file_bytes, solution.damage)
        over = plan.file_bytes - target.size_bytes
        longer = replace(longer, fixed_bytes=longer.fixed_bytes + over)
    raise AssertionError("the header grows without end")
