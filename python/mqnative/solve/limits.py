"""What a user may demand of single tensors.

A limit speaks of the tensors whose whole name its pattern matches, as a recipe's rules do, and forbids types.
Types are compared by their bits per weight. Where rows do not fill the blocks of a type that is asked for,
what llama.cpp writes instead counts.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mqnative.errors import ConstraintError
from mqnative.formats.qtypes import qtype as known_type
from mqnative.formats.recipe_rules import name_pattern, type_name

EVERY = ".*"
# What a tensor without importance, or of none, counts as when a limit is scaled by importance: a tenth of
# the most important one.
LEAST_IMPORTANCE = 0.1

Metric = Literal["rmse", "max_error"]


@dataclass(frozen=True)
class TensorFacts:
    """What limits need to know of a tensor beyond its choices.

    Attributes:
        source: the type it is stored at.
        legal: what its rows take in place of a type asked for; the type itself where it is not listed.
        rmse, max_error: by type, in units of the weights; empty where they were not measured.
        rms: root mean square of its weights.
        importance: percentile within the model, 0 to 1; None if it is not known.
    """

    source: str | None = None
    legal: Mapping[str, str] = field(default_factory=dict)
    rmse: Mapping[str, float] = field(default_factory=dict)
    max_error: Mapping[str, float] = field(default_factory=dict)
    rms: float | None = None
    importance: float | None = None


NO_FACTS = TensorFacts()


@dataclass(frozen=True)
class Limit(ABC):
    """Types that some tensors must not have.

    Attributes:
        match: a regular expression for whole tensor names, in Python's syntax.

    Raises:
        RecipeError: the expression is malformed, or a type unknown.
    """

    match: str
    pattern: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", name_pattern(self.match))

    def matches(self, name: str) -> bool:
        """Whether it speaks of tensor ``name``."""
        return self.pattern.fullmatch(name) is not None

    @property
    @abstractmethod
    def text(self) -> str:
        """The limit as the command line writes it."""

    @abstractmethod
    def allows(self, qtype: str, facts: TensorFacts) -> bool:
        """Whether a tensor it speaks of may have this type."""


@dataclass(frozen=True)
class _TypeLimit(Limit):
    """A limit that names one type."""

    qtype: str

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "qtype", type_name(self.qtype))

    def _legal_bpw(self, facts: TensorFacts) -> float:
        return known_type(facts.legal.get(self.qtype, self.qtype)).bpw


@dataclass(frozen=True)
class Pin(_TypeLimit):
    """Exactly this type."""

    @property
    def text(self) -> str:
        """As on the command line."""
        return f"--pin {self.match}={self.qtype}"

    def allows(self, qtype: str, facts: TensorFacts) -> bool:
        """Only the type, or what llama.cpp writes in its place."""
        return qtype == facts.legal.get(self.qtype, self.qtype)


@dataclass(frozen=True)
class Floor(_TypeLimit):
    """At least the bits per weight of this type."""

    @property
    def text(self) -> str:
        """As on the command line."""
        return f"--floor {self.match}={self.qtype}"

    def allows(self, qtype: str, facts: TensorFacts) -> bool:  # noqa: ARG002 - a limit's signature
        """Types of as many bits."""
        return known_type(qtype).bpw >= known_type(self.qtype).bpw


@dataclass(frozen=True)
class Ceiling(_TypeLimit):
    """At most the bits per weight of this type."""

    @property
    def text(self) -> str:
        """As on the command line."""
        return f"--ceiling {self.match}={self.qtype}"

    def allows(self, qtype: str, facts: TensorFacts) -> bool:
        """Types of no more bits."""
        return known_type(qtype).bpw <= self._legal_bpw(facts)


@dataclass(frozen=True)
class Start(Ceiling):
    """Where the search begins: a ceiling for every tensor that no pin decides."""

    @property
    def text(self) -> str:
        """As on the command line."""
        return f"--from {self.qtype}"


@dataclass(frozen=True)
class Allow(Limit):
    """Only these types. A tensor whose rows can hold none of them stays as it is stored.

    Attributes:
        types: ggml's names.
        said: how the user said it, if not by naming the types.
    """

    types: tuple[str, ...]
    said: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "types", tuple(dict.fromkeys(map(type_name, self.types))))

    @property
    def text(self) -> str:
        """As on the command line."""
        if self.said:
            return self.said
        types = ",".join(self.types)
        return f"--types {types}" if self.match == EVERY else f"--allow {self.match}={types}"

    def allows(self, qtype: str, facts: TensorFacts) -> bool:
        """The types, and what llama.cpp writes in their place."""
        return qtype in {facts.legal.get(t, t) for t in self.types}


@dataclass(frozen=True)
class Cap(Limit):
    """At most this weight error.

    Attributes:
        metric: root mean square error or largest absolute error of the weights.
        limit: in units of the weights, or as a share of the tensor's root mean square.
        relative: which of the two.
        by_importance: the most important tensor of the model has this limit; one of percentile p has
            ``limit / max(p, 0.1)``.

    Raises:
        ConstraintError: the limit is not a positive number.
    """

    metric: Metric
    limit: float
    relative: bool = False
    by_importance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.limit < float("inf"):
            raise ConstraintError(
                f"expected an error limit above 0, got {self.limit:g}", constraint=self.metric
            )

    @property
    def text(self) -> str:
        """As on the command line."""
        option = "--max-rmse" if self.metric == "rmse" else "--max-error"
        limit = f"{100 * self.limit:g}%" if self.relative else f"{self.limit:g}"
        tensors = "" if self.match == EVERY else f"{self.match}="
        return f"{option} {tensors}{limit}{' --caps-by-importance' if self.by_importance else ''}"

    def limit_for(self, facts: TensorFacts) -> float:
        """The limit of one tensor, in units of the weights."""
        limit = self.limit * (facts.rms or 0.0) if self.relative else self.limit
        if not self.by_importance:
            return limit
        return limit / max(facts.importance or 0.0, LEAST_IMPORTANCE)

    def allows(self, qtype: str, facts: TensorFacts) -> bool:
        """Types with no larger error; the stored type has none, and what was not measured is forbidden."""
        if qtype == facts.source:
            return True
        errors = facts.rmse if self.metric == "rmse" else facts.max_error
        return qtype in errors and errors[qtype] <= self.limit_for(facts)
