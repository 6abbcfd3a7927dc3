"""From the sum of tensors' damages to the KLD of a whole mix.

Damages add up while they are small; beyond, a mix loses more than its tensors one by one, or less. The link
is fitted on a few mixes that were run whole. It rises with the sum, so that it changes no choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mqnative.predict.curve import Damage

# Before any mix was run: the slope is 1 within this deviation, and a prediction is off by about this share.
_SLOPE_DEVIATION = 0.1
_UNFITTED_SPREAD = 0.1
# However well a few mixes happen to lie on the line, the next one is off by a few per cent.
_LEAST_SPREAD = 0.03


@dataclass(frozen=True)
class Link:
    """KLD = exp(intercept) * sum^slope.

    Attributes:
        slope, intercept: of ln KLD over ln sum.
        spread: relative standard deviation of mixes about the line.
    """

    slope: float = 1.0
    intercept: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.slope, self.intercept, self.spread)
        if not (all(map(math.isfinite, numbers)) and self.slope > 0 and self.spread >= 0):
            raise ValueError(f"expected a slope above 0 and finite numbers, got {self}")

    def apply(self, damage: Damage) -> Damage:
        """The predicted KLD; its variance by the derivative at the mean, and the link's own spread."""
        if damage.mean <= 0:
            return damage
        mean = math.exp(self.intercept) * damage.mean**self.slope
        scale = self.slope * mean / damage.mean
        return Damage(mean, damage.variance * scale**2 + (self.spread * mean) ** 2)


IDENTITY = Link()


def fit_link(sums: Sequence[float], klds: Sequence[float]) -> Link:
    """The link through mixes that were run whole; with none the identity, unsure.

    Args:
        sums: predicted sum of each mix, nats per token.
        klds: what it measured.

    Ridge regression: a slope of 1 is what theory says of small damages, and mixes of about one size tell
    little about it.
    """
    pairs = [(s, k) for s, k in zip(sums, klds, strict=True) if s > 0 and k > 0]
    if not pairs:
        return Link(spread=_UNFITTED_SPREAD)
    x, y = np.log(np.array(pairs)).T
    centre = float(x.mean())
    noise = _UNFITTED_SPREAD**2
    bend = float(((x - centre) * (y - x)).sum() / (((x - centre) ** 2).sum() + noise / _SLOPE_DEVIATION**2))
    slope = max(0.5, 1.0 + bend)
    intercept = float((y - slope * x).mean())
    rests = y - slope * x - intercept
    degrees = max(1, len(pairs) - 2)
    # A few mixes tell their spread badly: as if two more had been off as far as before any was run.
    spread = math.sqrt((float((rests**2).sum()) + 2 * noise) / (degrees + 2))
    return Link(slope, intercept, max(_LEAST_SPREAD, spread))
