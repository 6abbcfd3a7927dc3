"""What a recipe says: types by name, by pattern and for the rest, and notes that travel along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mqnative.errors import RecipeError
from mqnative.formats.recipe_rules import ResolvableTensor, Rule, resolve_types, type_name, type_of
from mqnative.formats.strict_yaml import DocumentError, plain

NOTES = ("model", "target", "predicted", "provenance")
"""The free-form sections, kept as they are."""


@dataclass(frozen=True)
class Recipe:
    """Types for the tensors of a model; what can be constructed can be written.

    Attributes:
        base: type of every tensor that nothing else names; None to insist that everything is named.
        rules: the first rule that matches a tensor's name decides.
        tensors: type by exact name; wins over rules.
        model: which model the recipe is for (name, architecture, hash); free-form, as are the next
            three.
        target: what it was made to meet.
        predicted: the damage and size expected of it.
        provenance: how it was made.
        path: the file it came from, if any; like ``tensor_lines`` only for messages.
        tensor_lines: line of each entry of ``tensors`` in that file.

    Raises:
        RecipeError: a type is unknown, or a section holds what no file can.
    """

    base: str | None = None
    rules: tuple[Rule, ...] = ()
    tensors: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = field(default=None, compare=False, repr=False)
    tensor_lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.base is not None:
            object.__setattr__(self, "base", type_name(self.base))
        object.__setattr__(self, "rules", tuple(self.rules))
        types = {name: type_name(qtype) for name, qtype in self.tensors.items()}
        object.__setattr__(self, "tensors", types)
        # Names and patterns are text already, but only text that UTF-8 can hold can be written.
        texts = {"tensors": types, "rules": [rule.match for rule in self.rules]}
        for key, value in texts.items():
            _plain(key, value)
        for key in NOTES:
            object.__setattr__(self, key, _plain(key, getattr(self, key)))

    def type_of(self, name: str) -> str | None:
        """The type asked for tensor ``name``; None if nothing names it and there is no base."""
        return type_of(name, rules=self.rules, exact=self.tensors, base=self.base)

    def resolve(self, tensors: Mapping[str, ResolvableTensor]) -> dict[str, str]:
        """The type of every tensor of a model; its own, where llama.cpp would never change it.

        The row fallback of llama.cpp (a type whose blocks a row cannot fill) is not applied here.

        Args:
            tensors: the model's tensors by name.

        Returns:
            All names of ``tensors`` in their order, each with the upper-case name of a type.

        Raises:
            RecipeError: an entry names a tensor the model lacks, or one whose type is never
                changed; a rule matches no tensor that could change; a tensor gets no type. Fields
                name tensor, rule and line.
        """
        return resolve_types(
            tensors,
            rules=self.rules,
            exact=self.tensors,
            base=self.base,
            exact_lines=self.tensor_lines,
            path=self.path,
        )


def _plain(key: str, value: Any) -> Any:
    try:
        return plain(value, (key,))
    except DocumentError as error:
        raise RecipeError(error.problem, key=key) from None
