"""The error sweep of a whole model, answered from the store where it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.measure.study import Study
from mqnative.measure.sweep import METRIC_VERSION, TOLERANCE
from mqnative.measure.sweep_model import sweep_model
from mqnative.measure.weight_error import TensorError, TensorSweep
from mqnative.source.encoded import weights_hash
from mqnative.store import Store

Importances = Mapping[str, npt.NDArray[np.float32] | None]


def sweep(
    study: Study,
    targets: Mapping[str, Sequence[str]],
    importances: Importances,
    *,
    tolerance: float = TOLERANCE,
) -> dict[str, TensorSweep]:
    """Weight errors: for each tensor, at each of its target types; a row for each tensor and type.

    Raises:
        as `sweep_tensor`.
    """
    with study.lock("errors"):
        found: dict[str, TensorSweep] = {}
        inputs = {
            name: _inputs(study.identity.tensors[name], name, importances.get(name), tolerance)
            for name in targets
        }
        for name, types in targets.items():
            rows = study.store.get_many("errors", [inputs[name] | {"qtype": t} for t in types])
            values = [row.value for row in rows if row is not None]
            if values and len(values) == len(types):
                found[name] = _from_rows(values)
        missing = [name for name in targets if name not in found]
        if missing:
            found.update(_measure(study, missing, targets, importances, inputs, tolerance))
    return {name: found[name] for name in targets}


def stored_sweeps(
    store: Store,
    hashes: Mapping[str, str],
    targets: Mapping[str, Sequence[str]],
    importances: Importances,
    *,
    tolerance: float = TOLERANCE,
) -> dict[str, TensorSweep]:
    """What the store has of a sweep; nothing is measured.

    Args:
        store: where numbers are kept.
        hashes: tensor -> hash of its bytes.
        targets: as for `sweep`.
        importances: as for `sweep`.
        tolerance: as for `sweep`.

    Returns:
        Tensors of which something is known, each at the types that are.
    """
    found = {}
    for name, types in targets.items():
        inputs = _inputs(hashes[name], name, importances.get(name), tolerance)
        rows = store.get_many("errors", [inputs | {"qtype": t} for t in types])
        known = [row for row in rows if row is not None]
        if known:
            found[name] = _from_rows([row.value for row in known])
    return found


def _measure(
    study: Study,
    missing: Sequence[str],
    targets: Mapping[str, Sequence[str]],
    importances: Importances,
    inputs: Mapping[str, dict[str, Any]],
    tolerance: float,
) -> dict[str, TensorSweep]:
    tensors = study.file.tensors
    study.monitor.start("weight errors", sum(tensors[name].n_weights for name in missing), "weights")
    done = 0
    found = {}
    swept = sweep_model(
        study.file,
        {name: targets[name] for name in missing},
        importances,
        {name: int(study.identity.tensors[name][:16], 16) for name in missing},
        tolerance=tolerance,
        n_threads=study.n_threads,
        progress=lambda name, share: study.monitor.update(done + int(share * tensors[name].n_weights)),
    )
    for name, sweep_, elapsed_s in swept:
        found[name] = sweep_
        rows = [
            (inputs[name] | {"qtype": t}, _row(sweep_, t), sweep_.histograms.get(t)) for t in targets[name]
        ]
        study.store.put_many("errors", rows, elapsed_s=elapsed_s / len(targets[name]))
        done += tensors[name].n_weights
        study.monitor.update(done)
    study.monitor.finish()
    return found


def _inputs(
    tensor_hash: str, name: str, weights: npt.NDArray[np.float32] | None, tolerance: float
) -> dict[str, Any]:
    return {
        "tensor": tensor_hash,
        "name": name,
        "imatrix": weights_hash(weights),
        "tolerance": tolerance,
        "metric_version": METRIC_VERSION,
    }


def _row(found: TensorSweep, qtype: str) -> dict[str, Any]:
    # A type that overflows on these weights has a row too, so that it is not tried again.
    error = asdict(found.errors[qtype]) if qtype in found.errors else {}
    return error | {"energy": found.energy, "importance": found.importance}


def _from_rows(values: Sequence[Mapping[str, Any]]) -> TensorSweep:
    fields = TensorError.__dataclass_fields__
    known: list[dict[str, Any]] = [
        {k: v for k, v in value.items() if k in fields} for value in values if "weighted" in value
    ]
    errors = [TensorError(**value | {"quantiles": tuple(value["quantiles"])}) for value in known]
    first = values[0]
    return TensorSweep({e.qtype: e for e in errors}, first["energy"], first["importance"])
