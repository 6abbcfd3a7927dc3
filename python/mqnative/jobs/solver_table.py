"""Every solver on the same problem, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mqnative.errors import ConstraintError, InfeasibleBudgetError
from mqnative.jobs.choose import Chosen
from mqnative.jobs.fit import Case, Demand
from mqnative.jobs.presets import Rival
from mqnative.solve.knee import RULES
from mqnative.solve.problem import Solution
from mqnative.solve.solvers import KNEE, PRESET, solve

METHODS = ("exact", "greedy", *(KNEE + rule for rule in RULES), "bins", "uniform")


@dataclass(frozen=True)
class Row:
    """One solver's answer.

    Attributes:
        method: the solver.
        solution: None where it has none.
        bpw: 8 x tensor bytes / weights, padding included.
        problem: why it has none.
    """

    method: str
    solution: Solution | None
    bpw: float | None
    problem: str = ""


def solver_table(case: Case, demand: Demand, chosen: Chosen, presets: Mapping[str, Rival]) -> tuple[Row, ...]:
    """Every solver's answer within the budget that a mix was chosen for.

    Args:
        case: the model and its damages.
        demand: constraints and settings.
        chosen: the mix; its problem is the one that all solve.
        presets: llama.cpp's; those that fit the budget are rows.

    Returns:
        Solvers first, then presets; the least damaging first in each.
    """
    found = chosen.fit
    budget = found.plan.file_bytes if found.budget_bytes is None else found.budget_bytes
    problem = found.restricted.problem
    mixes = {PRESET + r.name: r.types for r in presets.values()}
    settings = replace(demand.settings, mixes=mixes)
    header = problem.fixed_bytes - case.fixed_tensor_bytes()

    def row(method: str, budget_bytes: int | None) -> Row:
        try:
            solution = solve(problem, budget_bytes, method, settings)
        except (ConstraintError, InfeasibleBudgetError) as error:
            return Row(method, None, None, error.message)
        return Row(method, solution, 8.0 * (solution.size_bytes - header) / case.file.n_weights)

    solvers = [row(method, budget) for method in METHODS]
    # By llama-quantize's own file, whose header is a little shorter than ours.
    others = [row(PRESET + r.name, None) for r in presets.values() if r.size_bytes <= budget]
    return (*sorted(solvers, key=_rank), *sorted(others, key=_rank))


def _rank(row: Row) -> tuple[float, str]:
    return (float("inf") if row.solution is None else row.solution.damage, row.method)
