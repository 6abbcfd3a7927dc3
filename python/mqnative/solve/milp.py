"""The remainder as a mixed-integer program, for what dynamic programming finds too wide.

The objective is what a mix is above the lower bound, scaled so that the solver's absolute tolerances are far
below the gap that is to be closed; sizes are whole numbers of their greatest common divisor.
"""

from __future__ import annotations

import numpy as np

from mqnative.solve.dynamic import Found
from mqnative.solve.highs import milp
from mqnative.solve.hull import I64Vector
from mqnative.solve.settle import Remainder

# What the known mix is above the bound becomes this; HiGHS stops at 1e-6 absolute.
_OBJECTIVE = 1e6
# HiGHS measures a gap relative to an objective that shrinks as mixes improve; with a constant added that
# dwarfs the rest, this share of it is the gap asked for.
_GAP = 1e-4
# Trust in HiGHS' dual bound ends where its feasibility tolerance (1e-7, 1e-6 with integers) begins.
_DOUBT = 1e-6
# HiGHS' own numbers: solved, and a limit was reached with the best so far.
_STATUS_WITH_BOUND = (0, 1)


def solve_milp(remainder: Remainder, *, gap: float, time_limit_s: float) -> Found:
    """The best mix that HiGHS finds.

    Its answer is rounded to whole choices and counted anew in integers; one that is over the budget by a
    byte, or no better than the known mix, is thrown away. Items with the same changes are counted together.

    Args:
        remainder: what is open.
        gap: stop at a mix proven to be within this of the best, nats per token.
        time_limit_s: stop then; the only thing here that may differ between two runs.
    """
    from scipy.optimize import Bounds, LinearConstraint  # type: ignore[import-untyped]
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    known = remainder.above_bound(remainder.known_damage)
    if remainder.n_items == 0 or known * remainder.unit <= gap:
        return Found(None, is_proven=remainder.n_items == 0, above_bound=0.0)
    alike = _alike(remainder)
    # How many of each set of items alike take each of their changes.
    changes = [np.arange(*_range(remainder, items[0])) for items in alike]
    change = np.concatenate(changes)
    owner = np.repeat(np.arange(len(alike)), [len(c) for c in changes])
    most = np.array([len(items) for items in alike])
    n = len(change)
    step = remainder.step_bytes
    left = remainder.left_bytes // step
    scale = _OBJECTIVE / known
    constant = min(gap / remainder.unit * scale, _OBJECTIVE) / _GAP
    # Two more variables: what is left of the budget, and 1.
    objective = np.concatenate([remainder.cost[change] * scale, [remainder.price * step * scale, constant]])
    lower = np.concatenate([np.zeros(n + 1), [1.0]])
    upper = np.concatenate([most[owner], [np.inf, 1.0]])
    integrality = np.concatenate([np.ones(n), [0.0, 0.0]])
    one_each = csr_array((np.ones(n), (owner, np.arange(n))), shape=(len(alike), n + 2))
    budget = csr_array(np.concatenate([remainder.more_bytes[change] // step, [1.0, 0.0]])[None, :])
    answer = milp(
        objective,
        integrality=integrality,
        bounds=Bounds(lower, upper),
        constraints=[LinearConstraint(one_each, -np.inf, most), LinearConstraint(budget, left, left)],
        # HiGHS' presolve, as in SciPy up to 1.15 at least, may cut off the optimum and call the rest optimal.
        options={"time_limit": time_limit_s, "mip_rel_gap": _GAP, "presolve": False},
    )
    above = 0.0
    if answer.status in _STATUS_WITH_BOUND and answer.mip_dual_bound is not None:
        claimed = (answer.mip_dual_bound - constant) / scale
        # A bound above the known mix is a mistake; it says nothing.
        above = claimed - _DOUBT * known if claimed <= (1 + _DOUBT) * known else 0.0
    better = None if answer.x is None else _better(remainder, alike, np.rint(answer.x[:n]).astype(np.int64))
    return Found(better, is_proven=False, above_bound=max(above, 0.0) * remainder.unit)


def _range(remainder: Remainder, item: int) -> tuple[int, int]:
    """Where an item's changes begin and end."""
    return int(remainder.first[item]), int(remainder.first[item + 1])


def _alike(remainder: Remainder) -> list[list[int]]:
    """Items in sets with the same changes, which would otherwise be tried in every order."""
    sets: dict[tuple[bytes, bytes], list[int]] = {}
    for i in range(remainder.n_items):
        at = slice(*_range(remainder, i))
        sets.setdefault((remainder.more_bytes[at].tobytes(), remainder.damage[at].tobytes()), []).append(i)
    return list(sets.values())


def _better(remainder: Remainder, alike: list[list[int]], counts: I64Vector) -> tuple[int, ...] | None:
    """The changes that the counts stand for; None unless they are a mix that fits and beats the known one."""
    chosen: list[int] = []
    left = iter(counts.tolist())
    for items in alike:
        begin, end = _range(remainder, items[0])
        waiting = list(items)
        for k in range(end - begin):
            n = next(left)
            if not 0 <= n <= len(waiting):
                return None
            chosen += [_range(remainder, item)[0] + k for item in waiting[:n]]
            waiting = waiting[n:]
    fits = int(remainder.more_bytes[chosen].sum()) <= remainder.left_bytes
    if not fits or int(remainder.damage[chosen].sum()) >= remainder.known_damage:
        return None
    return tuple(remainder.position[chosen].tolist())
