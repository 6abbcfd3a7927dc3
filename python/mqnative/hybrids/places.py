"""Files of one size: which of them a hybrid may take the place of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mqnative.hybrids.entries import Entry

_CONFIDENCE = 0.95


def same_size(entry: Entry, others: Sequence[Entry], share: float) -> list[Entry]:
    """Those of ``others`` that are as large as ``entry``, or larger by no more than ``share``."""
    most = entry.size_bytes * (1.0 + share)
    return [e for e in others if entry.size_bytes <= e.size_bytes <= most]


def is_ahead(entry: Entry, others: Sequence[Entry]) -> bool:
    """Whether it is better than one of ``others`` with 95 % confidence, if nothing else is compared."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    for other in others:
        difference = entry.klds - other.klds
        n = len(difference)
        error = float(difference.std(ddof=1)) / math.sqrt(n)
        if float(difference.mean()) + float(stdtrit(n - 1, _CONFIDENCE)) * error < 0:
            return True
    return False
