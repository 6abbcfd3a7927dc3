"""At most so many types, as rows of a mixed-integer program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FewTypes:
    """Rows times variables must be at most ``most``.

    Attributes:
        rows: sparse, float64, shape (n_rows, n_before + n_picks + n_types).
        most: float64, shape (n_rows,).
        n_types: variables that were added, one for each type: 1 if the mix has it.
    """

    rows: Any
    most: npt.NDArray[np.float64]
    n_types: int


def few_types(picks: Sequence[tuple[int, frozenset[str]]], n_before: int, max_types: int) -> FewTypes:
    """Rows that let a mix have ``max_types`` types.

    Args:
        picks: each variable's item and the types that it uses if it is 1.
        n_before: variables before them.
        max_types: see there.
    """
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    types = sorted(frozenset[str]().union(*(used for _, used in picks)))
    column = {t: n_before + len(picks) + k for k, t in enumerate(types)}
    row_of: dict[tuple[int, str], int] = {}
    entries: dict[tuple[int, int], float] = {}
    for k, (item, used) in enumerate(picks):
        for t in used:
            # Whatever an item uses is used; of all its picks at most one is made.
            row = row_of.setdefault((item, t), len(row_of))
            entries[row, n_before + k] = 1.0
            entries[row, column[t]] = -1.0
    most = np.zeros(len(row_of) + 1)
    most[-1] = max_types
    entries |= {(len(row_of), at): 1.0 for at in column.values()}
    places = np.array(list(entries), np.int64).T
    shape = (len(most), n_before + len(picks) + len(types))
    rows = csr_array((list(entries.values()), (places[0], places[1])), shape=shape)
    return FewTypes(rows, most, len(types))
