"""What the KLD of a mix will be: tensors' damages, the link, and the rounding that every mix pays once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.damages import Measured
from mqnative.jobs.known import Damages
from mqnative.predict.damage import Damage
from mqnative.predict.link import Link, Total, fit_link, head_shares, total_of

# Random mixes that the link is fitted on: their level, in bits per weight about the budget's, and how far a
# tensor's type may lie from it.
_LEVELS = (-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8)
_REACH = 1.5
_SEED = 4711


def link_mixes(measured: Measured, bpw: float) -> dict[str, dict[str, str]]:
    """Random mixes about as large as a budget."""
    return {f"link {i}": random_mix(measured, bpw + level, _SEED + i) for i, level in enumerate(_LEVELS)}


def random_mix(measured: Measured, level: float, seed: int) -> dict[str, str]:
    """Every tensor at a random type within 1.5 bits per weight of a level, or the nearest there is.

    Args:
        measured: what types tensors may get.
        level: bits per weight.
        seed: another mix for another one.
    """
    rng = random.Random(seed)
    mix = {}
    for name in sorted(measured.table):
        types = sorted(measured.table[name])
        near = [t for t in types if abs(qtype(t).bpw - level) <= _REACH]
        mix[name] = rng.choice(near or [min(types, key=lambda t: abs(qtype(t).bpw - level))])
    return mix


def link_through(measured: Measured, mixes: Iterable[Mapping[str, str]], klds: Iterable[float]) -> Link:
    """The link through mixes that were run whole; those with a type of unknown damage do not count.

    Args:
        measured: the damages.
        mixes: types of every tensor.
        klds: what each mix lost, nats per token.
    """
    totals = (damage_sum(measured, types) for types in mixes)
    known = [(total, kld) for total, kld in zip(totals, klds, strict=True) if total is not None]
    return fit_link([total for total, _ in known], [kld for _, kld in known])


def damage_sum(measured: Measured | Damages, types: Mapping[str, str]) -> Total | None:
    """The tensors' damages, added up; None where a type was not measured."""
    damages = mix_damages(measured, types)
    if damages is None:
        return None
    return total_of(damages, head_shares({*measured.tensors, *damages}, input_share(measured)))


def mix_damages(measured: Measured | Damages, types: Mapping[str, str]) -> dict[str, Damage] | None:
    """What every tensor of a mix loses by itself; None where a type was not measured."""
    uses = measured.uses if HEAD in types else {}
    damages = {}
    for name in measured.table:
        own = measured.tensors[name].qtype_name
        # Untied: either use for itself.
        for part, by_type in uses.items() if name == EMBEDDING and uses else ((name, measured.table[name]),):
            found = Damage(0.0, 0.0) if types[part] == own else by_type.get(types[part])
            if found is None:
                return None
            damages[part] = found
    return damages


def input_share(measured: Measured | Damages) -> float:
    """The input's share of what a tied embedding loses; where it is not known, the head has all."""
    return 0.0 if measured.share is None else measured.share.of_input


def predicted_kld(measured: Measured, types: Mapping[str, str], link: Link) -> Damage | None:
    """The KLD that a mix should have; None where a type was not measured."""
    total = damage_sum(measured, types)
    if total is None:
        return None
    return kld_of(total, link, measured.floor)


def kld_of(total: Total, link: Link, floor: float) -> Damage:
    """The KLD of a mix from its damages."""
    linked = link.apply(total)
    # A mix that changes nothing has none of the reference's rounding either.
    return Damage(linked.mean + floor, linked.variance) if total.mean > 0 else linked
