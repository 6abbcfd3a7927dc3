"""From the tensors' damages to the KLD of a whole mix.

Damages add up while they are small. Beyond, what one tensor does is made worse by what the others do, since
every layer behind works on what it was not trained for:

    KLD = scale * (sum_i k_i + coupling * sum_i k_i (sum_j!=i k_j)^p),

where the second sum, the mix' interaction, leaves out the head: no layer is behind it. Scale and coupling
are fitted on a few mixes that were run whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.predict.curve import Damage

# p and the coupling where nothing was fitted, per nat^p, and how far a model's own lies from it in logarithm.
# From 144 random mixes of three small models at 2 to 8 bits per weight, on text that measures nothing else:
# `benchmarks/quality/link.py`.
_POWER = 0.75
_COUPLING = 1.6
_LOG_COUPLING_DEVIATION = 0.5
# How far it lies from that of another mix of the same model.
_LOG_COUPLING_SPREAD = 0.3
# The scale is 1 within this deviation, but for some models (where experts are chosen anew, damages add up to
# less than their sum) far from it: a prior with heavy tails.
_LOG_SCALE_DEVIATION = 0.05
_SCALE_ROUNDS = 30
# Before any mix was run, a prediction is off by about this share.
_UNFITTED_SPREAD = 0.1
# However well a few mixes happen to lie on the line, the next one is off by a few per cent.
_LEAST_SPREAD = 0.03


@dataclass(frozen=True)
class Total(Damage):
    """The damages of a mix, added up.

    Attributes:
        mean, variance: of the sum, nats per token.
        interaction: sum over the body of k_i (sum of the others)^p, nats^(1 + p).
        body: the sum without the head.
    """

    interaction: float = 0.0
    body: float = 0.0


@dataclass(frozen=True)
class Link:
    """KLD = scale * (sum + coupling * interaction).

    Attributes:
        scale, coupling: of the formula.
        spread: relative standard deviation of mixes about it.
    """

    scale: float = 1.0
    coupling: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.scale, self.coupling, self.spread)
        if not (all(map(math.isfinite, numbers)) and self.scale > 0 and min(numbers) >= 0):
            raise ValueError(f"expected a scale above 0 and no negative numbers, got {self}")

    def apply(self, total: Total) -> Damage:
        """The predicted KLD.

        Its variance is that of the damages, by the derivative; that of the coupling, which differs from mix
        to mix; and the spread.
        """
        if total.mean <= 0:
            return Damage(total.mean, total.variance)
        added = self.coupling * total.interaction
        mean = self.scale * (total.mean + added)
        slope = self.scale * (total.mean + (1 + _POWER) * added) / total.mean
        doubt = _LOG_COUPLING_SPREAD * self.scale * added
        return Damage(mean, slope**2 * total.variance + doubt**2 + (self.spread * mean) ** 2)

    def body_weight(self, total: Total) -> float:
        """What a little more damage in the body of a mix counts for, against as much in the head."""
        if total.body <= 0:
            return 1.0
        return 1.0 + self.coupling * (1 + _POWER) * total.interaction / total.body


IDENTITY = Link()
UNFITTED = Link(1.0, _COUPLING, _UNFITTED_SPREAD)


def head_shares(names: Collection[str], of_input: float = 0.0) -> dict[str, float]:
    """How much of a tensor's damage is the head's: all of the head's own, or the rest of a tied embedding's.

    Args:
        names: the model's tensors.
        of_input: the input's share of what a tied embedding loses, 0 to 1.
    """
    if HEAD in names:
        return {HEAD: 1.0}
    return {EMBEDDING: 1.0 - of_input} if EMBEDDING in names else {}


def total_of(damages: Mapping[str, Damage], heads: Mapping[str, float]) -> Total:
    """The damages of a mix, added up.

    The variance takes the tensors' errors to be independent; what they share, the text and the model's own
    error, is for the link and for measuring the mix.

    Args:
        damages: tensor (or group) -> what it loses by itself.
        heads: of those that are a head, or in part, the share; see `head_shares`.
    """
    parts = {name: max(0.0, d.mean) * (1.0 - heads.get(name, 0.0)) for name, d in damages.items()}
    body = math.fsum(parts.values())
    interaction = math.fsum(part * max(0.0, body - part) ** _POWER for part in parts.values())
    mean, variance = (math.fsum(getattr(d, key) for d in damages.values()) for key in ("mean", "variance"))
    return Total(mean, variance, interaction, body)


def fit_link(totals: Sequence[Total], klds: Sequence[float]) -> Link:
    """The link through mixes that were run whole; with none the usual one, unsure.

    Args:
        totals: of each mix.
        klds: what it measured, nats per token.

    Regression in logarithms; scale and coupling are drawn to what is usual, the more the less the mixes say.
    For every coupling, reweighted least squares finds the scale.
    """
    pairs = [(t, k) for t, k in zip(totals, klds, strict=True) if t.mean > 0 and k > 0]
    if not pairs:
        return UNFITTED
    sums, interactions = np.array([(t.mean, t.interaction) for t, _ in pairs]).T
    measured = np.log([k for _, k in pairs])
    noise = _UNFITTED_SPREAD**2
    away = np.linspace(-3.0, 3.0, 241) * _LOG_COUPLING_DEVIATION
    couplings = _COUPLING * np.exp(away)
    rests = measured - np.log(sums + couplings[:, None] * interactions)
    scales = np.zeros(len(couplings))
    for _ in range(_SCALE_ROUNDS):
        tail = np.sqrt(1 + (scales / _LOG_SCALE_DEVIATION) ** 2)
        scales = rests.sum(axis=1) / (len(pairs) + noise / (_LOG_SCALE_DEVIATION**2 * tail))
    errors = ((rests - scales[:, None]) ** 2).sum(axis=1)
    prior = 2 * (tail - 1) + (away / _LOG_COUPLING_DEVIATION) ** 2
    best = int(np.argmin(errors / noise + prior))
    degrees = max(1, len(pairs) - 2)
    # A few mixes tell their spread badly: as if two more had been off as far as before any was run.
    spread = math.sqrt((float(errors[best]) + 2 * noise) / (degrees + 2))
    return Link(math.exp(scales[best]), float(couplings[best]), max(_LEAST_SPREAD, spread))
