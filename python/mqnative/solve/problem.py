"""What is to be chosen and what an answer is: one choice per tensor, bytes counted to the byte.

A choice that a constraint forbids is one that is not in its item, and tensors that must share a type are one
item; every solver reads the same problem and returns the same kind of solution, so that they can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mqnative.errors import InfeasibleBudgetError, NonFiniteError, UnsupportedTypeError
from mqnative.formats.qtypes import qtype as known_type


@dataclass(frozen=True)
class Choice:
    """One type that a tensor may get, or one for each tensor of an item of several.

    Attributes:
        qtype: the type's name; of several different types a label such as ``Q4_K + Q6_K``.
        size_bytes: what the item takes in the file, padding included.
        damage: predicted KLD that the item adds at this choice, nats per token.
        variance: of that prediction.
        parts: (tensor, type) of everything that the choice decides; empty if that is the item's own tensor.
    """

    qtype: str
    size_bytes: int
    damage: float
    variance: float = 0.0
    parts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            raise ValueError(f"expected a size of at least 0 bytes for {self.qtype}, got {self.size_bytes}")

    @property
    def used(self) -> frozenset[str]:
        """The types that the choice uses."""
        return frozenset(t for _, t in self.parts) or frozenset((self.qtype,))

    @property
    def bpw(self) -> float:
        """Bits per weight of its type; the least of several.

        Raises:
            UnsupportedTypeError: ggml knows no such type.
        """
        return min(known_type(t).bpw for t in self.used)

    def types(self, item: str) -> dict[str, str]:
        """The type of each tensor, as the choice of the item of that name decides."""
        return dict(self.parts) or {item: self.qtype}


@dataclass(frozen=True)
class Item:
    """A tensor and the types it may get, or several tensors that are decided together.

    Attributes:
        name: the tensor; the first one of several.
        choices: what it may get.
        importance: of its weights within the model, 0 to 1 (a percentile); None if it is not known.
        second_use: what the file would call the tensor's second use if it had weights of its own: the head
            of a model with tied embeddings. A choice that does not name it gives it the tensor's type.

    Raises:
        UnsupportedTypeError: there is none.
        NonFiniteError: a damage is not a number; the sum of a mix would not be one either.
    """

    name: str
    choices: tuple[Choice, ...]
    importance: float | None = None
    second_use: str | None = None

    def __post_init__(self) -> None:
        if not self.choices:
            raise UnsupportedTypeError(
                f"no type is left for {self.name}; allow at least one",
                tensor=self.name,
                reason="no choices",
                allowed=(),
            )
        qtypes = [c.qtype for c in self.choices]
        if len(set(qtypes)) < len(qtypes):
            raise ValueError(f"expected each type once for {self.name}, got {', '.join(qtypes)}")
        for choice in self.choices:
            if not math.isfinite(choice.damage):
                raise NonFiniteError(
                    f"the damage of {self.name} at {choice.qtype} is {choice.damage}; measure it again",
                    tensor=self.name,
                )

    def uses(self, choice: Choice) -> dict[str, str]:
        """The type of every use of weights under a choice; what constraints speak of."""
        types = choice.types(self.name)
        if self.second_use is not None:
            types.setdefault(self.second_use, types[self.name])
        return types


@dataclass(frozen=True)
class Problem:
    """Every tensor that has a choice, and the bytes that have none.

    Attributes:
        items: the tensors, by distinct names; their order does not matter.
        fixed_bytes: header, padding and tensors that keep their type.
        max_types: at most so many different types among all items; None for any number.
    """

    items: tuple[Item, ...]
    fixed_bytes: int
    max_types: int | None = None

    def __post_init__(self) -> None:
        names = [i.name for i in self.items]
        if len(set(names)) < len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"expected each tensor once, got {', '.join(twice)} more than once")
        if self.fixed_bytes < 0:
            raise ValueError(f"expected at least 0 fixed bytes, got {self.fixed_bytes}")
        if self.max_types is not None and self.max_types < 1:
            raise ValueError(f"expected at least 1 type, got {self.max_types}")

    @property
    def smallest_bytes(self) -> int:
        """The whole file with every tensor at its smallest choice, whatever `max_types` says."""
        return self.fixed_bytes + sum(min(c.size_bytes for c in i.choices) for i in self.items)

    @property
    def largest_bytes(self) -> int:
        """The whole file with every tensor at its largest choice."""
        return self.fixed_bytes + sum(max(c.size_bytes for c in i.choices) for i in self.items)


@dataclass(frozen=True)
class Solution:
    """A mix, and how good it is known to be.

    Attributes:
        types: tensor -> type, in the problem's order; all tensors of items that hold several.
        size_bytes: the whole file, fixed bytes included.
        damage: sum of the choices' damages, correctly rounded, nats per token.
        lower_bound: no mix within the budget has less damage than this.
        gap: (damage - lower_bound) / |damage|; 0 when the mix is proven optimal.
        method: the solver.
        choices: item -> its choice.
        reasons: item -> why, of solvers that decide tensor by tensor.
    """

    types: dict[str, str]
    size_bytes: int
    damage: float
    lower_bound: float
    gap: float
    method: str
    choices: Mapping[str, Choice] = field(default_factory=dict, compare=False, repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def solution(
    problem: Problem,
    chosen: Mapping[str, Choice],
    lower_bound: float,
    method: str,
    reasons: Mapping[str, str] | None = None,
) -> Solution:
    """The solution that a choice for every item makes; sizes and damage are summed anew.

    Args:
        problem: what was solved.
        chosen: item name -> one of its choices.
        lower_bound: proven by the solver; rounding above the damage is cut off.
        method: the solver's name.
        reasons: item -> why.
    """
    choices = {i.name: chosen[i.name] for i in problem.items}
    picked = choices.values()
    types: dict[str, str] = {}
    for name, choice in choices.items():
        if choice.parts:
            types.update(choice.parts)
        else:
            types[name] = choice.qtype
    damage = math.fsum([c.damage for c in picked])
    proven = min(lower_bound, damage)
    return Solution(
        types=types,
        size_bytes=problem.fixed_bytes + sum([c.size_bytes for c in picked]),
        damage=damage,
        lower_bound=proven,
        gap=relative_gap(damage, proven),
        method=method,
        choices=choices,
        reasons=reasons or {},
    )


def relative_gap(damage: float, lower_bound: float) -> float:
    """How much of the damage might be avoidable, as a share of it; infinite for a damage of 0."""
    if damage <= lower_bound:
        return 0.0
    return (damage - lower_bound) / abs(damage) if damage else math.inf


def require_feasible(problem: Problem, budget_bytes: int) -> None:
    """Refuse a budget that no mix fits.

    Raises:
        InfeasibleBudgetError: the smallest mix is larger; the message gives the feasible range.
    """
    smallest, largest = problem.smallest_bytes, problem.largest_bytes
    if budget_bytes < smallest:
        raise InfeasibleBudgetError(
            f"no mix of the allowed types fits {bytes_text(budget_bytes)}; "
            f"ask for {bytes_text(smallest)} to {bytes_text(largest)}",
            budget_bytes=budget_bytes,
            smallest_bytes=smallest,
            largest_bytes=largest,
        )


def bytes_text(size_bytes: int) -> str:
    """Exact bytes, and the binary unit a person would use."""
    amount, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024:
            break
        amount, unit = amount / 1024, larger
    exact = f"{size_bytes} bytes"
    return exact if unit == "bytes" else f"{exact} ({amount:.2f} {unit})"
