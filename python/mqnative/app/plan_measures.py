"""Plans of the commands that measure one thing."""

from __future__ import annotations

from mqnative.app.plan_steps import Params, steps_of
from mqnative.jobs.estimate import Plan
from mqnative.jobs.planning import text_stamps
from mqnative.jobs.work import Units


def imatrix(params: Params, units: Units) -> Plan | None:
    """Importances."""
    texts = [path for path, _ in params["texts"]]
    steps = steps_of(params, units)
    if steps is None:
        return None
    if texts:
        steps.load()
        chunks = steps.chunks(texts, params.get("chunks"))
        steps.add("imatrix", chunks, "chunks", steps.passes(chunks))
    return Plan(tuple(steps.found))


def sweep(params: Params, units: Units) -> Plan | None:
    """Weight errors."""
    from mqnative.jobs.candidates import default_targets

    steps = steps_of(params, units)
    if steps is None:
        return None
    kept = [params["tolerance"], text_stamps([params.get("imatrix_path")])]
    steps.sweep(params["types"] or default_targets(), kept)
    return Plan(tuple(steps.found))


def probe(params: Params, units: Units) -> Plan | None:
    """Probes."""
    from mqnative.jobs.candidates import default_targets

    steps = steps_of(params, units, texts=(params["text"],))
    if steps is None:
        return None
    chunks = steps.chunks([params["text"]], params["chunks"])
    steps.load()
    kept = text_stamps([params.get("imatrix_path")])
    types = params["types"] or default_targets()
    pairs = [(name, t) for name in steps.model.quantizable for t in types]
    steps.probes(pairs, chunks, params["precision"], kept)
    return Plan(tuple(steps.found))


def evaluation(params: Params, units: Units) -> Plan | None:
    """Running one or two models."""
    steps = steps_of(params, units)
    if steps is None:
        return None
    n_models = 1 if params.get("reference") is None else 2
    for _ in range(n_models):
        steps.load()
    chunks = steps.chunks(params["texts"])
    steps.evaluation(min(chunks, params["chunks"] or chunks), n_models)
    return Plan(tuple(steps.found))


def compare(params: Params, units: Units) -> Plan | None:
    """Files beside a reference."""
    steps = steps_of(params, units, model="reference", texts=tuple(params["texts"]))
    if steps is None:
        return None
    chunks = steps.chunks(params["texts"])
    used = min(chunks, params["chunks"] or chunks)
    steps.load()
    files = text_stamps(params["candidates"])
    seconds = steps.passes(used) * (1 + len(files))
    steps.add("evaluate", used * len(files), "passes", seconds, kept=files)
    return Plan(tuple(steps.found))
