"""The remainder as a mixed-integer program, for what dynamic programming finds too wide.

The objective is what a mix is above the lower bound, scaled so that the solver's absolute tolerances are far
below the gap that is to be closed; sizes are whole numbers of their greatest common divisor.
"""

from __future__ import annotations

import numpy as np

from mqnative.solve.dynamic import Found
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
    byte, or no better than the known mix, is thrown away.

    Args:
        remainder: what is open.
        gap: stop at a mix proven to be within this of the best, nats per token.
        time_limit_s: stop then; the only thing here that may differ between two runs.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    known = remainder.above_bound(remainder.known_damage)
    n = len(remainder.position)
    if n == 0 or known * remainder.unit <= gap:
        return Found(None, is_proven=n == 0, above_bound=0.0)
    counts = np.diff(remainder.first)
    item = np.repeat(np.arange(remainder.n_items), counts)
    step = remainder.step_bytes
    left = remainder.left_bytes // step
    scale = _OBJECTIVE / known
    constant = min(gap / remainder.unit * scale, _OBJECTIVE) / _GAP
    # Two more variables: what is left of the budget, and 1.
    objective = np.concatenate([remainder.cost * scale, [remainder.price * step * scale, constant]])
    lower = np.concatenate([np.zeros(n + 1), [1.0]])
    upper = np.concatenate([np.ones(n), [np.inf, 1.0]])
    integrality = np.concatenate([np.ones(n), [0.0, 0.0]])
    one_each = csr_array((np.ones(n), (item, np.arange(n))), shape=(remainder.n_items, n + 2))
    budget = csr_array(np.concatenate([remainder.more_bytes // step, [1.0, 0.0]])[None, :])
    answer = milp(
        objective,
        integrality=integrality,
        bounds=Bounds(lower, upper),
        constraints=[LinearConstraint(one_each, -np.inf, 1.0), LinearConstraint(budget, left, left)],
        options={"time_limit": time_limit_s, "mip_rel_gap": _GAP},
    )
    above = 0.0
    if answer.status in _STATUS_WITH_BOUND and answer.mip_dual_bound is not None:
        above = min((answer.mip_dual_bound - constant) / scale, known) - _DOUBT * known
    chosen = np.zeros(0, np.int64) if answer.x is None else np.flatnonzero(answer.x[:n] > 0.5)
    is_better = (
        len(np.unique(item[chosen])) == len(chosen)
        and int(remainder.more_bytes[chosen].sum()) <= remainder.left_bytes
        and int(remainder.damage[chosen].sum()) < remainder.known_damage
    )
    changes = tuple(remainder.position[chosen].tolist()) if is_better else None
    return Found(changes, is_proven=False, above_bound=max(above, 0.0) * remainder.unit)
