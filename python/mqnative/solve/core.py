"""What is left to decide once bounds have settled most tensors, in integers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mqnative.solve.hull import F64Vector, I64Vector, Relaxation, Table, reduced_costs

# Sums over the core stay below 2^62, so that they are exact in int64.
_SUM_BITS = 61
# Reduced costs are float64 sums of a few terms; nothing is discarded for less than this share of them.
_ROUNDING = 2.0**-44


@dataclass(frozen=True, eq=False)
class CoreItem:
    """A tensor that is not settled: its ways to leave the relaxation's choice.

    Attributes:
        positions: the choices' positions in the table.
        size: bytes more than the relaxation's choice.
        damage: damage more than the relaxation's choice, in the core's unit.
        cost: reduced cost of each, in the unit.
    """

    positions: I64Vector
    size: I64Vector
    damage: I64Vector
    cost: F64Vector


@dataclass(frozen=True, eq=False)
class Core:
    items: tuple[CoreItem, ...]
    left_bytes: int
    price: float
    incumbent: int
    unit: float


def settle(table: Table, relaxation: Relaxation, incumbent: I64Vector) -> Core:
    costs = reduced_costs(table, relaxation)
    base = relaxation.picks[table.item]
    room = (
        math.fsum((table.damage[incumbent] - table.damage[relaxation.picks]).tolist())
        + relaxation.price * relaxation.left_bytes
    )
    scale = np.abs(table.damage) + np.abs(table.damage[base])
    away = np.arange(len(table.item)) != base
    is_open = away & (costs <= room + _ROUNDING * (room + scale))
    positions = np.flatnonzero(is_open)
    more = table.damage[positions] - table.damage[base[positions]]
    widest = np.zeros(len(table.first) - 1)
    np.maximum.at(widest, table.item[positions], np.abs(more))
    total = math.fsum(widest.tolist())
    unit = 2.0 ** (math.frexp(total)[1] - _SUM_BITS) if total else 1.0
    units = np.rint(more / unit).astype(np.int64)
    size = table.size[positions] - table.size[base[positions]]
    price = relaxation.price / unit
    cost = np.maximum(units + price * size, 0.0)
    owners = table.item[positions]
    bounds = np.flatnonzero(np.diff(owners, prepend=-1)).tolist() + [len(owners)]
    items = [CoreItem(positions[a:b], size[a:b], units[a:b], cost[a:b]) for a, b in zip(bounds, bounds[1:])]
    items.sort(key=lambda i: float(i.cost.min()))
    inc = 0
    for it in items:
        pass
    where = {int(p): int(u) for p, u in zip(positions, units)}
    inc = sum(where[int(p)] for p, b in zip(incumbent, relaxation.picks) if p != b)
    return Core(tuple(items), relaxation.left_bytes, price, inc, unit)


@dataclass
class Result:
    found: list[int] | None
    complete: bool
    lower: float
    states: int
    peak: int


def search(core: Core, max_states: int) -> Result:
    n = len(core.items)
    up = np.full(n + 1, core.price)
    down = np.full(n + 1, np.inf)
    for i in range(n - 1, -1, -1):
        it = core.items[i]
        g = it.size > 0
        s = it.size < 0
        up[i] = min(up[i + 1], (it.cost[g] / it.size[g]).min()) if g.any() else up[i + 1]
        down[i] = min(down[i + 1], (it.cost[s] / -it.size[s]).min()) if s.any() else down[i + 1]
    S = np.zeros(1, np.int64)
    D = np.zeros(1, np.int64)
    best = (core.incumbent, None)
    best_at = None
    if core.incumbent >= 0 and core.left_bytes >= 0:
        best_at = None
    trail = []
    total = 0
    peak = 1
    complete = True
    for pos, it in enumerate(core.items):
        limit = best[0] + core.price * core.left_bytes
        tol = _ROUNDING * (abs(best[0]) + core.price * core.left_bytes) + 4
        if it.cost.min() > limit + tol:
            break
        ok = it.cost <= limit + tol
        sizes = np.concatenate([[0], it.size[ok]])
        dams = np.concatenate([[0], it.damage[ok]])
        poss = np.concatenate([[-1], it.positions[ok]])
        nS = (S[None, :] + sizes[:, None]).ravel()
        nD = (D[None, :] + dams[:, None]).ravel()
        left = core.left_bytes - nS
        with np.errstate(invalid="ignore"):
            fut = np.where(left >= 0, left * up[pos + 1], np.where(left < 0, -left * down[pos + 1], 0))
        # potential: D + price*S + fut  - with up<=price:
        pot = nD + core.price * nS + fut
        keep = np.flatnonzero(pot <= limit + tol + _ROUNDING * np.abs(nD))
        order = keep[np.lexsort((nD[keep], nS[keep]))]
        d = nD[order]
        run = np.minimum.accumulate(d)
        good = np.ones(len(d), bool)
        good[1:] = d[1:] < run[:-1]
        order = order[good]
        parents = order % len(S)
        opts = poss[order // len(S)]
        S = nS[order]
        D = nD[order]
        trail.append((parents, opts))
        total += len(S)
        peak = max(peak, len(S))
        if not len(S):
            break
        k = int(np.searchsorted(S, core.left_bytes, side="right")) - 1
        if k >= 0 and (
            D[k] < best[0]
            or best_at is None
            and D[k] <= best[0]
            or best_at is not None
            and D[k] == best[0]
            and S[k] < best_at[2]
        ):
            best = (int(D[k]), None)
            best_at = (pos, k, int(S[k]))
        if total > max_states:
            complete = False
            break
    found = None
    if best_at:
        pos, k, _ = best_at
        found = []
        for p in range(pos, -1, -1):
            parents, opts = trail[p]
            if opts[k] >= 0:
                found.append(int(opts[k]))
            k = parents[k]
    return Result(found, complete, 0.0, total, peak)
