"""A problem by item and type, for questions about sets of types: what they cost, and what they can reach."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mqnative.solve.cover import Costs
from mqnative.solve.problem import Item, Problem

F64Matrix = npt.NDArray[np.float64]
TypeSet = npt.NDArray[np.bool_]

_PRICE_STEPS = 60
# Prices are found to this share of themselves; any price gives a bound.
_PRICE_PRECISION = 1e-9


@dataclass(frozen=True, eq=False)
class Several:
    """An item whose choices are not one for each type.

    Attributes:
        size, damage: float64, shape (n_choices,).
        used: bool, shape (n_choices, n_types): the types that each choice uses.
    """

    size: npt.NDArray[np.float64]
    damage: npt.NDArray[np.float64]
    used: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grid:
    """Sizes and damages by item and type.

    Attributes:
        types: names, sorted.
        size, damage: float64, shape (n_items, n_types), of the items that have one choice for a type;
            infinite where there is none.
        several: the other items.
        fixed_bytes: of the problem.
    """

    types: tuple[str, ...]
    size: F64Matrix
    damage: F64Matrix
    several: tuple[Several, ...]
    fixed_bytes: int

    @classmethod
    def of(cls, problem: Problem) -> Grid:
        """Sort a problem's choices by type; the order of its items does not matter."""
        items = sorted(problem.items, key=lambda i: i.name)
        types = tuple(sorted({t for i in items for c in i.choices for t in c.used}))
        column = {t: k for k, t in enumerate(types)}
        plain = [i for i in items if _is_plain(i)]
        size = np.full((len(plain), len(types)), np.inf)
        damage = np.full((len(plain), len(types)), np.inf)
        for row, item in enumerate(plain):
            for c in item.choices:
                at = column[next(iter(c.used))]
                size[row, at], damage[row, at] = c.size_bytes, c.damage
        several = tuple(_several(i, column) for i in items if not _is_plain(i))
        return cls(types, size, damage, several, problem.fixed_bytes)

    def named(self, types: TypeSet) -> frozenset[str]:
        """The names of a set of types."""
        return frozenset(self.types[k] for k in np.flatnonzero(types))

    def costs(self, price: float) -> Costs:
        """Damage and bytes at a price per byte."""
        single = np.where(np.isfinite(self.size), self.damage + price * self.size, np.inf)
        return Costs(single, tuple((s.damage + price * s.size, s.used) for s in self.several))

    def bytes(self) -> Costs:
        """Bytes alone."""
        return Costs(self.size, tuple((s.size, s.used) for s in self.several))

    def bound(self, types: TypeSet, budget_bytes: int, near: float) -> tuple[float, float]:
        """How little damage mixes of these types within a budget can have, and the price that proves it.

        Args:
            types: that give every item a choice.
            budget_bytes: whole-file bytes.
            near: where to look for the price.
        """
        budget = float(budget_bytes - self.fixed_bytes)
        part = _Part(self, types)
        best = (part.at(0.0, budget)[0], 0.0)
        low, high = 0.0, np.inf
        price = near if near > 0 else 1.0
        for _ in range(_PRICE_STEPS):
            bound, used_bytes = part.at(price, budget)
            best = max(best, (bound, price))
            if used_bytes > budget:
                low = price
            else:
                high = price
            if high - low <= _PRICE_PRECISION * high < np.inf:
                break
            # Outwards until both sides are known, then halving the logarithm.
            price = 4.0 * low if np.isinf(high) else high / 4.0 if low == 0 else float(np.sqrt(low * high))
        return best


class _Part:
    """The columns of a set of types."""

    def __init__(self, grid: Grid, types: TypeSet) -> None:
        size, damage = grid.size[:, types], grid.damage[:, types]
        self._is_there = np.isfinite(size)
        self._size, self._damage = np.where(self._is_there, size, 0.0), damage
        self._rows = np.arange(len(size))
        fits = [~(s.used & ~types).any(axis=1) for s in grid.several]
        self._several = [(s.size[f], s.damage[f]) for s, f in zip(grid.several, fits, strict=True)]

    def at(self, price: float, budget: float) -> tuple[float, float]:
        """The bound that a price gives, and the bytes that are bought at it."""
        cost = used_bytes = 0.0
        if len(self._size):
            costs = self._damage + price * self._size
            picks = costs.argmin(axis=1)
            cost = float(costs[self._rows, picks].sum())
            used_bytes = float(self._size[self._rows, picks].sum())
        for size, damage in self._several:
            pick = int(np.argmin(damage + price * size))
            cost += float(damage[pick] + price * size[pick])
            used_bytes += float(size[pick])
        return cost - price * budget, used_bytes


def with_types(problem: Problem, types: frozenset[str]) -> Problem:
    """The problem with only these types, which leave no item without a choice, and any number of them."""
    items = tuple(replace(i, choices=tuple(c for c in i.choices if c.used <= types)) for i in problem.items)
    return Problem(items, problem.fixed_bytes)


def _is_plain(item: Item) -> bool:
    """Whether every choice is one type, and no two are the same."""
    used = [c.used for c in item.choices]
    return all(len(u) == 1 for u in used) and len(set(used)) == len(used)


def _several(item: Item, column: dict[str, int]) -> Several:
    used = np.zeros((len(item.choices), len(column)), np.bool_)
    for row, c in enumerate(item.choices):
        used[row, [column[t] for t in c.used]] = True
    return Several(
        np.array([float(c.size_bytes) for c in item.choices]),
        np.array([c.damage for c in item.choices]),
        used,
    )
