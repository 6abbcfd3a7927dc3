"""Carries one model's types over to another: names checked, what is missing or new handled by policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mqnative.build.plan import ModelTensor
from mqnative.errors import ParityError
from mqnative.formats.groups import label
from mqnative.formats.recipe import Recipe

Missing = Literal["refuse", "skip"]
Extra = Literal["base", "keep", "refuse"]
# What others fill in for tensors that a recipe does not know: small and nearly without damage.
DEFAULT_BASE = "Q8_0"
_UNQUANTIZED = ("F32", "F16", "BF16")
# A finetune may add tokens; these have a row for each.
_VOCABULARY = ("E", "H")
_SHOWN = 3


@dataclass(frozen=True)
class Policy:
    """What to do where two models' tensors differ.

    Attributes:
        missing: tensors that have a type and are not in the model: ``refuse``, or ``skip`` them.
        extra: tensors of the model without a type: they get the ``base``, ``keep`` their own, or ``refuse``.
        base: their type; None means the recipe's base, or Q8_0.
    """

    missing: Missing = "refuse"
    extra: Extra = "base"
    base: str | None = None


@dataclass(frozen=True)
class Carried:
    """Types for a model, from another one's.

    Attributes:
        recipe: of every tensor that may change.
        missing: tensors left out because the model lacks them.
        extra: tensors that had no type: name -> the type they got.
    """

    recipe: Recipe
    missing: tuple[str, ...]
    extra: Mapping[str, str]


def carry_over(
    recipe: Recipe,
    tensors: Mapping[str, ModelTensor],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    architectures: tuple[str, str] = ("", ""),
    policy: Policy | None = None,
) -> Carried:
    """The types of ``recipe`` for a model with these tensors.

    A tensor that is unquantized there stays as it is here, whichever of F32, F16 and BF16 it is.

    Args:
        recipe: types of the other model, by name or pattern.
        tensors: this model's.
        shapes: the other model's, where they are known.
        architectures: the other's and this model's; empty where they are not known.
        policy: for tensors of only one of the two.

    Raises:
        ParityError: another architecture, other shapes, or a difference that the policy refuses; all names
            are attached.
    """
    policy = policy or Policy()
    theirs, own = architectures
    if theirs and own and theirs != own:
        raise ParityError(
            f"the recipe is of a {theirs} model and this one is {own}; their tensors do different work",
            expected=theirs,
            got=own,
        )
    _check_shapes(shapes or {}, tensors)
    missing = tuple(name for name in recipe.tensors if name not in tensors and label(name).group != "never")
    if missing and policy.missing == "refuse":
        raise ParityError(
            f"the model lacks {len(missing)} tensors of the recipe: {_some(missing)}; give the model that it "
            "is for, or have them skipped",
            tensor=missing[0],
            missing=missing,
        )
    base = policy.base or recipe.base or DEFAULT_BASE
    types: dict[str, str] = {}
    extra: dict[str, str] = {}
    for name, tensor in tensors.items():
        wanted = recipe.type_of(name)
        known = name in recipe.tensors or any(rule.matches(name) for rule in recipe.rules)
        if not tensor.quantizable:
            if known and wanted is not None and not _unquantized(wanted) and wanted != tensor.qtype_name:
                types[name] = wanted  # a build refuses this and says why
            continue
        if not known:
            wanted = tensor.qtype_name if policy.extra == "keep" else base
            # A recipe of patterns and a base speaks of every tensor.
            if recipe.tensors or recipe.base is None:
                extra[name] = wanted
        assert wanted is not None
        types[name] = (
            tensor.qtype_name if _unquantized(wanted) and _unquantized(tensor.qtype_name) else wanted
        )
    if extra and policy.extra == "refuse":
        raise ParityError(
            f"the model has {len(extra)} tensors that the recipe does not name: {_some(tuple(extra))}; name "
            "them, or let them follow a base",
            tensor=next(iter(extra)),
            extra=tuple(extra),
        )
    carried = Recipe(
        tensors=types,
        model=recipe.model,
        target=recipe.target,
        predicted=recipe.predicted,
        provenance=recipe.provenance,
    )
    return Carried(carried, missing, extra)


def _check_shapes(shapes: Mapping[str, Sequence[int]], tensors: Mapping[str, ModelTensor]) -> None:
    differ = [
        name
        for name, shape in shapes.items()
        if name in tensors and _compared(name, tuple(shape)) != _compared(name, tensors[name].info.shape)
    ]
    if differ:
        name = differ[0]
        raise ParityError(
            f"{len(differ)} tensors have other shapes than the recipe's: {name} is "
            f"{tensors[name].info.shape} and was {tuple(shapes[name])}; that is another model",
            tensor=name,
            expected=str(tuple(shapes[name])),
            got=str(tensors[name].info.shape),
        )


def _compared(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    trimmed = shape[: max((i + 1 for i, n in enumerate(shape) if n > 1), default=1)]
    return trimmed[:1] if label(name).letter in _VOCABULARY else trimmed


def _unquantized(name: str) -> bool:
    return name in _UNQUANTIZED


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
