"""What every tensor loses at every type, and what a mix of types loses.

No tensor that changes is ever free: what was not measured, or came out as nothing, gets a default from its
role, because the solver would otherwise put all of a budget's damage there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from mqnative.errors import MQNativeError
from mqnative.predict.curve import Anchor, Damage, TensorCurve, complete, scaled_damages

__all__ = [
    "Anchor", "Damage", "DamageTable", "TensorCurve", "damage_table", "kld_floor", "role_of",
]  # fmt: skip

# Tensors of one role differ in KLD per error by a factor of some ten between blocks, rarely by more.
_FLOOR_SHARE = 0.1
# Nats per token; less than float32 logits show. The floor where nothing at all could be measured.
_LEAST_KLD = 1e-9


@dataclass(frozen=True)
class DamageTable(Mapping[str, Mapping[str, Damage]]):
    """Damage by tensor and type.

    Attributes:
        damages: tensor -> type -> damage.
        unknown: tensors that were never run; they have the default of their role.
        floored: tensors with a measurement that could not be told from nothing and was raised to `kld_floor`.
    """

    damages: Mapping[str, Mapping[str, Damage]]
    unknown: tuple[str, ...] = ()
    floored: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Mapping[str, Damage]:
        return self.damages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.damages)

    def __len__(self) -> int:
        return len(self.damages)


def role_of(name: str) -> str:
    """A tensor's name without its block: ``blk.7.attn_v.weight`` is ``attn_v.weight``."""
    return re.sub(r"(^|\.)blk\.\d+\.", r"\1", name)


def damage_table(curves: Sequence[TensorCurve], *, exponent: float = 1.0) -> DamageTable:
    """The damage of every tensor at every type that has an error, and at its source type.

    A type that was measured has its own measurement; others are scaled from the anchor nearest in ln error.
    Damage never falls as the error grows: anchors that contradict each other are pooled. A measurement that
    cannot be told from nothing counts as `kld_floor` at least, and a tensor without one gets the median
    damage per weight of its role.

    Args:
        curves: the tensors, by distinct names.
        exponent: g of `mqnative.predict.curve`.

    Raises:
        MQNativeError: no tensor was measured.
    """
    names = [c.name for c in curves]
    if len(set(names)) < len(names):
        raise ValueError("expected each tensor once")
    probed = [c for c in curves if c.usable_anchors]
    if curves and not probed:
        raise MQNativeError("no tensor has a measured KLD to scale from; probe the model first")
    scales = _Medians()
    for curve in probed:
        for anchor in curve.usable_anchors:
            absolute = _absolute(curve, anchor.qtype, exponent)
            if anchor.is_significant and absolute > 0:
                scales.add(curve.name, "", anchor.kld / absolute)
    per_weight = _Medians()
    damages: dict[str, dict[str, Damage]] = {}
    floored = []
    for curve in probed:
        scale = scales.of(curve.name, "")
        anchors = tuple(_floored(curve, a, scale, exponent) for a in curve.usable_anchors)
        if anchors != curve.usable_anchors:
            floored.append(curve.name)
        damages[curve.name] = scaled_damages(curve, anchors, exponent)
        for qtype, damage in damages[curve.name].items():
            if damage.mean > 0:
                per_weight.add(curve.name, qtype, damage.mean / curve.n_weights)
    unknown = [c for c in curves if not c.usable_anchors]
    damages.update((c.name, _default(c, per_weight)) for c in unknown)
    return DamageTable({n: damages[n] for n in names}, tuple(c.name for c in unknown), tuple(floored))


def kld_floor(curve: TensorCurve, qtype: str, scale: float | None, exponent: float = 1.0) -> float:
    """The least damage believed of a tensor whose measurement cannot be told from nothing, nats per token.

    A tenth of what its weight error costs a typical tensor of its role. Too high a floor wastes at most the
    few bytes that a tenth of a typical damage is worth; without one, a tensor that the probe text happened
    not to exercise is free, and the solver ruins it. The measurement's own interval is no guard: where the
    text does not reach a tensor, its variance is as wrong as its mean.

    Args:
        curve: the tensor.
        qtype: the type measured.
        scale: median of KLD / absolute error over the significant measurements of its role, or of the model;
            None if there are none.
        exponent: g.
    """
    typical = 0.0 if scale is None else scale * _absolute(curve, qtype, exponent)
    return max(_FLOOR_SHARE * typical, _LEAST_KLD)


class _Medians:
    """Medians of a quantity by role and type, or failing that by type over the whole model."""

    def __init__(self) -> None:
        self._values: dict[tuple[str | None, str], list[float]] = {}

    def add(self, name: str, qtype: str, value: float) -> None:
        for role in (role_of(name), None):
            self._values.setdefault((role, qtype), []).append(value)

    def of(self, name: str, qtype: str) -> float | None:
        values = self._values.get((role_of(name), qtype)) or self._values.get((None, qtype))
        return median(values) if values else None

    def largest(self) -> float:
        return max(max(values) for values in self._values.values())


def _absolute(curve: TensorCurve, qtype: str, exponent: float) -> float:
    """The error on a scale common to all tensors, to the power that damage goes with."""
    return curve.energy * math.pow(curve.errors[qtype], exponent)


def _floored(curve: TensorCurve, anchor: Anchor, scale: float | None, exponent: float) -> Anchor:
    """The anchor, raised to the floor if it says nothing; then it is as uncertain as it is large."""
    floor = kld_floor(curve, anchor.qtype, scale, exponent)
    if anchor.is_significant or anchor.kld >= floor:
        return anchor
    return replace(anchor, kld=floor, variance=max(anchor.variance, floor**2))


def _default(curve: TensorCurve, per_weight: _Medians) -> dict[str, Damage]:
    """The damage of a tensor that was never run: never nothing, and as uncertain as it is large."""
    damages = {}
    for qtype in curve.errors:
        if curve.is_exact(qtype):
            continue
        each = per_weight.of(curve.name, qtype)
        # A type that no tensor was predicted at: the worst that any costs.
        mean = curve.n_weights * (per_weight.largest() if each is None else each)
        damages[qtype] = Damage(mean, mean**2)
    return complete(curve, damages)
