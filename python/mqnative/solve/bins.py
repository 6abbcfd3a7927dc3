"""By importance alone: tensors are sorted into bins by percentile, and each bin has a least type.

Within its bin a tensor gets the least damaging of the smallest types that are allowed. Where there is a
budget, the least types of all bins are moved up or down together, and what is left over goes to the most
important tensors first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mqnative.errors import ConstraintError
from mqnative.formats.qtypes import qtype as known_type
from mqnative.solve.hull import pareto, relax, tabulate
from mqnative.solve.problem import Choice, Item, Problem, Solution, require_feasible, solution


@dataclass(frozen=True)
class Bin:
    """A share of the tensors, the most important of those not in an earlier bin, and their least type."""

    share: float
    qtype: str


DEFAULT_BINS = (Bin(0.1, "Q6_K"), Bin(0.3, "Q5_K"), Bin(0.6, "Q4_K"))
# All minimums are moved by at most so many bits.
_WIDEST_BITS = 32.0
_STEPS = 40


def solve_bins(problem: Problem, budget_bytes: int | None, bins: Sequence[Bin] = DEFAULT_BINS) -> Solution:
    """Least types by importance.

    Args:
        problem: what to choose; a tensor of unknown importance counts as the most important.
        budget_bytes: whole-file bytes not to exceed; None leaves the bins as they are.
        bins: from the most important to the least; the last one takes what is left.

    Returns:
        The mix; its gap is against the best mix of the budget, or of its own size without one.

    Raises:
        InfeasibleBudgetError: no mix fits.
        ConstraintError: the shares are not positive, or exceed 1 together.
    """
    if not bins or min(b.share for b in bins) <= 0 or math.fsum(b.share for b in bins) > 1 + 1e-9:
        raise ConstraintError("expected bins with shares above 0 and at most 1 together", constraint="--bins")
    order = sorted(problem.items, key=_rank)
    least = _least_bits(order, bins)

    def mix(shift: float) -> dict[str, Choice]:
        return {i.name: _smallest_from(i, least[i.name].bpw + shift) for i in order}

    def size_of(picks: dict[str, Choice]) -> int:
        return problem.fixed_bytes + sum(c.size_bytes for c in picks.values())

    shift = 0.0
    if budget_bytes is not None:
        require_feasible(problem, budget_bytes)
        low, high = -_WIDEST_BITS, _WIDEST_BITS
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if size_of(mix(middle)) <= budget_bytes else (low, middle)
        shift = low
    picks = mix(shift)
    if budget_bytes is not None:
        _spend(order, picks, budget_bytes - size_of(picks))
    size = size_of(picks) if budget_bytes is None else budget_bytes
    bound = relax(tabulate(problem), size).lower_bound
    reasons = {i.name: _reason(i, least[i.name], shift, picks[i.name]) for i in order}
    return solution(problem, picks, bound, "bins", reasons)


@dataclass(frozen=True)
class _Least:
    """A bin's least type."""

    qtype: str
    bpw: float
    number: int


def _least_bits(order: Sequence[Item], bins: Sequence[Bin]) -> dict[str, _Least]:
    """Each tensor's bin."""
    ends = [round(math.fsum(b.share for b in bins[: k + 1]) * len(order)) for k in range(len(bins))]
    found = {}
    for rank, item in enumerate(order):
        number = next((k for k, end in enumerate(ends) if rank < end), len(bins) - 1)
        name = known_type(bins[number].qtype).name
        found[item.name] = _Least(name, known_type(name).bpw, number + 1)
    return found


def _smallest_from(item: Item, bits: float) -> Choice:
    """The least damaging of the smallest choices that have so many bits; the largest if none has."""
    enough = [c for c in item.choices if c.bpw >= bits - 1e-9]
    if not enough:
        return min(item.choices, key=lambda c: (-c.size_bytes, c.damage, c.qtype))
    return min(enough, key=lambda c: (c.size_bytes, c.damage, c.qtype))


def _spend(order: Sequence[Item], picks: dict[str, Choice], left: int) -> None:
    """One step up for each tensor, the most important first, again and again while any fits."""
    while True:
        before = left
        for item in order:
            now = picks[item.name]
            better = [c for c in pareto(item.choices) if c.damage < now.damage]
            step = next((c for c in better if c.size_bytes - now.size_bytes <= left), None)
            if step is not None:
                picks[item.name] = step
                left -= step.size_bytes - now.size_bytes
        if left == before:
            return


def _rank(item: Item) -> tuple[float, str]:
    """The most important first; unknown is more than any."""
    return (-math.inf if item.importance is None else -item.importance, item.name)


def _reason(item: Item, least: _Least, shift: float, choice: Choice) -> str:
    known = (
        "unknown importance"
        if item.importance is None
        else f"importance percentile {100 * item.importance:.0f}"
    )
    moved = "" if shift == 0 else f", moved by {shift:+.2f} bits to fit the budget"
    above = "" if choice.bpw <= least.bpw + shift + 1e-9 else "; it had room for more"
    return f"{known}: bin {least.number}, at least {least.qtype}{moved}{above}"
