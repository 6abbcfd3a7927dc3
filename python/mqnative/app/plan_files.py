"""Plans of the commands that fetch, convert or write a model."""

from __future__ import annotations

from mqnative.app.plan_steps import Params, steps_of
from mqnative.jobs.estimate import Plan, Planned
from mqnative.jobs.work import Units
from mqnative.source.argument import FolderPath, HubModel, parse_source


def build(params: Params, units: Units) -> Plan | None:
    """A file from a recipe."""
    if params.get("model") is None or params.get("manifest_path") is not None:
        return None
    from mqnative.build.plan import plan_build
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import read_imatrix

    steps = steps_of(params, units)
    if steps is None:
        return None
    from mqnative.app.build import _recipe

    found = params.get("imatrix_path")
    with GGUFFile.open(params["model"]) as file:
        importances = None if found is None else read_imatrix(found)
        recipe = _recipe(
            params["model"],
            params["recipe_path"],
            params["preset"],
            params["tensor_type_file"],
            params["base"],
            importances is not None,
        )
        planned = plan_build(file, recipe, importances, allow_requantize=params["allow_requantize"])
    seconds = sum(units.encode(t.qtype) * steps.model.quantizable.get(t.name, 0) for t in planned.tensors)
    seconds += (steps.model.file_bytes + planned.file_bytes) * units.byte_s
    steps.add("build", steps.model.n_weights, "weights", seconds, size_bytes=planned.file_bytes)
    return Plan(tuple(steps.found))


def fetch(params: Params, units: Units) -> Plan | None:
    """A download."""
    from mqnative.app.models import hub_access
    from mqnative.source.fetch import choose, plan_fetch
    from mqnative.source.hub import Hub

    wanted = parse_source(params["model"])
    if not isinstance(wanted, HubModel):
        return None
    hub = Hub(hub_access())
    missing = plan_fetch(hub, choose(hub, wanted)).remaining_bytes
    seconds = missing * units.network_byte_s
    step = Planned(f"download {wanted.repo}", missing, "bytes", seconds, missing, "", wanted.repo)
    return Plan((step,) if missing else ())


def convert(params: Params, units: Units) -> Plan | None:
    """A checkpoint to GGUF."""
    source = parse_source(params["model"])
    if not isinstance(source, FolderPath):
        return None
    from mqnative.source.local import open_checkpoint, select_in_folder

    folder = open_checkpoint(source.path, select_in_folder(source.path))
    tensors = folder.checkpoint.tensors.values()
    size = sum(t.size_bytes for t in tensors)
    weights = size // 2
    seconds = 2 * size * units.byte_s
    written = size
    if params.get("recipe_path") is not None:
        seconds += weights * units.encode("Q4_K")
        written = int(weights * 4.5 / 8)
    unit, amount = ("bytes", size) if params.get("recipe_path") is None else ("weights", weights)
    return Plan((Planned("convert", amount, unit, seconds, written, "", folder.name),))


def until_there(params: Params, units: Units) -> Plan | None:
    """What it takes to have the model as a GGUF on this machine; the rest is planned by its header then."""
    if params.get("model") is None:
        return None
    given = {"model": params["model"]}
    plan = fetch(given, units) or convert(given, units)
    note = "only what comes before the model is a GGUF here; what follows can be planned then"
    return None if plan is None else Plan(plan.steps, (note,))
