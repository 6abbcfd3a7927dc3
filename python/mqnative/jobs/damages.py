"""What is known of a model's tensors before a mix is chosen: importances, weight errors, probes, damages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mqnative.build.plan import ModelTensor, model_tensors
from mqnative.formats.imatrix import Imatrix
from mqnative.jobs.candidates import Importances, candidate_types, default_targets, importances_of
from mqnative.measure.study import Study
from mqnative.measure.weight_error import TensorSweep
from mqnative.predict.damage import Anchor, Damage, TensorCurve, damage_table

Chunks = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Up to these bits per weight, tensors are probed at this type: near what they will get, so that little has to
# be extrapolated, and few different ones, so that another budget finds its probes in the store.
_ANCHORS = ((3.0, "Q2_K"), (5.0, "Q3_K"))
_ANCHOR_ABOVE = "Q4_K"


def anchor_for(bpw: float) -> str:
    """The type to probe at for a budget of ``bpw`` bits per weight."""
    return next((qtype for limit, qtype in _ANCHORS if bpw <= limit), _ANCHOR_ABOVE)


@dataclass(frozen=True)
class MeasurePlan:
    """What is to be measured.

    Attributes:
        tensors: of the source.
        imatrix, importances: how each is encoded.
        candidates: tensor -> types it may get.
        anchors: tensor -> type to probe it at.
        wanted: tensor -> types whose weight error is needed.
    """

    tensors: dict[str, ModelTensor]
    imatrix: Imatrix
    importances: Importances
    candidates: dict[str, tuple[str, ...]]
    anchors: dict[str, str]
    wanted: dict[str, tuple[str, ...]]

    @property
    def n_pairs(self) -> int:
        """Pairs of a tensor and a type whose weight error is needed."""
        return sum(len(types) for types in self.wanted.values())


@dataclass(frozen=True)
class Measured:
    """What is known about the model's tensors.

    Attributes:
        tensors: of the source.
        imatrix, importances: how each is encoded.
        sweeps: weight errors at every candidate type.
        probes: tensor -> mean KLD of each probe chunk at its anchor type.
        anchors: tensor -> anchor type.
        table: predicted damage, tensor -> type.
    """

    tensors: dict[str, ModelTensor]
    imatrix: Imatrix
    importances: Importances
    sweeps: dict[str, TensorSweep]
    probes: dict[str, Chunks]
    anchors: dict[str, str]
    table: dict[str, dict[str, Damage]]


def plan_measures(study: Study, imatrix: Imatrix, targets: tuple[str, ...], anchor: str) -> MeasurePlan:
    """What to measure for these target types (none: every type); ``anchor`` falls back as any type does."""
    tensors = model_tensors(study.file)
    importances = importances_of(tensors, imatrix)
    candidates = candidate_types(tensors, importances, targets or default_targets())
    anchors = {
        name: found[0] for name, found in candidate_types(tensors, importances, [anchor]).items() if found
    }
    wanted = {
        name: tuple(dict.fromkeys((*types, *([anchors[name]] if name in anchors else []))))
        for name, types in candidates.items()
    }
    return MeasurePlan(tensors, imatrix, importances, candidates, anchors, wanted)


def measured_of(plan: MeasurePlan, sweeps: dict[str, TensorSweep], probes: Mapping[str, Chunks]) -> Measured:
    """The damage table that these measurements give."""
    curves = [
        TensorCurve(
            name,
            {t: e.weighted * sweeps[name].energy for t, e in sweeps[name].errors.items()},
            (_anchor(plan.anchors[name], probes[name]),) if name in probes else (),
            plan.tensors[name].info.n_weights,
        )
        for name in plan.candidates
    ]
    table = damage_table(curves)
    kept = {
        name: {t: table[name][t] for t in types if t in table[name]}
        for name, types in plan.candidates.items()
    }
    return Measured(plan.tensors, plan.imatrix, plan.importances, sweeps, dict(probes), plan.anchors, kept)


def _anchor(qtype: str, klds: Chunks) -> Anchor:
    n = len(klds)
    variance = float(klds.var(ddof=1)) / n if n > 1 else 0.0
    return Anchor(qtype, float(klds.mean()), variance)
