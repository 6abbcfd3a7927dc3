"""What is known of a model's tensors before a mix is chosen: importances, weight errors, probes, damages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mqnative.build.plan import ModelTensor, model_tensors
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.candidates import Importances, all_targets, candidate_types, importances_of
from mqnative.jobs.places import places_of
from mqnative.measure.study import Study
from mqnative.measure.weight_error import TensorSweep
from mqnative.predict.damage import Anchor, Damage, TensorCurve, damage_table
from mqnative.predict.noise import LOSSLESS, Noise, floors, noise_of, with_activations, without_noise
from mqnative.predict.priors import fast_table
from mqnative.predict.tied import Share, damages_of_uses

Chunks = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Up to so many bits per weight, tensors are probed at Q2_K, above at Q3_K: near what they will get or worse,
# so that the loss of weights stands out, and few different types, so that another budget finds its probes.
_LOW_BPW, _LOW_ANCHOR, _ANCHOR = 3.0, "Q2_K", "Q3_K"
# Below so many bits per weight, every tensor is probed, too, at a type that all but ruins it: what that
# does differs from tensor to tensor by a factor of forty, and no error tells.
_FAR_BPW, _FAR_ANCHOR, _FAR_GAP = 4.0, "TQ2_0", 0.4
# The head is probed at every type so near to the budget, in bits per weight: it often loses as much as all
# the rest, and a probe of it runs nothing but itself.
_HEAD_REACH = 1.5
# Above so many bits per weight, what is lost besides the weights decides, and is measured for every tensor.
_EVERY_LOSSLESS_BPW = 6.0
_BLOCK = re.compile(r"blk\.(\d+)\.")

Pair = tuple[str, str]


def anchor_for(bpw: float) -> str:
    """The type to probe at for a budget of ``bpw`` bits per weight."""
    return _LOW_ANCHOR if bpw <= _LOW_BPW else _ANCHOR


def lossless_for(bpw: float) -> Literal["layers", "tensors"]:
    """Which tensors to probe at types that all but keep the weights, for a budget."""
    return "tensors" if bpw > _EVERY_LOSSLESS_BPW else "layers"


@dataclass(frozen=True)
class MeasurePlan:
    """What is to be measured.

    Attributes:
        tensors: of the source.
        imatrix, importances: how each is encoded; without an imatrix, none has importances.
        candidates: tensor -> types it may get.
        anchors: tensor -> type to probe it at.
        lossless: (tensor, type) to probe for what is no loss of weights.
        more: further (tensor, type) to probe, where scaling from the anchor would be far off.
        wanted: tensor -> types whose weight error is needed.
    """

    tensors: dict[str, ModelTensor]
    imatrix: Imatrix | None
    importances: Importances
    candidates: dict[str, tuple[str, ...]]
    anchors: dict[str, str]
    lossless: tuple[Pair, ...]
    wanted: dict[str, tuple[str, ...]]
    more: tuple[Pair, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All that is to be probed, each once."""
        return tuple(dict.fromkeys((*self.anchors.items(), *self.lossless, *self.more)))

    @property
    def n_pairs(self) -> int:
        """Pairs of a tensor and a type whose weight error is needed."""
        return sum(len(types) for types in self.wanted.values())


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


def plan_measures(
    study: Study,
    imatrix: Imatrix | None,
    targets: tuple[str, ...],
    anchor: str,
    *,
    lossless: Literal["layers", "tensors"] = "layers",
    bpw: float | None = None,
) -> MeasurePlan:
    """What to measure.

    Args:
        study: the model.
        imatrix: its importances; None for none.
        targets: types it may get; none: every type.
        anchor: the type to probe at; falls back as any type does.
        lossless: whether one tensor of every layer or every tensor is probed at `LOSSLESS` types.
        bpw: the budget, bits per weight, to probe near and far of; None for the anchors alone.
    """
    return plan_of_file(study.file, imatrix, targets, anchor, lossless=lossless, bpw=bpw)


