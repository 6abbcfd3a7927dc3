"""What each of the two uses of a tied embedding loses: it is looked up at the input, and is the head.

Untied, each use may have a type of its own, at the price of a second tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.predict.curve import Damage

# However little one use loses, it is not free.
_LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Share:
    """How much of a tied embedding's damage is the input's; the head has the rest.

    Attributes:
        of_input: 0 to 1.
        variance: of that.
    """

    of_input: float
    variance: float


def share_of(klds_input: npt.NDArray[np.float64], klds_head: npt.NDArray[np.float64], floor: float) -> Share:
    """The share from probes that changed one use alone.

    Args:
        klds_input: float64, shape (n_chunks,): mean KLD of each chunk with the input changed, nats per token.
        klds_head: the same with the head changed.
        floor: what any change at the input costs besides, because everything behind it rounds otherwise.
    """
    a, b = max(0.0, float(klds_input.mean()) - floor), max(0.0, float(klds_head.mean()))
    if a + b <= 0:
        return Share(0.5, 0.25)
    n = len(klds_input)
    var_a, var_b = (float(k.var(ddof=1)) / n if n > 1 else 0.0 for k in (klds_input, klds_head))
    of_input = min(max(a / (a + b), _LEAST_SHARE), 1 - _LEAST_SHARE)
    return Share(of_input, (b**2 * var_a + a**2 * var_b) / (a + b) ** 4)


def damages_of_uses(tied: Mapping[str, Damage], share: Share) -> dict[str, dict[str, Damage]]:
    """Damage of either use by type, so that both together lose what the tied tensor does.

    Args:
        tied: by type, of the tied tensor.
        share: of the input.

    Returns:
        `EMBEDDING` and `HEAD` -> type -> damage.
    """
    parts = {EMBEDDING: share.of_input, HEAD: 1 - share.of_input}
    return {
        name: {t: _part(d, part, share.variance) for t, d in tied.items()} for name, part in parts.items()
    }


def _part(tied: Damage, share: float, variance: float) -> Damage:
    return Damage(share * tied.mean, share**2 * tied.variance + tied.mean**2 * variance)
