"""Where a frontier bends: sizes below which bytes get dear, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mqnative.solve.frontier import quantized
from mqnative.solve.hull import F64Vector, I64Vector, Table, tabulate
from mqnative.solve.problem import Problem

KneeRule = Literal["root", "linear", "two-sigma"]

# The knee that a size is taken from if none is asked for.
DEFAULT: KneeRule = "root"
_SIGMAS = 2.0
# Steps whose spread says something.
_MIN_STEPS = 8
_N_DRAWS = 40
_SEED = 20240611
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Knee:
    """One bend of a frontier.

    Attributes:
        rule: how it was found.
        size_bytes, damage: of the mix there.
        reason: why there, in words.
        ci95_bytes: where it would lie if the damages were others within their uncertainty; None if unknown.
    """

    rule: KneeRule
    size_bytes: int
    damage: float
    reason: str
    ci95_bytes: tuple[int, int] | None = None


def hull_curve(table: Table) -> tuple[I64Vector, F64Vector]:
    """Sizes and damages of the mixes at the steps of the linear relaxation, from the smallest on.

    Each is the best mix of its size: the relaxation is whole there.
    """
    base = table.base()
    sizes = table.problem.fixed_bytes + int(table.size[base].sum()) + table.step_bytes
    saved = np.cumsum(table.step_price * np.diff(table.step_bytes, prepend=0))
    start = table.damage_of(base)
    first = table.problem.fixed_bytes + int(table.size[base].sum())
    return (
        np.concatenate([np.array([first], np.int64), sizes]),
        np.concatenate([np.array([start]), np.maximum(start - saved, 0.0)]),
    )


def find_knees(sizes: I64Vector, damages: F64Vector) -> tuple[Knee, ...]:
    """The knees of a frontier; the first one is the default.

    Args:
        sizes: bytes, rising.
        damages: nats per token, not rising.

    Returns:
        None at all for a frontier of fewer than three mixes, or one without damage.
    """
    if len(sizes) < 3 or sizes[0] == sizes[-1] or not damages[0] > damages[-1]:
        return ()
    rules: tuple[tuple[KneeRule, Callable[[I64Vector, F64Vector], tuple[int, str] | None]], ...] = (
        ("root", _root),
        ("linear", _linear),
        ("two-sigma", _two_sigma),
    )
    found = []
    for rule, find in rules:
        at = find(sizes, damages)
        if at is not None:
            found.append(Knee(rule, int(sizes[at[0]]), float(damages[at[0]]), at[1]))
    return tuple(found)


def knees(problem: Problem) -> tuple[Knee, ...]:
    """The knees of a problem's own frontier between the smallest file and the largest quantized one.

    Args:
        problem: without a limit on the number of types; with one, take `find_knees` of its `frontier`.
    """
    part = quantized(replace(problem, max_types=None))
    found = find_knees(*hull_curve(tabulate(part)))
    if not found:
        return ()
    drawn: dict[str, list[int]] = {k.rule: [] for k in found}
    rng = np.random.default_rng(_SEED)
    for _ in range(_N_DRAWS):
        for knee in find_knees(*hull_curve(tabulate(_drawn(part, rng)))):
            drawn.setdefault(knee.rule, []).append(knee.size_bytes)
    return tuple(replace(k, ci95_bytes=_interval(drawn[k.rule])) for k in found)


def _interval(sizes: list[int]) -> tuple[int, int] | None:
    if not sizes:
        return None
    low, high = np.quantile(np.array(sizes), _QUANTILES)
    return int(low), int(high)


def _drawn(problem: Problem, rng: np.random.Generator) -> Problem:
    """The problem with each item's damages scaled by one factor, as uncertain as its own are."""
    items = []
    for item in sorted(problem.items, key=lambda i: i.name):
        shares = [math.sqrt(c.variance) / c.damage for c in item.choices if c.damage > 0 and c.variance > 0]
        sigma = math.sqrt(math.log1p(float(np.median(shares)) ** 2)) if shares else 0.0
        factor = math.exp(sigma * float(rng.standard_normal()) - sigma**2 / 2)
        items.append(replace(item, choices=tuple(replace(c, damage=c.damage * factor) for c in item.choices)))
    return replace(problem, items=tuple(items))


def _root(sizes: I64Vector, damages: F64Vector) -> tuple[int, str]:
    at = _farthest(sizes, np.sqrt(damages))
    return at, (
        "the square root of KLD, which grows as the change of the logits does, falls here as fast as it does "
        "on average between the smallest and the largest file: below, a byte less costs more than the "
        "average byte, above, less"
    )


def _linear(sizes: I64Vector, damages: F64Vector) -> tuple[int, str]:
    at = _farthest(sizes, damages)
    return at, (
        "KLD falls here as fast as it does on average between the smallest and the largest file: below, a "
        "byte less costs more than the average byte, above, less"
    )


def _two_sigma(sizes: I64Vector, damages: F64Vector) -> tuple[int, str] | None:
    """Down from the largest file: the last mix before the price of a byte leaves what it has been."""
    prices = np.log(np.maximum(-np.diff(damages), 1e-300) / np.maximum(np.diff(sizes), 1))[::-1]
    weights = np.diff(sizes)[::-1].astype(np.float64)
    for k in range(_MIN_STEPS, len(prices)):
        mean = float(np.average(prices[:k], weights=weights[:k]))
        spread = math.sqrt(float(np.average((prices[:k] - mean) ** 2, weights=weights[:k])))
        if prices[k] > mean + _SIGMAS * spread:
            at = len(sizes) - 1 - k
            return at, (
                f"the next byte saved costs {math.exp(float(prices[k]) - mean):.3g} times the usual price of "
                "those saved before it, more than two standard deviations (of its logarithm) above"
            )
    return None


def _farthest(x: I64Vector, y: F64Vector) -> int:
    """The point farthest below the line between the ends."""
    along = (x - x[0]) / float(x[-1] - x[0])
    drop = (y[0] - y) / float(y[0] - y[-1])
    return int(np.argmax(drop - along))
