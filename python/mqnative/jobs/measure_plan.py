"""What of a model's tensors is to be measured: their weight errors, and which types each is probed at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mqnative.build.plan import ModelTensor, model_tensors
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.candidates import Importances, all_targets, candidate_types, importances_of
from mqnative.predict.noise import LOSSLESS

# Up to so many bits per weight, tensors are probed at Q2_K, above at Q3_K: near what they will get or worse,
# so that the loss of weights stands out, and few different types, so that another budget finds its probes.
_LOW_BPW, _LOW_ANCHOR, _ANCHOR = 3.0, "Q2_K", "Q3_K"
# Below so many bits per weight, every tensor is probed, too, at a type that all but ruins it: what that
# does differs from tensor to tensor by a factor of forty, and no error tells.
_FAR_BPW, _FAR_ANCHOR, _FAR_GAP = 4.0, "TQ2_0", 0.4
# The head is probed at every type so near to the budget, in bits per weight: it often loses as much as all
# the rest, and a probe of it runs nothing but itself.
_HEAD_REACH = 1.75
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


def plan_of_file(
    file: GGUFFile,
    imatrix: Imatrix | None,
    targets: tuple[str, ...],
    anchor: str,
    *,
    lossless: Literal["layers", "tensors"] = "layers",
    bpw: float | None = None,
) -> MeasurePlan:
    """What to measure.

    Args:
        file: the model.
        imatrix: its importances; None for none.
        targets: types it may get; none: every type.
        anchor: the type to probe at; falls back as any type does.
        lossless: whether one tensor of every layer or every tensor is probed at `LOSSLESS` types.
        bpw: the budget, bits per weight, to probe near and far of; None for the anchors alone.
    """
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


def layer_of(name: str) -> int | None:
    """The block that a tensor belongs to; None for those of the whole model."""
    block = _BLOCK.match(name)
    return int(block[1]) if block else None


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
        layer = layer_of(name)
        if layer is None or every not in types[every].get(name, ()):
            continue
        # The smaller a tensor, the less it loses itself.
        rest = [n for n in (smallest.get(layer), name) if n is not None]
        smallest[layer] = min(rest, key=lambda n: tensors[n].info.n_weights)
    return tuple((name, every) for _, name in sorted(smallest.items()))
