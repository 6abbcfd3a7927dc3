"""Which changes of a solved mix are worth measuring, and what their measurement says.

A solution is decided by the tensors near its price: the damage that one byte more would save. Only there can
a better number change a choice. What is measured is the whole mix with one tensor moved, against the mix on
the same tokens: the tensor's damage among the errors of all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mqnative.solve.problem import Choice, Item, Problem

# Moves whose price differs by more than this factor from the solution's do not change it.
_PRICE_RANGE = 3.0
# How far predicted damages of moves are off, as a share, before any was measured.
_PRIOR_DEVIATION = 0.3


@dataclass(frozen=True)
class Move:
    """One tensor of a mix at another type.

    Attributes:
        name: the tensor.
        before, after: types.
        n_bytes: more than before; negative if it saves.
        predicted: damage more than before, nats per token.
    """

    name: str
    before: str
    after: str
    n_bytes: int
    predicted: float

    @property
    def price(self) -> float:
        """Damage per byte, the same sign for both directions."""
        return abs(self.predicted / self.n_bytes)


@dataclass(frozen=True)
class Measured:
    """What a move did.

    Attributes:
        mean: change of the mix' KLD, nats per token, paired.
        error: standard error of the mean.
    """

    mean: float
    error: float


def boundary(problem: Problem, types: Mapping[str, str], *, most: int) -> list[Move]:
    """The moves nearest to the solution's price, at most so many.

    Args:
        problem: what was solved.
        types: the solution.
        most: moves.
    """
    moves = [move for item in problem.items for move in _neighbours(item, types[item.name])]
    ups = [m.price for m in moves if m.n_bytes > 0]
    downs = [m.price for m in moves if m.n_bytes < 0]
    if not ups or not downs:
        return []
    # At the optimum no step up saves more per byte than any step down costs, but for rounding to whole types.
    price = math.sqrt(max(ups) * min(downs))
    if price <= 0:
        return []

    def distance(move: Move) -> float:
        return abs(math.log(move.price / price)) if move.price > 0 else math.inf

    near = [m for m in moves if distance(m) <= math.log(_PRICE_RANGE)]
    return sorted(near, key=lambda m: (distance(m), m.name, m.after))[:most]


def change(moved: npt.NDArray[np.float64], base: npt.NDArray[np.float64]) -> Measured:
    """A move's change of KLD from the mean KLD of each chunk, shape (n_chunks,), of both mixes.

    Chunks are dealt at random, so that they are independent.
    """
    difference = moved - base
    n = len(difference)
    error = float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Measured(float(difference.mean()), error)


def posterior(moves: Sequence[Move], measured: Sequence[Measured]) -> list[float]:
    """What is believed of each move's damage once it was measured, nats per token.

    What all moves have in common, a mix whose damages add up to more or less than the sum, is taken out by
    one slope; beyond it, a measurement counts by its precision against the prediction's.
    """
    known = [(m, f) for m, f in zip(moves, measured, strict=True) if math.isfinite(f.error) and f.error > 0]
    weight = sum((m.predicted / f.error) ** 2 for m, f in known)
    slope = sum(m.predicted * f.mean / f.error**2 for m, f in known) / weight if weight > 0 else 1.0
    slope = max(0.0, slope)
    believed = []
    for move, found in zip(moves, measured, strict=True):
        expected = slope * move.predicted
        prior = (_PRIOR_DEVIATION * expected) ** 2
        noise = found.error**2
        share = prior / (prior + noise) if math.isfinite(noise) and prior + noise > 0 else 0.0
        believed.append(expected + share * (found.mean - expected))
    return believed


def near_problem(
    problem: Problem, types: Mapping[str, str], moves: Sequence[Move], believed: Sequence[float]
) -> Problem:
    """The same budget over the measured moves alone: every tensor keeps its type or makes one of them."""
    by_name: dict[str, list[tuple[Move, float]]] = {}
    for move, damage in zip(moves, believed, strict=True):
        by_name.setdefault(move.name, []).append((move, damage))
    items = []
    for item in problem.items:
        choices = {c.qtype: c for c in item.choices}
        own = choices[types[item.name]]
        kept = [own]
        for move, damage in by_name.get(item.name, ()):
            there = choices[move.after]
            kept.append(replace(there, damage=own.damage + damage))
        items.append(replace(item, choices=tuple(kept)))
    return replace(problem, items=tuple(items))


def _neighbours(item: Item, qtype: str) -> list[Move]:
    """The next smaller and the next larger type that is worth its bytes."""
    worth: list[Choice] = []
    for choice in sorted(item.choices, key=lambda c: (c.size_bytes, c.damage, c.qtype)):
        if not worth or choice.damage < worth[-1].damage:
            worth.append(choice)
    own = next(c for c in item.choices if c.qtype == qtype)
    below = [c for c in worth if c.size_bytes < own.size_bytes]
    above = [c for c in worth if c.size_bytes > own.size_bytes and c.damage < own.damage]
    return [
        Move(item.name, qtype, c.qtype, c.size_bytes - own.size_bytes, c.damage - own.damage)
        for c in (*below[-1:], *above[:1])
    ]
