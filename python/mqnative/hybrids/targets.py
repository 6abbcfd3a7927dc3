"""Sizes worth a hybrid, and the problem whose variables are groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from mqnative.errors import InfeasibleBudgetError
from mqnative.hybrids.chords import Point
from mqnative.hybrids.isolation import Sample
from mqnative.solve.problem import Choice, Item, Problem, bytes_text

# A baseline's size that is larger than one that was asked for by no more than this is the same.
_SAME = 1.001

Why = Literal["at", "between", "asked", "premium"]


@dataclass(frozen=True)
class Target:
    """A size that a hybrid is looked for at.

    Attributes:
        size_bytes: most of the whole file.
        why: a baseline's size, between two of them, asked for, or a hair above a baseline.
        near: the baselines meant.
    """

    size_bytes: int
    why: Why
    near: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """As a phrase."""
        names = " and ".join(self.near)
        return {
            "at": f"the bytes of {names}",
            "between": f"between {names}",
            "asked": "asked for",
            "premium": f"1 % above {names}",
        }[self.why]


def targets_of(
    baselines: Sequence[Point], asked: Iterable[int], *, spacing: float, least: int, most: int
) -> list[Target]:
    """Every size of interest, the smallest first.

    Args:
        baselines: those worth comparing with, and the bytes a file may have that takes their place.
        asked: the user's sizes.
        spacing: sizes closer than this share are one.
        least: of the files that can be made, in bytes.
        most: the same.

    Raises:
        InfeasibleBudgetError: a size that was asked for lies outside of these.
    """
    found = []
    for size in sorted(set(asked)):
        if not least <= size <= most:
            raise InfeasibleBudgetError(
                f"--sizes {size}: no file of this model has that size; ask for {bytes_text(least)} to "
                f"{bytes_text(most)}",
                budget_bytes=size,
                smallest_bytes=least,
                largest_bytes=most,
            )
        found.append(Target(size, "asked"))
    ordered = sorted(baselines, key=lambda p: (p.size_bytes, p.name))
    served = [(t.size_bytes, _SAME * t.size_bytes) for t in found]
    found += [
        Target(p.size_bytes, "at", (p.name,))
        for p in ordered
        if least <= p.size_bytes <= most and not any(low <= p.size_bytes <= high for low, high in served)
    ]
    for low, high in pairwise(ordered):
        # As many steps as leave each wider than the spacing.
        steps = int(math.log(high.size_bytes / low.size_bytes) / math.log((1.0 + spacing) ** 2)) + 1
        for i in range(1, steps):
            size = round(low.size_bytes * (high.size_bytes / low.size_bytes) ** (i / steps))
            if least <= size <= most:
                found.append(Target(size, "between", (low.name, high.name)))
    distinct = {t.size_bytes: t for t in reversed(found)}
    return [distinct[size] for size in sorted(distinct)]


def premium_target(baseline: Point, share: float, most: int) -> Target | None:
    """The size a hair above a baseline that nothing of its own bytes replaced; None above ``most``."""
    size = int(baseline.size_bytes * (1.0 + share))
    return Target(size, "premium", (baseline.name,)) if size <= most else None


@dataclass(frozen=True)
class GroupProblem:
    """The choice of one pattern for each group.

    Attributes:
        problem: items are groups, choices patterns.
        patterns: (group, label of the choice) -> name of the pattern.
    """

    problem: Problem
    patterns: Mapping[tuple[str, str], str] = field(repr=False)

    def chosen(self, types: Mapping[str, str]) -> dict[str, str]:
        """Group -> pattern of a mix of this problem."""
        found = {}
        for item in self.problem.items:
            for choice in item.choices:
                if all(types.get(name) == t for name, t in choice.types(item.name).items()):
                    found[item.name] = self.patterns[item.name, choice.qtype]
        return found


def group_problem(samples: Mapping[str, Sequence[Sample]], fixed_bytes: int) -> GroupProblem:
    """The problem over the patterns that isolation left.

    Args:
        samples: group -> its samples.
        fixed_bytes: everything else in the file.
    """
    items, patterns = [], {}
    for group, found in samples.items():
        choices = []
        for s in found:
            parts = tuple(s.pattern.types.items())
            choices.append(
                Choice(s.name, s.pattern.size_bytes, max(0.0, s.damage.value), s.damage.se**2, parts)
            )
            patterns[group, s.name] = s.name
        items.append(Item(group, tuple(choices)))
    return GroupProblem(Problem(tuple(items), fixed_bytes), patterns)
