"""From damages of tensors, or of groups by themselves, to the KLD of a mix: put to scale by the baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mqnative.hybrids.isolation import F64Vector
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.isolation import Isolation
from mqnative.jobs.linking import damage_sum
from mqnative.predict.damage import Damage
from mqnative.predict.link import Link, Total, fit_link, head_shares, total_of

_Z95 = 1.96


def fit_links(ground: Ground, isolation: Isolation, klds: Mapping[str, F64Vector]) -> tuple[Link, Link]:
    """The links from sums of damages over tensors, and over groups.

    Args:
        ground: tensors and baselines.
        isolation: groups by themselves.
        klds: baseline -> mean KLD of each select chunk.
    """
    tensors: list[tuple[Total, float]] = []
    groups: list[tuple[Total, float]] = []
    for name, baseline in ground.baselines.items():
        kld = float(klds[name].mean())
        total = damage_sum(ground.measured, ground.whole(baseline.types))
        if total is not None:
            tensors.append((total, kld - ground.measured.floor))
        group = group_sum(ground, isolation, baseline.types)
        if group is not None:
            groups.append((group, kld))
    return fit_link(*_columns(tensors)), fit_link(*_columns(groups))


def is_worse(one: Damage | None, other: Damage | None) -> bool:
    """Whether a prediction's interval lies wholly above another's."""
    if one is None or other is None:
        return False
    low = one.mean - _Z95 * math.sqrt(one.variance)
    high = other.mean + _Z95 * math.sqrt(other.variance)
    return low > high


def group_sum(ground: Ground, isolation: Isolation, types: Mapping[str, str]) -> Total | None:
    """The damages of a mix' groups by themselves, added up; None where constraints changed its patterns."""
    damages: dict[str, Damage] = {}
    for group, samples in isolation.samples.items():
        own = {n: types[n] for n in isolation.tensors[group]}
        if all(t == ground.tensors[n].qtype_name for n, t in own.items()):
            continue
        sample = next((s for s in samples if s.pattern.types == own), None)
        if sample is None:
            return None
        damages[group] = Damage(max(0.0, sample.damage.value), 0.0)
    return total_of(damages, _heads(isolation))


def _heads(isolation: Isolation) -> dict[str, float]:
    """The groups that are the head; see `mqnative.predict.link.head_shares`."""
    heads = head_shares({n for names in isolation.tensors.values() for n in names})
    return {g: 1.0 for g, names in isolation.tensors.items() if any(n in heads for n in names)}


def _columns(pairs: list[tuple[Total, float]]) -> tuple[list[Total], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
