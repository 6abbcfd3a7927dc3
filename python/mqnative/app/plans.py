"""``--plan``: what each long command is going to do, from its options alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mqnative.app import plan_files, plan_measures, plan_searches
from mqnative.app.models import hub_access
from mqnative.app.plan_steps import Params
from mqnative.jobs.ahead import Ahead, look_ahead
from mqnative.jobs.estimate import Plan, Planned, kept_shares, priced
from mqnative.jobs.work import Units, calibrate, known_units, machine_of
from mqnative.source.argument import GGUFPath, parse_source

if TYPE_CHECKING:
    from mqnative.source.fetch import Choice
    from mqnative.store import Store

# What is planned by the header of a GGUF, which may be one that is still to come.
_PLANNERS: dict[str, Callable[[Params, Units], Plan | None]] = {
    "auto": plan_searches.auto,
    "demo": plan_searches.demo,
    "solve": plan_searches.solve,
    "frontier": plan_searches.solve,
    "hybrids": plan_searches.hybrids,
    "imatrix": plan_measures.imatrix,
    "sweep": plan_measures.sweep,
    "probe": plan_measures.probe,
    "eval": plan_measures.evaluation,
    "compare": plan_measures.compare,
    "build": plan_files.build,
    "clone": plan_searches.clone,
}
# Their parameter that names the model, where it is not called so.
_MODELS = {"compare": "reference"}
_UNTOLD = "of what follows nothing can be told before the model is a GGUF here"


def plan_of(
    kind: str,
    params: Params,
    store: Store,
    *,
    measure: bool = False,
    ask: bool = False,
    choice: Choice | None = None,
    besides: int | None = None,
) -> Plan | None:
    """What a command is going to do.

    Args:
        kind: the command.
        params: its parameters.
        store: knows what units of work take, and what is measured already.
        measure: whether units may be measured now if they are not known, for about a second.
        ask: whether the hub may be asked, and the headers of checkpoints be read.
        choice: what was found on the hub already.
        besides: the job that the plan is for, whose own steps are to come.

    Returns:
        None if nobody knows how to plan such a command, or such a source.

    Raises:
        GGUFError, SourceError, HubError: the model cannot be read, or not be had.
    """
    if kind not in (*_PLANNERS, "fetch", "convert"):
        return None
    device, n_threads = str(params.get("device") or "cpu"), params.get("n_threads")
    machine = machine_of_command(params)
    if measure:
        calibrate(store, machine, device, n_threads)
    costs = store.unit_costs.of(machine)
    units = known_units(costs, n_threads)
    plan = _raw_plan(kind, params, store, units, ask=ask, choice=choice)
    if plan is None:
        return None
    return priced(plan, costs, kept_shares(store, besides), calibrated=units.calibrated)


def _raw_plan(
    kind: str, params: Params, store: Store, units: Units, *, ask: bool, choice: Choice | None
) -> Plan | None:
    """The steps in units of work: those until the model is there, and those of the command."""
    model = plan_files.source_of(kind, params)
    if model is None:
        return _PLANNERS[kind](params, units) if kind in _PLANNERS else None
    if not ask and not isinstance(parse_source(model), GGUFPath):
        return None
    if kind == "fetch":
        return plan_files.fetch(params, units, choice)
    access = hub_access()
    access = replace(access, offline=access.offline or bool(params.get("offline")))
    with look_ahead(model, units, access, choice) as ahead:
        if kind == "convert":
            return plan_files.convert(params, units, ahead)
        if ahead.path is None:
            return Plan(ahead.steps, (*ahead.notes, _UNTOLD))
        plan = _PLANNERS[kind](with_model(kind, params, ahead.path), units)
        if plan is None:
            return None
        steps = (*ahead.steps, *_hashing(ahead, store, units), *plan.steps)
        return replace(plan, steps=steps, notes=(*ahead.notes, *plan.notes))


def with_model(kind: str, params: Params, path: Path) -> Params:
    """The parameters of a command whose model is there now."""
    return {**params, _MODELS.get(kind, "model"): path}


def until_there(plan: Plan) -> tuple[Planned, ...]:
    """The steps of a plan before the model is a GGUF on this machine."""
    return tuple(s for s in plan.steps if s.name == "convert" or s.name.startswith("download "))


def _hashing(ahead: Ahead, store: Store, units: Units) -> tuple[Planned, ...]:
    """A model is read once to know it by its hash, which the store remembers."""
    path = ahead.path
    if (
        path is None
        or not path.is_file()
        or (not ahead.steps and store.remembered_identity(path) is not None)
    ):
        return ()
    size = path.stat().st_size
    return (Planned("hash", size, "bytes", size * units.byte_s, model=ahead.name),)


def machine_of_command(params: Params) -> str:
    """What a command computes with, as unit costs are kept by."""
    return machine_of(str(params.get("device") or "cpu"), params.get("n_threads"))
