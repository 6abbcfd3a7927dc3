"""What is known of a model's tensors before a mix is chosen: importances, weight errors, probes, damages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mqnative.build.plan import ModelTensor
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.tied import EMBEDDING
from mqnative.jobs.candidates import Importances
from mqnative.jobs.measure_plan import MeasurePlan, Pair, layer_of
from mqnative.jobs.places import places_of
from mqnative.measure.steady import Chunks, steady
from mqnative.measure.study import Study
from mqnative.measure.weight_error import TensorSweep
from mqnative.predict.damage import Anchor, Damage, TensorCurve, damage_table
from mqnative.predict.noise import Noise, floors, noise_of, with_activations, without_noise
from mqnative.predict.priors import fast_table
from mqnative.predict.tied import Share, damages_of_uses


@dataclass(frozen=True)
class Measured:
    """What is known about the model's tensors.

    Attributes:
        tensors: of the source.
        imatrix, importances: how each is encoded; without an imatrix, none has importances.
        sweeps: weight errors at every candidate type.
        probes: (tensor, type) -> mean KLD of each probe chunk.
        anchors: tensor -> anchor type.
        table: predicted damage, tensor -> type.
        floor: KLD that any mix pays once, because the reference rounds its activations.
        notes: what a reader should know of where it comes from.
        at_anchor: predicted damage at the anchor type, or at a tensor's worst type where it has none.
        share: the input's, of what a tied embedding loses; None if it is not to be untied.
    """

    tensors: dict[str, ModelTensor]
    imatrix: Imatrix | None
    importances: Importances
    sweeps: dict[str, TensorSweep]
    probes: dict[Pair, Chunks]
    anchors: dict[str, str]
    table: dict[str, dict[str, Damage]]
    floor: float = 0.0
    notes: tuple[str, ...] = ()
    at_anchor: dict[str, Damage] = field(default_factory=dict)
    share: Share | None = None

    @property
    def uses(self) -> Mapping[str, Mapping[str, Damage]]:
        """Damage of either use of a tied embedding by type; empty if it is not to be untied."""
        return {} if self.share is None else damages_of_uses(self.table[EMBEDDING], self.share)


def measured_of(
    plan: MeasurePlan,
    sweeps: dict[str, TensorSweep],
    probes: Mapping[Pair, Chunks],
    priors: Mapping[str, Anchor] | None = None,
    notes: tuple[str, ...] = (),
) -> Measured:
    """The damage table that these measurements give; ``priors`` stand in for tensors without probe."""
    steadied = steady(probes)
    anchors = dict(priors or {})
    anchors |= {n: anchor_of(t, steadied[n, t]) for n, t in plan.anchors.items() if (n, t) in probes}
    others = _others(plan, sweeps, steadied)
    curves = {
        name: replace(curve, anchors=(anchors[name], *others.get(name, ()))) if name in anchors else curve
        for name, curve in curves_of(plan, sweeps).items()
    }
    noises = _noises(plan, curves, steadied)
    table = damage_table([without_noise(curves[name], noises[name]) for name in plan.candidates])
    full = {name: with_activations(table[name], noises[name]) for name in plan.candidates}
    floor = max((n.floor for n in noises.values()), default=0.0)
    return Measured(
        plan.tensors,
        plan.imatrix,
        plan.importances,
        sweeps,
        dict(probes),
        plan.anchors,
        _wanted(plan, full),
        floor,
        notes,
        _at_anchor(plan, full),
    )


def _others(
    plan: MeasurePlan, sweeps: Mapping[str, TensorSweep], probes: Mapping[Pair, Chunks]
) -> dict[str, tuple[Anchor, ...]]:
    """What else than its anchor each tensor was probed at."""
    found: dict[str, tuple[Anchor, ...]] = {}
    for (name, target), klds in probes.items():
        known = plan.anchors.get(name) == target or (name, target) in plan.lossless
        if not known and name in sweeps and target in sweeps[name].errors:
            found[name] = (*found.get(name, ()), anchor_of(target, klds))
    return found


def measured_fast(study: Study, plan: MeasurePlan, sweeps: dict[str, TensorSweep]) -> Measured:
    """The damage table that weight errors and priors give, nothing having been run."""
    return fast_of_file(study.file, plan, sweeps)


def fast_of_file(file: GGUFFile, plan: MeasurePlan, sweeps: dict[str, TensorSweep]) -> Measured:
    """`measured_fast` of an open model."""
    where = places_of(file, list(plan.candidates))
    table = fast_table(list(curves_of(plan, sweeps).values()), where)
    kept = _wanted(plan, table)
    at_anchor = _at_anchor(plan, table)
    return Measured(plan.tensors, plan.imatrix, plan.importances, sweeps, {}, {}, kept, at_anchor=at_anchor)


def _wanted(plan: MeasurePlan, table: Mapping[str, Mapping[str, Damage]]) -> dict[str, dict[str, Damage]]:
    """The damages at the types that were asked for."""
    return {
        name: {t: table[name][t] for t in types if t in table[name]}
        for name, types in plan.candidates.items()
    }


def _at_anchor(plan: MeasurePlan, table: Mapping[str, Mapping[str, Damage]]) -> dict[str, Damage]:
    return {
        name: table[name].get(plan.anchors.get(name, ""))
        or max(table[name].values(), key=lambda d: d.mean, default=Damage(0.0, 0.0))
        for name in plan.candidates
    }


def curves_of(plan: MeasurePlan, sweeps: Mapping[str, TensorSweep]) -> dict[str, TensorCurve]:
    """Every candidate's weight errors, without a measurement."""
    return {
        name: TensorCurve(
            name,
            {t: e.weighted * sweeps[name].energy for t, e in sweeps[name].errors.items()},
            (),
            plan.tensors[name].info.n_weights,
        )
        for name in plan.candidates
    }


def _noises(
    plan: MeasurePlan, curves: Mapping[str, TensorCurve], probes: Mapping[Pair, Chunks]
) -> dict[str, Noise]:
    lossless: dict[str, tuple[Anchor, ...]] = {}
    for name, target in plan.lossless:
        if (name, target) in probes and target in curves[name].errors and curves[name].usable_anchors:
            lossless[name] = (*lossless.get(name, ()), anchor_of(target, probes[name, target]))
    found = floors(curves, lossless)
    by_layer: dict[int, float] = {}
    for name, floor in found.items():
        number = layer_of(name)
        if number is not None:
            by_layer[number] = min(floor, by_layer.get(number, floor))
    noises = {}
    for name, curve in curves.items():
        layer = _layer_behind(name, by_layer)
        floor = 0.0 if layer is None else by_layer.get(layer, 0.0)
        noises[name] = noise_of(curve, floor, lossless.get(name, ()))
    return noises


def _layer_behind(name: str, by_layer: Mapping[int, float]) -> int | None:
    """The first block whose rounding a change of the tensor disturbs; None behind the last block."""
    own = layer_of(name)
    if own is not None:
        return own
    return min(by_layer, default=None) if name.startswith("token_embd") else None


def anchor_of(qtype: str, klds: Chunks) -> Anchor:
    """A probe as an anchor: the mean over its chunks and the variance of that mean."""
    n = len(klds)
    variance = float(klds.var(ddof=1)) / n if n > 1 else 0.0
    return Anchor(qtype, float(klds.mean()), variance)
