"""The damage curve of one tensor: measured at one type or a few, scaled to all others by weight error.

The KLD that a tensor adds is taken to be a power of its importance-weighted weight error,

    k(t) = k(a) (e(t) / e(a))^g,

with a the nearest type it was run at. A second-order expansion of the KLD about the original weights gives
g = 1 for small errors. At errors of about the weights' own size some tensors lose several times what their
error at three bits promises, and that sets in late: between two types that say so

    k(t) = a e(t) + b e(t)^5,

through both. Where the second loses less than its error promises, g is what the two say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mqnative.errors import NonFiniteError, UnsupportedTypeError

# A measured KLD can be told from nothing when it exceeds this many of its standard errors, and what rounding
# does: float32 logits are off by about 1e-6, and the KLD of a shift is about half its square.
_SIGNIFICANT = 2.0
_ROUNDING_KLD = 1e-12
# Standard deviation of ln k per unit of ln e between a type and its anchor. On a small dense model, what was
# measured at Q4_K and Q2_K was 0.93 to 1.27 and 0.83 to 1.09 of the prediction from Q3_K (10 % to 90 %).
_LOG_DEVIATION = 0.09
# How what exceeds the linear part grows between two types. Of three small models, every tensor was probed at
# Q3_K, TQ2_0 and four types between: `benchmarks/quality/curve.py`. A power law through the two foretells
# their sum 1.2 to 2.4 times too high, this 1.0 to 1.4 times.
_STEEP = 5


@dataclass(frozen=True)
class Damage:
    """A predicted KLD, mean nats per token, and the variance of that prediction."""

    mean: float
    variance: float


@dataclass(frozen=True)
class Anchor:
    """A measurement: one tensor swapped to a type, all else original.

    Attributes:
        qtype: the type.
        kld: mean KLD, nats per token; may be slightly negative by rounding.
        variance: of that mean.
    """

    qtype: str
    kld: float
    variance: float

    @property
    def is_significant(self) -> bool:
        """Whether the KLD can be told from nothing."""
        return self.kld > max(_SIGNIFICANT * math.sqrt(self.variance), _ROUNDING_KLD)


@dataclass(frozen=True)
class TensorCurve:
    """What is known of one tensor.

    Attributes:
        name: as in GGUF.
        errors: weighted error by type, at least 0, on a scale common to the types.
        anchors: what was measured, each type once; none if the tensor's operation never ran.
        n_weights: how many weights it has.
        energy: what makes errors comparable between tensors: sum of v W^2 if they are relative to it, 1 if
            they are absolute.
        source_type: the type it is stored at, which costs nothing.

    Raises:
        NonFiniteError: an error or a measurement is not a number.
        UnsupportedTypeError: an anchor's type has no error, so that nothing can be derived from it.
    """

    name: str
    errors: Mapping[str, float]
    anchors: tuple[Anchor, ...]
    n_weights: int
    energy: float = 1.0
    source_type: str | None = None

    def __post_init__(self) -> None:
        never_negative = [*self.errors.values(), self.energy, *(a.variance for a in self.anchors)]
        if not all(map(math.isfinite, [*never_negative, *(a.kld for a in self.anchors)])):
            raise NonFiniteError(
                f"a weight error or a KLD of {self.name} is not finite; measure it again", tensor=self.name
            )
        if min(never_negative) < 0:
            raise ValueError(f"expected errors, energy and variances of at least 0 for {self.name}")
        types = [a.qtype for a in self.anchors]
        if len(set(types)) < len(types):
            raise ValueError(f"expected each type measured once for {self.name}, got {', '.join(types)}")
        if self.n_weights <= 0:
            raise ValueError(f"expected at least one weight for {self.name}, got {self.n_weights}")
        if missing := sorted(set(types) - set(self.errors)):
            raise UnsupportedTypeError(
                f"{self.name} was run at {missing[0]}, whose weight error is not known; sweep that type too",
                tensor=self.name,
                qtype=missing[0],
                reason="no weight error",
                allowed=tuple(self.errors),
            )

    @property
    def usable_anchors(self) -> tuple[Anchor, ...]:
        """The measurements at types that change the tensor."""
        return tuple(a for a in self.anchors if self.errors[a.qtype] > 0 and a.qtype != self.source_type)

    def is_exact(self, qtype: str) -> bool:
        """Whether a type loses nothing.

        An error of 0 at every type means that no importance was collected, not that nothing is lost.
        """
        return qtype == self.source_type or (self.errors[qtype] == 0 and any(self.errors.values()))


def scaled_damages(curve: TensorCurve, anchors: tuple[Anchor, ...], exponent: float) -> dict[str, Damage]:
    """The damage at every type of a tensor with at least one anchor.

    Args:
        curve: the tensor.
        anchors: its usable anchors, with positive KLDs.
        exponent: g, outside the anchors.
    """
    # By error, so that the nearest of two equally near is the one with more signal: the last.
    levels = _pooled(sorted(anchors, key=lambda a: (curve.errors[a.qtype], a.kld, a.qtype)))
    measured = {a.qtype: a for a in levels}
    damages = {}
    for qtype, error in curve.errors.items():
        if qtype in measured:
            damages[qtype] = Damage(measured[qtype].kld, measured[qtype].variance)
        elif not curve.is_exact(qtype):
            damages[qtype] = _scaled(error, levels, curve.errors, exponent)
    return complete(curve, damages, frozenset(measured))


def complete(
    curve: TensorCurve, damages: Mapping[str, Damage], measured: frozenset[str] = frozenset()
) -> dict[str, Damage]:
    """Every type's damage: nothing at exact types, else no less than at any type of smaller error.

    Types that were measured keep what was measured.
    """
    raised = {}
    highest = 0.0
    for qtype in sorted(damages, key=lambda t: (curve.errors[t], damages[t].mean, t)):
        highest = max(highest, damages[qtype].mean)
        raised[qtype] = damages[qtype] if qtype in measured else Damage(highest, damages[qtype].variance)
    nothing = Damage(0.0, 0.0)
    found = {qtype: raised.get(qtype, nothing) for qtype in curve.errors}
    if curve.source_type is not None:
        found.setdefault(curve.source_type, nothing)
    return found


def _scaled(error: float, levels: list[Anchor], errors: Mapping[str, float], exponent: float) -> Damage:
    """The damage at an error: between two anchors on the curve through both, outside by the nearest."""
    below = max((i for i, a in enumerate(levels) if errors[a.qtype] <= error), default=None)
    above = min((i for i, a in enumerate(levels) if errors[a.qtype] > error), default=None)
    if below is None or above is None:
        nearest = levels[(above if below is None else below) or 0]
        distance = math.log(error / errors[nearest.qtype])
        scale = math.exp(exponent * distance)
        mean, variance = nearest.kld * scale, scale**2 * nearest.variance
    else:
        one, other = levels[below], levels[above]
        before, behind = (math.log(error / errors[a.qtype]) for a in (one, other))
        mean, variance = _between(one, other, before, before - behind)
        distance = min(before, -behind)
    return Damage(mean, variance + (mean * _LOG_DEVIATION * distance) ** 2)


def _between(one: Anchor, other: Anchor, x: float, width: float) -> tuple[float, float]:
    """KLD and its variance between two anchors.

    Args:
        one: the one of less error.
        other: the one of more.
        x: ln of the error over that of ``one``.
        width: ln of the error of ``other`` over that of ``one``.
    """
    line, steep, far = math.exp(x), math.exp(_STEEP * x), math.exp((_STEEP - 1) * width)
    # a + b = k1 and a r + b r^5 = k2, with errors in units of the first and r the second's.
    b = (other.kld * math.exp(-width) - one.kld) / (far - 1)
    if 0 < b < one.kld:
        of_other = (steep - line) * math.exp(-width) / (far - 1)
        of_one = line - (steep - line) / (far - 1)
        mean = of_one * one.kld + of_other * other.kld
        return mean, of_one**2 * one.variance + of_other**2 * other.variance
    share = x / width
    mean = one.kld ** (1 - share) * other.kld**share
    relative = ((1 - share) / one.kld) ** 2 * one.variance + (share / other.kld) ** 2 * other.variance
    return mean, mean**2 * relative


def _pooled(anchors: list[Anchor]) -> list[Anchor]:
    """Anchors in order of error, with KLDs that do not fall where noise alone may have done it.

    Types of about one error can differ in damage by a third, whatever their error says; so what can be told
    from nothing is believed. The others get the nearest KLDs that do not fall, by weighted squares; weights
    are inverse variances, or equal where one is 0.

    Source: Ayer et al. (1955), An empirical distribution function for sampling with incomplete information,
    pool adjacent violators.
    """
    is_weighted = all(a.variance > 0 for a in anchors)
    pools: list[tuple[float, float, list[Anchor]]] = []  # mean, weight, anchors
    for anchor in anchors:
        mean, weight, own = anchor.kld, 1.0 / anchor.variance if is_weighted else 1.0, [anchor]
        while pools and pools[-1][0] > mean and not all(a.is_significant for a in (*pools[-1][2], *own)):
            before, weight_before, theirs = pools.pop()
            mean = (before * weight_before + mean * weight) / (weight_before + weight)
            weight, own = weight_before + weight, theirs + own
        pools.append((mean, weight, own))
    return [Anchor(a.qtype, mean, a.variance) for mean, _, own in pools for a in own]
