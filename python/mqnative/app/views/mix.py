"""What a mix of types would be: bytes, bits per weight, predicted KLD with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mqnative.app.views.model_view import ModelView, padded
from mqnative.formats.qtypes import qtype
from mqnative.predict.damage import Damage
from mqnative.predict.link import Link, Total, head_shares, total_of
from mqnative.report.summary import Interval, TensorRow

_Z95 = 1.96


@dataclass(frozen=True)
class Mix:
    """A mix as predicted.

    Attributes:
        size_bytes: of the whole file.
        bpw: 8 x tensor bytes / weights.
        kld, ci95: predicted, nats per token; None where a type's damage is unknown.
        unknown: tensors whose damage at their type is unknown.
    """

    size_bytes: int
    bpw: float
    kld: float | None
    ci95: Interval | None
    unknown: tuple[str, ...] = ()


def type_bytes(tensor: TensorRow, name: str) -> int:
    """Bytes of a tensor's data at a type."""
    return qtype(name).tensor_bytes(tensor.shape)


def legal_types(tensor: TensorRow) -> tuple[str, ...]:
    """What a tensor may become: its stored type, and those whose damage is known."""
    return tuple(dict.fromkeys((*(p.qtype for p in tensor.curve if p.legal), tensor.source_type)))


def damage_at(tensor: TensorRow, name: str) -> Damage | None:
    """The damage of a tensor at a type; None where it is unknown."""
    if name == tensor.source_type or not tensor.curve:
        return Damage(0.0, 0.0)
    for point in tensor.curve:
        if point.qtype == name:
            break
    else:
        return None
    return Damage(point.damage, (max(0.0, point.high - point.damage) / _Z95) ** 2)


def mix_of(view: ModelView, types: Mapping[str, str]) -> Mix:
    """Sizes and prediction of a mix that names every tensor."""
    tensor_bytes = file_bytes = 0
    damages: dict[str, Damage] = {}
    unknown = []
    for tensor in view.tensors:
        size = type_bytes(tensor, types[tensor.name])
        tensor_bytes += size
        file_bytes += padded(size)
        damage = damage_at(tensor, types[tensor.name])
        if damage is None:
            unknown.append(tensor.name)
        else:
            damages[tensor.name] = damage
    kld, ci95 = (None, None) if unknown or not view.is_measured else _kld(view, damages)
    bpw = 8.0 * tensor_bytes / max(view.n_weights, 1)
    return Mix(view.fixed_bytes + file_bytes, bpw, kld, ci95, tuple(unknown))


def link_of(view: ModelView) -> Link:
    """From what damages add up to, to the KLD of a mix."""
    return Link(view.link.scale, view.link.coupling, view.link.spread)


def total_in(view: ModelView, damages: Mapping[str, Damage]) -> Total:
    """What the damages of a mix add up to.

    Args:
        view: the model.
        damages: of its tensors at the types of the mix.
    """
    return total_of(damages, head_shares(view.by_name, view.link.of_input))


def _kld(view: ModelView, damages: Mapping[str, Damage]) -> tuple[float, Interval]:
    row, total = view.link, total_in(view, damages)
    if total.mean <= 0:
        return 0.0, (0.0, 0.0)
    linked = link_of(view).apply(total)
    mean, half = linked.mean + row.floor, _Z95 * math.sqrt(linked.variance)
    return mean, (max(0.0, mean - half), mean + half)
