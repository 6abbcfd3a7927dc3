"""Types and placement as one mixed-integer program: the least damage within every device's memory.

A site is one way to lay the model out: which tensors lie where, and what caches and buffers take there.
Every tensor gets one choice and the model one site; what a choice takes, and how long it computes, depends on
the site through the places of its tensors alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mqnative.solve.few_types import few_types
from mqnative.solve.highs import milp
from mqnative.solve.problem import Choice, Problem, Solution, solution

F64 = npt.NDArray[np.float64]
RESOURCES = ("device", "host", "file", "seconds")
# A second program makes what the host holds smallest among mixes whose damage is above the least by no more
# than this share.
THRIFT = 0.005
_GAP = 1e-6
_TIME_LIMIT_S = 30.0
# HiGHS keeps to constraints within 1e-6 of their scale; a mix that is over by a byte is solved again.
_TRIES = 6
_TIGHTER = 4e-6


@dataclass(frozen=True)
class Site:
    """One way to lay the model out.

    Attributes:
        label: for people.
        device_bytes, host_bytes: of everything that has no choice.
        seconds: per token, of everything that has no choice; 0 where speed is not asked for.
        damage: what the site itself costs, by the types of its cache.
        choices: item -> what each of its choices takes at this site: an array of (device bytes, host bytes,
            file bytes, seconds), one row a choice.
    """

    label: str
    device_bytes: int
    host_bytes: int
    seconds: float
    choices: Mapping[str, F64] = field(repr=False)
    damage: float = 0.0


@dataclass(frozen=True)
class Capacity:
    """What must not be exceeded; None where there is no limit."""

    device_bytes: int | None = None
    host_bytes: int | None = None
    file_bytes: int | None = None
    seconds: float | None = None

    def values(self) -> tuple[float | None, ...]:
        """In the order of `RESOURCES`."""
        return self.device_bytes, self.host_bytes, self.file_bytes, self.seconds


@dataclass(frozen=True)
class Placed:
    """A solved mix and its site.

    Attributes:
        solution: the mix; its gap includes what thrift gave away.
        site: position among the sites.
        device_bytes, host_bytes: what they hold.
        seconds: per token, as predicted.
    """

    solution: Solution
    site: int
    device_bytes: int
    host_bytes: int
    seconds: float


def smallest(problem: Problem, site: Site) -> tuple[int, int, int, float]:
    """The least that a site takes of each resource, each for itself."""
    least = np.array([site.device_bytes, site.host_bytes, problem.fixed_bytes, site.seconds], np.float64)
    for item in problem.items:
        least += site.choices[item.name].min(axis=0)
    return int(least[0]), int(least[1]), int(least[2]), float(least[3])


def fits(problem: Problem, site: Site, capacity: Capacity) -> bool:
    """Whether the smallest and fastest choices are within every limit, each for itself."""
    values = zip(smallest(problem, site), capacity.values(), strict=True)
    return all(limit is None or least <= limit for least, limit in values)


def solve_placed(
    problem: Problem,
    sites: Sequence[Site],
    capacity: Capacity,
    *,
    thrift: float = THRIFT,
    time_limit_s: float = _TIME_LIMIT_S,
) -> Placed | None:
    """The least damaging mix that some site holds, and that site.

    Args:
        problem: what to choose.
        sites: where it may go.
        capacity: limits.
        thrift: share of the damage that may be given away for fewer bytes in main memory.
        time_limit_s: for each of the two programs.

    Returns:
        None if nothing fits.
    """
    possible = [k for k, site in enumerate(sites) if fits(problem, site, capacity)]
    if not possible:
        return None
    limits = list(capacity.values())
    for _ in range(_TRIES):
        program = _Program(problem, [sites[k] for k in possible], limits)
        found = program.run(time_limit_s=time_limit_s)
        if found is None:
            return None
        best, bound = found
        if thrift > 0:
            least = math.fsum([sites[possible[best.site]].damage, *(c.damage for c in best.chosen)])
            slack = thrift * abs(least) + 1e-12
            cheaper = program.run(time_limit_s=time_limit_s, most_damage=least + slack)
            if cheaper is not None and cheaper[0].total[1] < best.total[1]:
                best = cheaper[0]
        over = [
            limit is not None and total > limit
            for total, limit in zip(best.total, capacity.values(), strict=True)
        ]
        if not any(over):
            chosen = {i.name: c for i, c in zip(problem.items, best.chosen, strict=True)}
            device, host, _, seconds = best.total
            # The program proves a bound to its tolerance; no mix has less than every tensor's least.
            least = math.fsum([min(c.damage for c in i.choices) for i in problem.items])
            mix = solution(problem, chosen, max(bound - sites[possible[best.site]].damage, least), "exact")
            return Placed(mix, possible[best.site], round(device), round(host), seconds)
        limits = [
            limit * (1 - _TIGHTER) if limit is not None and is_over else limit
            for limit, is_over in zip(limits, over, strict=True)
        ]
    return None


@dataclass(frozen=True)
class _Mix:
    """Choices by item, the site, and what both take of each resource, counted anew."""

    chosen: tuple[Choice, ...]
    site: int
    total: tuple[float, ...]


class _Program:
    """The mixed-integer program: variables are the sites and, for each item, a choice at a kind of place."""

    def __init__(self, problem: Problem, sites: Sequence[Site], limits: Sequence[float | None]) -> None:
        self.problem, self.sites = problem, sites
        self.limits = limits
        n_sites = len(sites)
        self.base = np.array(
            [[s.device_bytes, s.host_bytes, problem.fixed_bytes, s.seconds] for s in sites], np.float64
        )
        damage = [np.array([s.damage for s in sites], np.float64)]
        use = [self.base]
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        self.owner: list[tuple[int, int]] = []
        at, n_rows = n_sites, 0
        for i, item in enumerate(problem.items):
            kinds: dict[bytes, list[int]] = {}
            for k, site in enumerate(sites):
                kinds.setdefault(site.choices[item.name].tobytes(), []).append(k)
            for members in kinds.values():
                takes = sites[members[0]].choices[item.name]
                n = len(item.choices)
                damage.append(np.array([c.damage for c in item.choices]))
                use.append(takes)
                rows += [n_rows] * (n + len(members))
                columns += [*range(at, at + n), *members]
                values += [1.0] * n + [-1.0] * len(members)
                self.owner += [(i, c) for c in range(n)]
                at, n_rows = at + n, n_rows + 1
        rows += [n_rows] * n_sites
        columns += range(n_sites)
        values += [1.0] * n_sites
        self.entries = (values, (rows, columns))
        self.right = np.zeros(n_rows + 1)
        self.right[-1] = 1.0
        most = problem.max_types
        uses = [(i, problem.items[i].choices[c].used) for i, c in self.owner]
        self.few = None if most is None else few_types(uses, n_sites, most)
        n_types = 0 if self.few is None else self.few.n_types
        self.damage = np.concatenate([*damage, np.zeros(n_types)])
        self.use = np.concatenate([*use, np.zeros((n_types, len(RESOURCES)))])

    def run(self, *, time_limit_s: float, most_damage: float | None = None) -> tuple[_Mix, float] | None:
        """The mix of least damage and a bound; or, with ``most_damage``, the one of least host bytes."""
        from scipy.optimize import Bounds, LinearConstraint  # type: ignore[import-untyped]
        from scipy.sparse import csr_array  # type: ignore[import-untyped]

        n = len(self.damage)
        objective = self.damage if most_damage is None else self.use[:, 1]
        scale = 1e3 / max(float(np.abs(objective).max()), 1e-300)
        constraints = [
            LinearConstraint(csr_array(self.entries, shape=(len(self.right), n)), self.right, self.right)
        ]
        for resource, limit in enumerate(self.limits):
            if limit is not None:
                row = self.use[:, resource] / max(limit, 1e-30)
                constraints.append(LinearConstraint(csr_array(row[None, :]), -np.inf, 1.0))
        if self.few is not None:
            constraints.append(LinearConstraint(self.few.rows, -np.inf, self.few.most))
        if most_damage is not None:
            row = self.damage / most_damage
            constraints.append(LinearConstraint(csr_array(row[None, :]), -np.inf, 1.0))
        answer = milp(
            objective * scale,
            integrality=np.ones(n),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"time_limit": time_limit_s, "mip_rel_gap": _GAP, "presolve": True},
        )
        if answer.x is None:
            return None
        bound = -math.inf if answer.mip_dual_bound is None else answer.mip_dual_bound / scale
        return self._mix(np.rint(answer.x).astype(bool)), bound

    def _mix(self, picked: npt.NDArray[np.bool_]) -> _Mix:
        n_sites = len(self.sites)
        site = int(np.flatnonzero(picked[:n_sites])[0])
        chosen: dict[int, Choice] = {}
        for position in np.flatnonzero(picked[n_sites : n_sites + len(self.owner)]):
            i, c = self.owner[position]
            chosen[i] = self.problem.items[i].choices[c]
        total = tuple(float(t) for t in self.use[picked].sum(axis=0))
        return _Mix(tuple(chosen[i] for i in range(len(self.problem.items))), site, total)


def pinned(problem: Problem, found: Placed, site: Site, *, is_host: bool = False) -> Problem:
    """The problem with everything that takes no device memory at the site kept as it was solved.

    Args:
        problem: what was solved.
        found: its solution.
        site: where it was found.
        is_host: main memory counts, since there is no device.
    """
    items = []
    for item in problem.items:
        is_free = bool(site.choices[item.name][:, int(is_host)].any())
        items.append(item if is_free else replace(item, choices=(found.solution.choices[item.name],)))
    return replace(problem, items=tuple(items))
