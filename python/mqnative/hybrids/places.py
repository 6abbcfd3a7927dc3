"""Files of one size: which of them a hybrid may take the place of."""

from __future__ import annotations

from collections.abc import Sequence

from mqnative.hybrids.contrast import judge_together
from mqnative.hybrids.entries import Entry


def same_size(entry: Entry, others: Sequence[Entry], share: float) -> list[Entry]:
    """Those of ``others`` that are as large as ``entry``, or larger by no more than ``share``."""
    most = entry.size_bytes * (1.0 + share)
    return [e for e in others if entry.size_bytes <= e.size_bytes <= most]


def is_ahead(entry: Entry, others: Sequence[Entry]) -> bool:
    """Whether it is better than one of ``others`` by an interval that holds for this comparison alone."""
    for other in others:
        both = {"entry": entry.klds, "other": other.klds}
        (alone,) = judge_together(both, [{"entry": 1.0, "other": -1.0}]).estimates
        if alone.ci95[1] < 0:
            return True
    return False
