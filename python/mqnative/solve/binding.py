"""What a constraint costs, and what more bytes would buy: solved again without the one, or with the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mqnative.errors import InfeasibleBudgetError, InfeasibleConstraintsError
from mqnative.solve.problem import Problem, Solution
from mqnative.solve.restrict import Facts, Restricted, restrict

# The exact solver: a problem and a budget in bytes.
Best = Callable[[Problem, int], Solution]

MIB = 1 << 20
# A damage smaller than this share of the mix's is rounding.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Binding:
    """What one constraint costs.

    Attributes:
        text: the constraint.
        more_damage: of the best mix with it, against the best one without; 0 if it does not bind; None if
            without it there would be none.
        tensors: that it keeps from what they would have at this price of a byte.
    """

    text: str
    more_damage: float | None
    tensors: tuple[str, ...]

    @property
    def binds(self) -> bool:
        """Whether the mix would be better without it."""
        return self.more_damage is None or self.more_damage > 0


@dataclass(frozen=True)
class MoreBudget:
    """What the best mix would gain from more bytes.

    Attributes:
        more_bytes: the bytes.
        less_damage: nats per token.
        changes: (tensor, type now, type then).
    """

    more_bytes: int
    less_damage: float
    changes: tuple[tuple[str, str, str], ...]


def binding(
    text: str,
    found: Restricted,
    optimum: Solution,
    budget_bytes: int,
    best: Best,
    facts: Facts,
    kept: Mapping[str, tuple[str, ...]],
) -> Binding:
    """What a constraint costs.

    Args:
        text: the constraint, as `Constraints.texts` has it.
        found: the problem and all its constraints.
        optimum: the exact solution of ``found.problem``.
        budget_bytes: that it was solved for.
        best: the exact solver.
        facts: by tensor.
        kept: constraint -> tensors that it keeps from what they would have.
    """
    without = found.constraints.without(text)
    try:
        free = best(restrict(found.free, without, facts).problem, budget_bytes)
    except (InfeasibleBudgetError, InfeasibleConstraintsError):
        return Binding(text, None, kept[text])
    more = optimum.damage - free.damage
    return Binding(text, more if more > _NOTHING * abs(optimum.damage) else 0.0, kept[text])


def more_budget(problem: Problem, solution: Solution, best: Best, budget_bytes: int) -> MoreBudget:
    """What one more MiB would buy.

    Args:
        problem: what was solved.
        solution: the mix.
        best: the exact solver.
        budget_bytes: that it was solved for.
    """
    larger = best(problem, budget_bytes + MIB)
    changes = tuple(
        (i.name, solution.choices[i.name].qtype, larger.choices[i.name].qtype)
        for i in problem.items
        if larger.choices[i.name].qtype != solution.choices[i.name].qtype
    )
    return MoreBudget(MIB, max(solution.damage - larger.damage, 0.0), changes)
