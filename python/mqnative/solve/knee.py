"""Tensor by tensor: the last type before the damage jumps.

Each tensor is walked down from its largest quantized type over those types that no other one beats in both
bytes and damage. It gets the last type before the first jump that counts. What counts as a jump is a rule
with a threshold. Where there is a budget, all thresholds are moved together until the file is as large as
fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mqnative.solve.hull import pareto, relax, tabulate
from mqnative.solve.problem import Choice, Item, Problem, Solution, require_feasible, solution

Rule = Literal["relative", "absolute", "two-sigma", "importance", "curvature"]
RULES: tuple[Rule, ...] = ("relative", "absolute", "two-sigma", "importance", "curvature")

# What a rule's threshold is if none is given. A bit less costs about four times the damage: one that costs
# more than that again is a jump. 1e-4 nats are about what Q8_0 costs a whole small model. Two standard
# deviations are the rule's name. The slope of ln damage against bits is about 1.4 on an even curve.
DEFAULT_THRESHOLDS: dict[Rule, float] = {
    "relative": 4.0,
    "absolute": 1e-4,
    "two-sigma": 2.0,
    "importance": 4.0,
    "curvature": 1.0,
}
# With the rule "importance", a tensor of percentile p has the threshold divided by p + this.
_EPSILON = 0.1
# One-sided 95 %: a jump counts by the least it may be.
_Z = 1.645
_STEPS = 80
_WIDEST = 2.0**60
# A spread of nothing, as a share of the mean.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Jump:
    """A step down, as rules see it.

    Attributes:
        above, below: the choices it leads from and to.
        size: how much damage it adds at least, by the interval of its difference.
        before: what earlier steps of the tensor added.
        slope, slope_before: rise of ln damage per share of the tensor's largest size, of this step and of the
            one before; None where there is none.
    """

    above: Choice
    below: Choice
    size: float
    before: tuple[float, ...]
    slope: float
    slope_before: float | None


def solve_knee(
    problem: Problem, budget_bytes: int | None, rule: Rule = "relative", threshold: float | None = None
) -> Solution:
    """Every tensor at its own knee.

    Args:
        problem: what to choose.
        budget_bytes: whole-file bytes not to exceed; None leaves the thresholds as they are.
        rule: ``relative``: a step adds more than ``threshold`` times the damage before it. ``absolute``: more
            than ``threshold`` nats per token. ``two-sigma``: more than the mean of the steps before it and
            ``threshold`` of their standard deviations. ``importance``: as relative, the threshold divided by
            the tensor's importance percentile (0 to 1, and 0.1). ``curvature``: ln damage rises more steeply
            than in the step before, by more than ``threshold`` per share of the tensor's largest size.
        threshold: default: of the rule.

    Returns:
        The mix; its gap is against the best mix of the budget, or of its own size without one.

    Raises:
        InfeasibleBudgetError: no mix fits.
    """
    given = DEFAULT_THRESHOLDS[rule] if threshold is None else threshold
    walks = {item.name: _Walk(item, rule) for item in problem.items}

    def mix(scale: float) -> tuple[int, dict[str, Choice]]:
        picks = {name: walk.choice(given * scale) for name, walk in walks.items()}
        return problem.fixed_bytes + sum(c.size_bytes for c in picks.values()), picks

    scale, picks = 1.0, mix(1.0)[1]
    if budget_bytes is not None:
        require_feasible(problem, budget_bytes)
        scale = _largest_that_fits(lambda s: mix(s)[0] <= budget_bytes)
        picks = mix(scale)[1]
    found = solution(problem, picks, math.inf, "knee")
    size = found.size_bytes if budget_bytes is None else budget_bytes
    bound = relax(tabulate(problem), size).lower_bound
    reasons = {name: walk.reason(given * scale) for name, walk in walks.items()}
    return solution(problem, picks, bound, "knee", reasons)


def _largest_that_fits(fits: Callable[[float], bool]) -> float:
    """The smallest scale of the thresholds whose file fits."""
    low, high = 1.0 / _WIDEST, _WIDEST
    if fits(low):
        return low
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


class _Walk:
    """One tensor's steps down, and where a threshold stops them."""

    def __init__(self, item: Item, rule: Rule) -> None:
        self._item, self._rule = item, rule
        best = pareto(item.choices)
        # The stored type costs nothing, so that every step down from it is infinitely worse.
        self._choices = [c for c in best if c.damage > 0][::-1] or best[-1:]
        self._jumps = list(_jumps(self._choices))

    def choice(self, threshold: float) -> Choice:
        """The last choice before the first jump."""
        for jump in self._jumps:
            if self._counts(jump, threshold):
                return jump.above
        return self._choices[-1]

    def reason(self, threshold: float) -> str:
        """Why it stops there."""
        for jump in self._jumps:
            if self._counts(jump, threshold):
                return f"{jump.below.qtype} would be the first jump: {self._said(jump, threshold)}"
        return "no smaller type jumps" if self._jumps else "it has no other type"

    def _limit(self, threshold: float) -> float:
        if self._rule != "importance" or self._item.importance is None:
            return threshold
        return threshold / (self._item.importance + _EPSILON)

    def _measure(self, jump: Jump) -> float:
        """What the rule compares with its threshold."""
        if self._rule in ("relative", "importance"):
            return jump.size / jump.above.damage if jump.above.damage > 0 else math.inf
        if self._rule == "absolute":
            return jump.size
        if self._rule == "two-sigma":
            if len(jump.before) < 2:
                return -math.inf
            mean = math.fsum(jump.before) / len(jump.before)
            spread = math.sqrt(math.fsum((b - mean) ** 2 for b in jump.before) / (len(jump.before) - 1))
            return (jump.size - mean) / max(spread, _LEAST_SPREAD * mean, math.ulp(0.0))
        return -math.inf if jump.slope_before is None else jump.slope - jump.slope_before

    def _counts(self, jump: Jump, threshold: float) -> bool:
        return self._measure(jump) > self._limit(threshold)

    def _said(self, jump: Jump, threshold: float) -> str:
        value, limit = self._measure(jump), self._limit(threshold)
        unit = {
            "relative": "times the damage before it",
            "importance": "times the damage before it",
            "absolute": "nats per token",
            "two-sigma": "standard deviations above the steps before it",
            "curvature": "steeper than the step before",
        }[self._rule]
        return f"{value:.3g} {unit}, over {limit:.3g}"


def _jumps(choices: list[Choice]) -> list[Jump]:
    """The steps of a tensor, from the largest choice down."""
    jumps: list[Jump] = []
    before: list[float] = []
    slope_before = None
    largest = choices[0].size_bytes
    for above, below in pairwise(choices):
        added = below.damage - above.damage
        # Damages of one tensor come from one probe and rise and fall together.
        doubt = _Z * abs(math.sqrt(below.variance) - math.sqrt(above.variance))
        bits = (above.size_bytes - below.size_bytes) / max(largest, 1)
        slope = (math.log(below.damage) - math.log(above.damage)) / bits if above.damage > 0 else math.inf
        jumps.append(Jump(above, below, max(added - doubt, 0.0), tuple(before), slope, slope_before))
        before.append(added)
        slope_before = slope
    return jumps
