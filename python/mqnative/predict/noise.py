"""What a probe measures besides the loss of weights.

Swapping one tensor for an all but perfect copy changes the logits all the same. The reference rounds its
activations (to BF16 before every product, say), and after the slightest change everything behind it rounds
otherwise: the KLD of that is the floor of a depth. It is there whatever changed, falls with depth, and does
not add up, since a mix pays it once. A quantized tensor is besides multiplied with quantized activations,
which costs the same at every type of one activation format. So that

    measured(t) = floor(layer) + activations(format of t) + weights(t),

and only the last part goes with the weight error. Probes at types that all but keep the weights tell the
other two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mqnative.formats.qtypes import qtype
from mqnative.predict.curve import Anchor, Damage, TensorCurve

# Types that all but keep the weights, by the activation format they stand for.
LOSSLESS = {"Q8_0": "Q8_0", "Q8_K": "Q6_K"}


@dataclass(frozen=True)
class Noise:
    """What is no loss of weights, for one tensor; KLD in nats per token.

    Attributes:
        floor: of its depth; paid once by a mix, whatever it changes.
        activations: by activation format; added by every type of the format.
    """

    floor: float = 0.0
    activations: Mapping[str, float] = field(default_factory=dict)


def activation_format(name: str) -> str | None:
    """The format a type's activations are quantized to; None where they are not."""
    found = qtype(name)
    if not found.is_quantized:
        return None
    # Q8_1 is Q8_0 with the sums of its blocks.
    return "Q8_0" if found.activation == "Q8_1" else found.activation


def floors(curves: Mapping[str, TensorCurve], lossless: Mapping[str, tuple[Anchor, ...]]) -> dict[str, float]:
    """The floor at each tensor with a probe at a type that all but keeps its weights.

    What the probe measures beyond the loss of weights; the tensor's activations are still in it, so that the
    least of a depth's tensors is nearest to the floor.

    Args:
        curves: by tensor, with what was measured at other types.
        lossless: by tensor, probes at types of `LOSSLESS`.
    """
    found = {}
    for name, near in lossless.items():
        anchors = [a for a in curves[name].usable_anchors if a.qtype not in {n.qtype for n in near}]
        rests = [max(0.0, n.kld - _weights_part(curves[name], anchors, n.qtype)) for n in near]
        if rests:
            found[name] = min(rests)
    return found


def noise_of(curve: TensorCurve, floor: float, lossless: tuple[Anchor, ...]) -> Noise:
    """A tensor's noise at every format that was probed.

    Args:
        curve: the tensor, with what was measured at a lossy type.
        floor: of its depth.
        lossless: its probes at types of `LOSSLESS`; none leave its activations unknown, as nothing.
    """
    main = [a for a in curve.usable_anchors if a.qtype not in {n.qtype for n in lossless}]
    if not main:
        return Noise(floor)
    anchor = main[0]
    by_format = {activation_format(n.qtype): n for n in lossless}
    same = by_format.get(activation_format(anchor.qtype))
    error = curve.errors[anchor.qtype]
    # KLD per weight error; two types of one format differ in nothing else.
    per_error = (anchor.kld - floor) / error
    if same is not None and error > curve.errors[same.qtype]:
        per_error = (anchor.kld - same.kld) / (error - curve.errors[same.qtype])
    per_error = max(0.0, per_error)
    activations = {
        name: max(0.0, n.kld - floor - per_error * curve.errors[n.qtype])
        for name, n in by_format.items()
        if name is not None
    }
    return Noise(floor, activations)


def without_noise(curve: TensorCurve, noise: Noise) -> TensorCurve:
    """The curve with only the loss of weights in its anchors."""

    def clean(anchor: Anchor) -> Anchor:
        extra = noise.floor + noise.activations.get(activation_format(anchor.qtype) or "", 0.0)
        return replace(anchor, kld=anchor.kld - extra)

    return replace(curve, anchors=tuple(map(clean, curve.anchors)))


def with_activations(damages: Mapping[str, Damage], noise: Noise) -> dict[str, Damage]:
    """Damages of weights, and of activations where the type quantizes them."""
    return {
        t: Damage(d.mean + noise.activations.get(activation_format(t) or "", 0.0), d.variance)
        for t, d in damages.items()
    }


def _weights_part(curve: TensorCurve, anchors: list[Anchor], name: str) -> float:
    """What the weights lose at a type, scaled from what was measured at another."""
    if not anchors:
        return 0.0
    return max(0.0, anchors[0].kld) * curve.errors[name] / curve.errors[anchors[0].qtype]
