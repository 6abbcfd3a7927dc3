"""Plans of the commands that fetch, convert or write a model."""

from __future__ import annotations

from pathlib import Path

from mqnative.app.models import hub_access
from mqnative.app.plan_steps import Params, steps_of
from mqnative.jobs.ahead import Ahead, conversion, download_steps
from mqnative.jobs.estimate import Plan, Planned
from mqnative.jobs.work import Units
from mqnative.source.argument import HubModel, parse_source
from mqnative.source.fetch import Choice, choose, plan_fetch
from mqnative.source.hub import Hub

_TYPICAL_BPW = 4.5


def source_of(kind: str, params: Params) -> str | Path | None:
    """What a command takes its model from; None where there is none to plan by."""
    if kind == "build" and params.get("manifest_path") is not None:
        from mqnative.app.rebuild import model_of
        from mqnative.formats.manifest import read_manifest

        path = params["manifest_path"]
        return model_of(path, read_manifest(path), params.get("model"))
    found = params.get("reference") if kind == "compare" else params.get("model")
    return found if isinstance(found, (str, Path)) else None


def build(params: Params, units: Units) -> Plan | None:
    """A file from a recipe or a manifest."""
    from mqnative.build.plan import plan_build
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import read_imatrix

    if params.get("model") is None:
        return None
    steps = steps_of(params, units)
    if steps is None:
        return None
    if params.get("manifest_path") is not None:
        from mqnative.formats.manifest import read_manifest

        manifest = read_manifest(params["manifest_path"])
        types, written = dict(manifest.types), manifest.size_bytes
    else:
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
        types, written = planned.types, planned.file_bytes
    seconds = sum(units.encode(t) * steps.model.quantizable.get(name, 0) for name, t in types.items())
    seconds += (steps.model.file_bytes + written) * units.byte_s
    steps.add("build", steps.model.n_weights, "weights", seconds, size_bytes=written)
    return Plan(tuple(steps.found))


def fetch(params: Params, units: Units, choice: Choice | None) -> Plan | None:
    """A download; ``choice`` is what was found on the hub already."""
    wanted = parse_source(params["model"])
    if not isinstance(wanted, HubModel):
        return None
    hub = Hub(hub_access())
    return Plan(download_steps(wanted.repo, plan_fetch(hub, choice or choose(hub, wanted)), units))


def convert(params: Params, units: Units, ahead: Ahead) -> Plan | None:
    """A checkpoint to GGUF, whatever was made of it before."""
    stored = ahead.stored_bytes
    if not stored:
        return None
    size = stored if ahead.path is None else ahead.path.stat().st_size
    step = conversion(ahead.name, stored, size, units)
    if params.get("recipe_path") is not None:
        weights = size // 2
        written = int(weights * _TYPICAL_BPW / 8)
        seconds = (stored + written) * units.byte_s + weights * units.encode("Q4_K")
        step = Planned("convert", weights, "weights", seconds, written, model=ahead.name)
    return Plan((*ahead.downloads, step), ahead.notes)
