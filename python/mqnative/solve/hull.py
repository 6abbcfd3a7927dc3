"""The linear relaxation: what a byte is worth, and how little damage any mix within a budget can have.

If a tensor could be split between types, only the choices on the lower convex hull of its (bytes, damage)
points would be used, and the best mix would take the steps along all hulls in the order of damage saved per
byte until the budget is spent. The step it stops at sets the price of a byte.

Source: Sinha and Zoltners (1979), The multiple-choice knapsack problem, Operations Research 27(3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mqnative.solve.problem import Choice, Problem, Solution, require_feasible, solution

I64Vector = npt.NDArray[np.int64]
F64Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """A problem as arrays, without the choices that no best mix needs.

    Items are sorted by name, so that the order they came in decides nothing. The choices of an item follow
    each other from small to large, each with less damage than the one before.

    Attributes:
        problem: where they come from.
        names: the items.
        choices: all choices left, item after item; a position here names a choice everywhere else.
        item: the item of each choice.
        first: the position of each item's smallest choice, and at the end the number of choices.
        size, damage: of each choice, bytes and nats per token.
        step_to: hull steps in the order they are taken: the choice that each leads to.
        step_price: damage saved per byte, non-increasing.
        step_bytes: bytes taken by all steps up to and including this one.
    """

    problem: Problem
    names: tuple[str, ...]
    choices: tuple[Choice, ...]
    item: I64Vector
    first: I64Vector
    size: I64Vector
    damage: F64Vector
    step_to: I64Vector
    step_price: F64Vector
    step_bytes: I64Vector

    def base(self) -> I64Vector:
        """Every item at its smallest choice."""
        base: I64Vector = self.first[:-1].copy()
        return base

    def budget_left(self, picks: I64Vector, budget_bytes: int) -> int:
        """Bytes of the budget that a mix leaves; negative when it is too large."""
        return budget_bytes - self.problem.fixed_bytes - int(self.size[picks].sum())

    def damage_of(self, picks: I64Vector) -> float:
        """The correctly rounded sum of a mix's damages."""
        return math.fsum(self.damage[picks].tolist())

    def solution(self, picks: I64Vector, lower_bound: float, method: str) -> Solution:
        """The mix as a solution, summed anew from the problem's own numbers."""
        chosen = {name: self.choices[p] for name, p in zip(self.names, picks.tolist(), strict=True)}
        return solution(self.problem, chosen, lower_bound, method)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The relaxed optimum at a budget, rounded down to whole choices.

    Attributes:
        picks: each item's choice, the hull steps taken until one does not fit.
        left_bytes: budget that ``picks`` leaves, at least 0.
        price: the price of a byte, nats per token; 0 when the budget does not bind.
        lower_bound: no mix within the budget has less damage.
    """

    picks: I64Vector
    left_bytes: int
    price: float
    lower_bound: float


def tabulate(problem: Problem) -> Table:
    """Sort, drop dominated choices, and find every hull; all that does not depend on a budget."""
    items = sorted(problem.items, key=lambda i: i.name)
    kept = [pareto(item.choices) for item in items]
    counts = np.array([len(k) for k in kept], np.int64)
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    choices = tuple(c for k in kept for c in k)
    size = np.array([c.size_bytes for c in choices], np.int64)
    damage = np.array([c.damage for c in choices], np.float64)
    steps: list[tuple[float, int, int]] = []
    for start, choices_kept in zip(first[:-1].tolist(), kept, strict=True):
        steps += _hull_steps(start, choices_kept)
    # A stable sort: an item's own steps, whose prices never rise, stay in order.
    steps.sort(key=lambda step: -step[0])
    return Table(
        problem=problem,
        names=tuple(i.name for i in items),
        choices=choices,
        item=np.repeat(np.arange(len(kept), dtype=np.int64), counts),
        first=first,
        size=size,
        damage=damage,
        step_to=np.array([s[1] for s in steps], np.int64),
        step_price=np.array([s[0] for s in steps], np.float64),
        step_bytes=np.cumsum(np.array([s[2] for s in steps], np.int64)),
    )


def pareto(choices: tuple[Choice, ...]) -> list[Choice]:
    """The choices that no other one equals or beats in both bytes and damage, from small to large."""
    best: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.size_bytes, c.damage, c.qtype)):
        if not best or choice.damage < best[-1].damage:
            best.append(choice)
    return best


def _hull_steps(start: int, choices: list[Choice]) -> list[tuple[float, int, int]]:
    """Price, target position and bytes of each step along the lower convex hull of Pareto choices."""
    hull: list[tuple[int, float]] = []  # index, price of the step to it
    for i, choice in enumerate(choices):
        price = math.inf
        while hull:
            j, price_before = hull[-1]
            saved = choices[j].damage - choice.damage
            price = saved / (choice.size_bytes - choices[j].size_bytes)
            if price <= price_before:
                break
            hull.pop()  # the step to j saves less per byte than skipping it
        hull.append((i, price if hull else math.inf))
    steps = []
    for (j, _), (i, price) in pairwise(hull):
        steps.append((price, start + i, choices[i].size_bytes - choices[j].size_bytes))
    return steps


def relax(table: Table, budget_bytes: int) -> Relaxation:
    """The relaxed optimum at a budget.

    Raises:
        InfeasibleBudgetError: no mix fits.
    """
    picks = table.base()
    left = table.budget_left(picks, budget_bytes)
    if left < 0:
        require_feasible(table.problem, budget_bytes)
    taken = int(np.searchsorted(table.step_bytes, left, side="right"))
    if taken:
        left -= int(table.step_bytes[taken - 1])
        # An item's later steps lead to later positions.
        np.maximum.at(picks, table.item[table.step_to[:taken]], table.step_to[:taken])
    price = float(table.step_price[taken]) if taken < len(table.step_to) else 0.0
    # Weak duality: for any price, sum of min(damage + price * bytes) - price * budget is a bound.
    bound = table.damage_of(picks) - price * left
    return Relaxation(picks, left, price, bound)


def fill(table: Table, relaxation: Relaxation) -> I64Vector:
    """A good mix: the relaxation's, then again and again the one change that saves most and still fits."""
    picks: I64Vector = relaxation.picks.copy()
    left = relaxation.left_bytes
    while True:
        base = picks[table.item]
        more_bytes = table.size - table.size[base]
        saved = np.where(more_bytes <= left, table.damage[base] - table.damage, 0.0)
        best = int(np.argmax(saved)) if len(saved) else 0
        if not len(saved) or saved[best] <= 0.0:
            return picks
        picks[table.item[best]] = best
        left -= int(more_bytes[best])


def solve_greedy_hull(problem: Problem, budget_bytes: int) -> Solution:
    """The relaxed optimum rounded down and filled up: fast, good, and within a known gap of the best.

    Args:
        problem: what to choose.
        budget_bytes: whole-file bytes not to exceed.

    Raises:
        InfeasibleBudgetError: no mix fits.
    """
    table = tabulate(problem)
    relaxation = relax(table, budget_bytes)
    return table.solution(fill(table, relaxation), relaxation.lower_bound, "hull")
