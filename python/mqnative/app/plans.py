"""``--plan``: what each long command is going to do, from its options alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mqnative.app import plan_files, plan_measures, plan_searches
from mqnative.app.plan_steps import Params
from mqnative.jobs.estimate import Plan, kept_shares, priced
from mqnative.jobs.work import Units, calibrate, known_units, machine_of

if TYPE_CHECKING:
    from mqnative.store import Store

_PLANNERS: dict[str, Callable[[Params, Units], Plan | None]] = {
    "auto": plan_searches.auto,
    "demo": plan_searches.demo,
    "solve": plan_searches.solve,
    "frontier": plan_searches.solve,
    "imatrix": plan_measures.imatrix,
    "sweep": plan_measures.sweep,
    "probe": plan_measures.probe,
    "eval": plan_measures.evaluation,
    "compare": plan_measures.compare,
    "build": plan_files.build,
    "clone": plan_searches.clone,
    "fetch": plan_files.fetch,
    "convert": plan_files.convert,
}


def plan_of(
    kind: str, params: Params, store: Store, *, measure: bool = False, besides: int | None = None
) -> Plan | None:
    """What a command is going to do.

    Args:
        kind: the command.
        params: its parameters.
        store: knows what units of work take, and what is measured already.
        measure: whether units may be measured now if they are not known, for about a second.
        besides: the job that the plan is for, whose own steps are to come.

    Returns:
        None if nobody knows how to plan such a command, or such a source.

    Raises:
        GGUFError, SourceError: the model cannot be read.
    """
    planner = _PLANNERS.get(kind)
    if planner is None:
        return None
    device, n_threads = str(params.get("device") or "cpu"), params.get("n_threads")
    machine = machine_of_command(params)
    if measure:
        calibrate(store, machine, device, n_threads)
    costs = store.unit_costs.of(machine)
    units = known_units(costs, n_threads)
    # The hub is asked on request only: a command that begins asks it anyway.
    plan = None if planner is plan_files.fetch and not measure else planner(params, units)
    if plan is None and measure:
        plan = plan_files.until_there(params, units)
    if plan is None:
        return None
    return priced(plan, costs, kept_shares(store, besides), calibrated=units.calibrated)


def machine_of_command(params: Params) -> str:
    """What a command computes with, as unit costs are kept by."""
    return machine_of(str(params.get("device") or "cpu"), params.get("n_threads"))
