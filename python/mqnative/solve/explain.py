"""Why every tensor has the type it has: what a byte is worth, and what the next moves would cost and gain."""

from __future__ import annotations

from dataclasses import dataclass

from mqnative.solve.binding import Best, Binding, MoreBudget, binding, more_budget
from mqnative.solve.grid import with_types
from mqnative.solve.hull import relax, tabulate
from mqnative.solve.problem import Choice, Item, Problem, Solution
from mqnative.solve.restrict import Facts, Restricted


@dataclass(frozen=True)
class Move:
    """Another choice for a tensor.

    Attributes:
        qtype: the choice.
        more_bytes: it takes; negative if it frees some.
        more_damage: it does, nats per token.
    """

    qtype: str
    more_bytes: int
    more_damage: float

    @property
    def price(self) -> float:
        """Damage per byte: saved by a move up, added by a move down; infinite for one that costs no bytes."""
        return -self.more_damage / self.more_bytes if self.more_bytes else float("inf")


@dataclass(frozen=True)
class Why:
    """One tensor's choice, or that of several which share it.

    Attributes:
        name: the tensor, the first of several.
        tensors: all of them.
        qtype, size_bytes, damage: chosen.
        up, down: the larger choice that saves most per byte, the smaller one that costs least; None if there
            is none.
        wanted: what it would have at this price of a byte without the constraints, if they forbid that.
        limits: those constraints.
        reason: the solver's own, if it has one.
        text: all of it in words.
    """

    name: str
    tensors: tuple[str, ...]
    qtype: str
    size_bytes: int
    damage: float
    up: Move | None
    down: Move | None
    wanted: str | None
    limits: tuple[str, ...]
    reason: str
    text: str


@dataclass(frozen=True)
class Explanation:
    """Why a mix is as it is.

    Attributes:
        price: of a byte: what the next one would save, nats per token; 0 where the budget does not bind.
        left_bytes: of the budget.
        tensors: every tensor that had a choice.
        constraints: what each costs.
        more: what one more MiB would buy; None without a budget.
    """

    price: float
    left_bytes: int
    tensors: tuple[Why, ...]
    constraints: tuple[Binding, ...]
    more: MoreBudget | None

    @property
    def budget_binds(self) -> bool:
        """Whether more bytes would help."""
        return self.price > 0


def explain(
    found: Restricted,
    solution: Solution,
    budget_bytes: int | None,
    best: Best,
    facts: Facts | None = None,
) -> Explanation:
    """Explain a mix.

    Args:
        found: the problem and its constraints.
        solution: of ``found.problem``, by any method.
        budget_bytes: it was solved for; None takes its own size.
        best: the exact solver.
        facts: by tensor.
    """
    budget = solution.size_bytes if budget_bytes is None else budget_bytes
    optimum = best(found.problem, budget)
    price = _price(found.problem, optimum, budget)
    left = budget - solution.size_bytes
    whys = tuple(_why(found, item, solution, price, left) for item in found.problem.items)
    kept = {
        text: tuple(t for w in whys if text in w.limits for t in w.tensors)
        for text in found.constraints.texts
    }
    bindings = tuple(
        binding(text, found, optimum, budget, best, facts or {}, kept) for text in found.constraints.texts
    )
    more = None if budget_bytes is None else more_budget(found.problem, solution, best, budget)
    return Explanation(price, left, whys, bindings, more)


def _price(problem: Problem, optimum: Solution, budget_bytes: int) -> float:
    if problem.max_types is not None:
        types = frozenset[str]().union(*(c.used for c in optimum.choices.values()))
        problem = with_types(problem, types)
    return relax(tabulate(problem), budget_bytes).price


def moves(item: Item, chosen: Choice) -> tuple[Move | None, Move | None]:
    """The best step up and the best step down from a choice."""

    def move(choice: Choice) -> Move:
        more = choice.size_bytes - chosen.size_bytes
        return Move(choice.qtype, more, choice.damage - chosen.damage)

    others = [move(c) for c in item.choices if c is not chosen]
    ups = [m for m in others if m.more_damage < 0 and m.more_bytes > 0]
    downs = [m for m in others if m.more_bytes < 0]
    up = max(ups, key=lambda m: (m.price, -m.more_bytes, m.qtype), default=None)
    down = min(downs, key=lambda m: (m.price, -m.more_bytes, m.qtype), default=None)
    return up, down


def _why(found: Restricted, item: Item, solution: Solution, price: float, left: int) -> Why:
    chosen = solution.choices[item.name]
    up, down = moves(item, chosen)
    tensors = found.shared.get(item.name) or tuple(chosen.types(item.name))
    wanted, limits = _kept_from(found, item, chosen, price)
    reason = solution.reasons.get(item.name, "")
    text = _text(item, chosen, up, down, price, left, wanted, limits, len(tensors))
    if reason:
        text = f"{reason}; {text}"
    return Why(
        item.name,
        tensors,
        chosen.qtype,
        chosen.size_bytes,
        chosen.damage,
        up,
        down,
        wanted,
        limits,
        reason,
        text,
    )


def _kept_from(
    found: Restricted, item: Item, chosen: Choice, price: float
) -> tuple[str | None, tuple[str, ...]]:
    """What the tensor would have at this price if nothing were forbidden, and what forbids it."""
    why = found.forbidden.get(item.name, {})
    free = next(i for i in found.free.items if i.name == item.name)
    if not why:
        return None, ()
    wanted = min(free.choices, key=lambda c: (c.damage + price * c.size_bytes, c.size_bytes, c.qtype))
    if wanted.qtype == chosen.qtype or wanted.qtype not in why:
        return None, ()
    return wanted.qtype, why[wanted.qtype]


def _text(
    item: Item,
    chosen: Choice,
    up: Move | None,
    down: Move | None,
    price: float,
    left: int,
    wanted: str | None,
    limits: tuple[str, ...],
    n_tensors: int,
) -> str:
    parts = []
    if n_tensors > 1 and len(chosen.used) == 1:
        parts.append(f"one type for {n_tensors} tensors")
    if limits:
        parts.append(f"{' and '.join(limits)} keeps it from {wanted}")
    if len(item.choices) == 1:
        parts.append("it can have no other type")
        return "; ".join(parts)
    if up is None:
        parts.append("no type does less damage")
    else:
        saved = f"{up.qtype} would save {-up.more_damage:.2e} nats for {up.more_bytes:,} bytes"
        if up.price <= price or price == 0:
            parts.append(f"{saved}, {_against(up.price, price)} the price of a byte")
        elif up.more_bytes > left:
            parts.append(f"{saved}, worth its price, but only {left:,} bytes are left")
        else:
            parts.append(f"{saved}, worth its price")
    if down is None:
        parts.append("no type is smaller")
    else:
        freed = f"{down.qtype} would free {-down.more_bytes:,} bytes for {down.more_damage:.2e} nats"
        parts.append(f"{freed}, {_against(down.price, price)} their price")
    return "; ".join(parts)


def _against(own: float, price: float) -> str:
    """``2.1 times`` or ``0.45 times``."""
    return "more than" if price <= 0 else f"{own / price:.2g} times"
