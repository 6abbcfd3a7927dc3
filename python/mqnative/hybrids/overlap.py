"""Whether two texts have passages in common, so that what chooses would also judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
# Tokens of a passage: longer than any phrase that two documents share by chance.
WINDOW = 48
# An odd multiplier; sums wrap modulo 2^64.
_MULTIPLIER = np.uint64(6364136223846793005)


def shared_share(choosing: Tokens, judging: Tokens, window: int = WINDOW) -> float:
    """The share of passages of one text that stand somewhere in the other.

    Args:
        choosing: int32, any shape: rows of chunks in the order of the text.
        judging: the same.
        window: tokens of a passage.

    Returns:
        0 to 1, of the passages of ``judging`` that lie end to end; 0 if it has none.
    """
    there = np.unique(_hashes(choosing, window, step=1))
    asked = _hashes(judging, window, step=window)
    return float(np.isin(asked, there).mean()) if len(asked) else 0.0


def _hashes(tokens: Tokens, window: int, *, step: int) -> npt.NDArray[np.uint64]:
    """Hashes of passages inside chunks; chunks of dealt parts do not follow each other."""
    rows = np.atleast_2d(tokens).astype(np.uint64)
    if rows.shape[1] < window:
        return np.zeros(0, np.uint64)
    found = np.zeros((len(rows), rows.shape[1] - window + 1), np.uint64)
    with np.errstate(over="ignore"):
        for i in range(window):
            found = found * _MULTIPLIER + rows[:, i : i + found.shape[1]] + np.uint64(1)
    return found[:, ::step].ravel()