def plan_of_file(
    file: GGUFFile,
    imatrix: Imatrix | None,
    targets: tuple[str, ...],
    anchor: str,
    *,
    lossless: Literal["layers", "tensors"] = "layers",
    bpw: float | None = None,
) -> MeasurePlan:
    """`plan_measures` of an open model."""
    tensors = model_tensors(file)
    importances = importances_of(tensors, imatrix)
    candidates = candidate_types(tensors, importances, targets or all_targets())
    anchors = {
        name: found[0] for name, found in candidate_types(tensors, importances, [anchor]).items() if found
    }
    probed = {name: [anchors[name]] for name in anchors}
    pairs = _lossless_pairs(tensors, importances, list(anchors), lossless)
    for name, target in pairs:
        probed[name].append(target)
    wanted = {
        name: tuple(dict.fromkeys((*types, *probed.get(name, [])))) for name, types in candidates.items()
    }
    more = () if bpw is None else (*_far_pairs(candidates, anchors, bpw), *_head_pairs(candidates, bpw))
    more = tuple(p for p in more if p[1] != anchors.get(p[0]) and p not in pairs)
    return MeasurePlan(tensors, imatrix, importances, candidates, anchors, pairs, wanted, more)


def _far_pairs(
    candidates: Mapping[str, tuple[str, ...]], anchors: Mapping[str, str], bpw: float
) -> tuple[Pair, ...]:
    """Each tensor at a type much worse than its anchor, where the budget may come to that."""
    if bpw >= _FAR_BPW:
        return ()
    far = {}
    for name, anchor in anchors.items():
        lower = [t for t in candidates[name] if qtype(t).bpw <= qtype(anchor).bpw - _FAR_GAP]
        if lower:
            far[name] = _FAR_ANCHOR if _FAR_ANCHOR in lower else min(lower, key=lambda t: (qtype(t).bpw, t))
    return tuple(far.items())


def _head_pairs(candidates: Mapping[str, tuple[str, ...]], bpw: float) -> tuple[Pair, ...]:
    head = HEAD if HEAD in candidates else EMBEDDING
    return tuple((head, t) for t in candidates.get(head, ()) if abs(qtype(t).bpw - bpw) <= _HEAD_REACH)


def _lossless_pairs(
    tensors: Mapping[str, ModelTensor],
    importances: Importances,
    names: list[str],
    which: Literal["layers", "tensors"],
) -> tuple[Pair, ...]:
    types = {target: candidate_types(tensors, importances, [target]) for target in LOSSLESS.values()}
    every = LOSSLESS["Q8_0"]
    if which == "tensors":
        # A fallback is another type, and tells nothing of the format.
        return tuple((n, t) for t, found in types.items() for n in names if t in found.get(n, ()))
    smallest: dict[int, str] = {}
    for name in names:
        block = _BLOCK.match(name)
        if block is None or every not in types[every].get(name, ()):
            continue
        layer = int(block[1])
        # The smaller a tensor, the less it loses itself.
        rest = [n for n in (smallest.get(layer), name) if n is not None]
        smallest[layer] = min(rest, key=lambda n: tensors[n].info.n_weights)
    return tuple((name, every) for _, name in sorted(smallest.items()))


def measured_of(
    plan: MeasurePlan,
    sweeps: dict[str, TensorSweep],
    probes: Mapping[Pair, Chunks],
    priors: Mapping[str, Anchor] | None = None,
    notes: tuple[str, ...] = (),
) -> Measured:
    """The damage table that these measurements give; ``priors`` stand in for tensors without probe."""
    anchors = dict(priors or {})
    anchors |= {n: anchor_of(t, probes[n, t]) for n, t in plan.anchors.items() if (n, t) in probes}
    others = _others(plan, sweeps, probes)
    curves = {
        name: replace(curve, anchors=(anchors[name], *others.get(name, ()))) if name in anchors else curve
        for name, curve in curves_of(plan, sweeps).items()
    }
    noises = _noises(plan, curves, probes)
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
        if block := _BLOCK.match(name):
            number = int(block[1])
            by_layer[number] = min(floor, by_layer.get(number, floor))
    noises = {}
    for name, curve in curves.items():
        layer = _layer_behind(name, by_layer)
        floor = 0.0 if layer is None else by_layer.get(layer, 0.0)
        noises[name] = noise_of(curve, floor, lossless.get(name, ()))
    return noises


def _layer_behind(name: str, by_layer: Mapping[int, float]) -> int | None:
    """The first block whose rounding a change of the tensor disturbs; None behind the last block."""
    if block := _BLOCK.match(name):
        return int(block[1])
    return min(by_layer, default=None) if name.startswith("token_embd") else None


def anchor_of(qtype: str, klds: Chunks) -> Anchor:
    """A probe as an anchor: the mean over its chunks and the variance of that mean."""
    n = len(klds)
    variance = float(klds.var(ddof=1)) / n if n > 1 else 0.0
    return Anchor(qtype, float(klds.mean()), variance)
