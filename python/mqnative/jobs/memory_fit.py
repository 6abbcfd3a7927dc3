"""A machine as the budget of a mix: from a case to the mix that fits, and what later steps may do to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mqnative.build.header_only import header_only
from mqnative.build.plan import BuildPlan, model_tensors, plan_build
from mqnative.errors import ConstraintError, InfeasibleBudgetError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.jobs.candidates import candidate_types, default_targets
from mqnative.jobs.memory_budget import MemoryBudget, Takes, layouts, placements
from mqnative.jobs.memory_solve import (
    MemoryFit,
    Plan,
    infeasible,
    is_within,
    memory_table,
    small_types,
    solve_memory,
)
from mqnative.jobs.speed_model import SpeedModel, generation_rate, speed_model
from mqnative.solve.placed import Site, fits, pinned
from mqnative.solve.problem import Choice, Item, Problem

if TYPE_CHECKING:
    from mqnative.jobs.fit import Case, Demand, Fit

# A prediction that proves too good is corrected, by a share at most, and the mix solved again, so often at
# most. Where that asks for too much, or for much more than is needed, since the first run fell into a slow
# moment, less is asked for again. A little more than the demand is aimed at: measurements may be lucky.
_SPEED_TRIES = 8
_MARGIN, _ENOUGH = 1.02, 1.1
_MOST_RAISED = 1.5
# Weights that the host keeps are worth about this much of them, before anything is solved.
_HOST_BPW = 8.5


def file_estimate(file: GGUFFile, budget: MemoryBudget, targets: tuple[str, ...] = ()) -> int:
    """The size of the file that will be chosen, about: what anchors are chosen by, before measuring.

    Args:
        file: the source.
        budget: the machine.
        targets: types allowed; none for all.

    Raises:
        InfeasibleBudgetError: nothing fits, even if the imatrix covers every layer.
    """
    if not budget.has_limit:
        return file.file_bytes
    problem, plan = _bare(file, targets)
    layout = layouts(file.path, placements(file, budget)[:1], budget.contexts)[0]
    roomy = [s for s in _sites(file, problem, plan, budget) if fits(problem, s, budget.capacity)]
    if not roomy:
        raise infeasible(file, problem, plan, budget)
    table, tensors = layout.table, layout.use.tensors
    if budget.ram_bytes is not None:
        needed = table.needed(is_host=True) + table.needed(is_host=False)
        return int(min(file.file_bytes, max(0, budget.ram_bytes + (budget.vram_bytes or 0) - needed)))
    there = {t.name for t in tensors if not t.is_host}
    others = sum(file.tensors[t.name].n_weights for t in tensors if t.name not in there) * _HOST_BPW / 8
    assert budget.vram_bytes is not None
    return int(min(file.file_bytes, max(0, budget.vram_bytes - table.needed(is_host=False)) + others))


def _bare(file: GGUFFile, targets: tuple[str, ...]) -> tuple[Problem, Plan]:
    """The choices of every tensor before anything is measured."""
    tensors = model_tensors(file)
    covered = {n: np.ones(1, np.float32) if n.startswith("blk.") else None for n in tensors}
    types = candidate_types(tensors, covered, targets or default_targets())
    items = []
    for name, found in types.items():
        shape = tensors[name].info.shape
        choices = [Choice(t, qtype(t).tensor_bytes(shape), 0.0) for t in (tensors[name].qtype_name, *found)]
        items.append(Item(name, tuple(choices)))
    own = {name: t.qtype_name for name, t in tensors.items()}

    def plan(chosen: Mapping[str, str]) -> BuildPlan:
        return plan_build(file, Recipe(tensors=own | dict(chosen)))

    return Problem(tuple(items), 0), plan


def _sites(file: GGUFFile, problem: Problem, plan: Plan, budget: MemoryBudget) -> list[Site]:
    takes = Takes(file, budget.device)
    with header_only(plan(small_types(problem))) as path:
        found = layouts(path, placements(file, budget), budget.contexts)
    return [takes.site(problem, layout) for layout in found]


def fit_memory(case: Case, demand: Demand, budget: MemoryBudget) -> tuple[MemoryFit, Fit]:
    """The mix that fits a machine, and the same as an ordinary fit for the steps that follow.

    What follows may change only what lies on the device, at no more bytes; `within` has the last word.

    Raises:
        InfeasibleBudgetError: nothing fits.
        ConstraintError: another method than the exact one was asked for, or speed on a GPU.
        InfeasibleConstraintsError: as `Case.restricted`.
    """
    from mqnative.jobs.fit import Fit

    if demand.method != "exact":
        raise ConstraintError(
            f"a machine as the budget needs the exact method; {demand.method} knows sizes only: give it "
            "--size, or leave out --method",
            constraint=f"--method {demand.method}",
        )
    budget = replace(budget, file_bytes=demand.budget_bytes(case.file))
    facts = case.damages.facts()
    found = case.restricted(case.header_bytes(), demand.constraints, facts)
    speed = None if budget.min_tps is None else _speed(case, budget)
    memory = _fast_enough(case, found.problem, budget, speed)
    placed = memory.placed
    kept = replace(
        found, problem=pinned(found.problem, placed, memory.site, is_host=budget.vram_bytes is None)
    )
    size = memory.plan.file_bytes
    return memory, Fit(kept, placed.solution, memory.plan, size, facts)


def _speed(case: Case, budget: MemoryBudget) -> SpeedModel:
    if budget.vram_bytes is not None:
        raise ConstraintError(
            "--min-tps predicts the speed of this machine's processor; leave --vram away",
            constraint="--min-tps",
        )
    types = {name: tuple(by_type) for name, by_type in case.damages.table.items()}
    return speed_model(case.file, case.damages.tensors, types, case.plan, n_threads=budget.n_threads)


def _fast_enough(case: Case, problem: Problem, budget: MemoryBudget, speed: SpeedModel | None) -> MemoryFit:
    """The solution; where speed is demanded, one that has shown it."""
    if speed is None or budget.min_tps is None:
        return solve_memory(case.file, problem, case.plan, budget)
    decided = {n for i in problem.items for n in i.uses(i.choices[0])}
    own = {n: t.qtype_name for n, t in case.damages.tensors.items() if n not in decided}
    seconds = speed.products, speed.token_seconds(own)
    wanted, too_little, too_much = budget.min_tps, 0.0, math.inf
    reached: MemoryFit | None = None
    fastest: MemoryFit | None = None
    highest = 0.0
    for _ in range(_SPEED_TRIES):
        try:
            found = solve_memory(case.file, problem, case.plan, replace(budget, min_tps=wanted), seconds)
        except InfeasibleBudgetError:
            if not too_little:
                raise
            too_much, wanted = wanted, math.sqrt(too_little * wanted)
            continue
        measured = 1.0 / generation_rate(found.plan, n_threads=speed.n_threads).quiet_seconds
        found = replace(found, budget=budget, measured_tps=measured, speed=speed)
        if measured > highest:
            fastest, highest = found, measured
        if measured >= _MARGIN * budget.min_tps:
            reached = found
            if not too_little or measured <= _ENOUGH * budget.min_tps:
                break
            too_much, wanted = wanted, math.sqrt(too_little * wanted)
        else:
            too_little = wanted
            raised = wanted * min(_MOST_RAISED, _MARGIN**2 * budget.min_tps / measured)
            wanted = min(raised, math.sqrt(wanted * too_much))
    if reached is not None:
        return reached
    if fastest is not None and highest >= budget.min_tps:
        return fastest
    raise InfeasibleBudgetError(
        f"no mix was found that reaches {budget.min_tps:g} tokens per second: the fastest that was run "
        f"reached {highest:.1f}; ask for less speed, or allow faster types",
        constraint="--min-tps",
    )


def within(memory: MemoryFit | None, changed: Fit, before: Fit) -> tuple[Fit, MemoryFit | None]:
    """A changed mix, if it keeps to the machine as the one before did; else that one."""
    if memory is None or changed is before:
        return changed, memory
    table = memory_table(changed.plan, memory.placement, memory.context)
    speed, least = memory.speed, memory.budget.min_tps
    is_slow = speed is not None and least is not None and speed.tps(changed.plan.types) < _MARGIN * least
    if is_slow or not is_within(table, memory.budget):
        return before, memory
    return changed, replace(memory, plan=changed.plan, table=table)
