"""Why a mix is as it is, and what other sizes would cost: facts for every rendering.

Damages are predicted KLD in nats per token, sizes whole-file bytes unless they are a tensor's.
"""

from __future__ import annotations

from dataclasses import dataclass

Interval = tuple[float, float]
MIB = 1 << 20


@dataclass(frozen=True)
class MoveRow:
    """Another type for a tensor.

    Attributes:
        qtype: the type.
        more_bytes, more_damage: against the one chosen; negative for less.
        price: of a byte: damage saved by a move up, added by a move down.
    """

    qtype: str
    more_bytes: int
    more_damage: float
    price: float


@dataclass(frozen=True)
class WhyRow:
    """One tensor, or several that share their type.

    Attributes:
        name: the first tensor.
        tensors: all of them.
        qtype, size_bytes, damage: chosen.
        up, down: the next moves worth a look; None where there is none.
        wanted: the type that constraints keep it from; None if none does.
        limits: those constraints.
        text: why, in words.
    """

    name: str
    tensors: tuple[str, ...]
    qtype: str
    size_bytes: int
    damage: float
    up: MoveRow | None
    down: MoveRow | None
    wanted: str | None
    limits: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class ConstraintRow:
    """One constraint.

    Attributes:
        text: as on the command line.
        binds: whether the mix would be better without it.
        cost: damage that it adds; None if there is no mix without it.
        tensors: that it keeps from another type.
    """

    text: str
    binds: bool
    cost: float | None
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChoiceFacts:
    """How the mix was chosen.

    Attributes:
        method: the solver.
        budget: where the budget comes from, in words.
        weighing: why tensors are encoded with the imatrix or without it; empty if nobody asked.
        price: of a byte: what the next one would save; 0 where the budget does not bind.
        left_bytes: of the budget.
        more_bytes, more_saves: what one more MiB would save; None without a budget.
        more_changes: (tensor, type now, type then).
        constraints: all of them.
        tensors: every tensor that had a choice.
    """

    method: str
    budget: str
    weighing: str
    price: float
    left_bytes: int
    more_bytes: int | None
    more_saves: float | None
    more_changes: tuple[tuple[str, str, str], ...]
    constraints: tuple[ConstraintRow, ...]
    tensors: tuple[WhyRow, ...]


@dataclass(frozen=True)
class FrontierPoint:
    """The best mix of a size: its predicted KLD with interval."""

    size_bytes: int
    bpw: float
    kld: float
    ci95: Interval


@dataclass(frozen=True)
class KneeRow:
    """A bend of the frontier.

    Attributes:
        rule: how it was found.
        size_bytes, bpw, kld: of the mix there.
        reason: why there.
        ci95_bytes: where it would lie if damages were others within their uncertainty; None if unknown.
    """

    rule: str
    size_bytes: int
    bpw: float
    kld: float
    reason: str
    ci95_bytes: tuple[int, int] | None = None


@dataclass(frozen=True)
class PlacedRow:
    """Another mix: a preset, a recipe.

    Attributes:
        name: as people call it.
        kind: preset, hybrid, candidate, recipe or result.
        size_bytes, bpw: of its file.
        kld, ci95: predicted; None where a type was not measured.
        best: predicted KLD of the best mix of its size; None if no mix is that small.
    """

    name: str
    kind: str
    size_bytes: int
    bpw: float
    kld: float | None
    ci95: Interval | None
    best: float | None


@dataclass(frozen=True)
class FrontierFacts:
    """The best mix of every size.

    Attributes:
        points: by size.
        knees: the first is the one that serves as a budget where none is given.
        placed: others' mixes.
    """

    points: tuple[FrontierPoint, ...]
    knees: tuple[KneeRow, ...]
    placed: tuple[PlacedRow, ...] = ()
