"""A recipe being edited: types, pins, floors, allowed types, and the way back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from mqnative.app.views.mix import legal_types
from mqnative.app.views.model_view import ModelView
from mqnative.errors import RecipeError, UnsupportedTypeError
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.formats.recipe_rules import name_pattern

# Steps that can be taken back.
_MOST_STEPS = 200


@dataclass(frozen=True)
class Draft:
    """One state of a recipe.

    Attributes:
        types: of every tensor.
        pins: tensors that keep their type when the rest is solved again.
        floors: (pattern, type): tensors that must not get fewer bits.
        allowed: types that the solver may choose; none: every type.
        edit: what the last change was, in words.
    """

    types: Mapping[str, str]
    pins: frozenset[str] = frozenset()
    floors: tuple[tuple[str, str], ...] = ()
    allowed: tuple[str, ...] = ()
    edit: str = "as it was"


@dataclass(frozen=True)
class History:
    """A draft with what came before it and what was taken back."""

    now: Draft
    past: tuple[Draft, ...] = ()
    future: tuple[Draft, ...] = field(default=(), repr=False)

    def then(self, draft: Draft) -> History:
        """A change; what had been taken back is gone."""
        return History(draft, (*self.past[-_MOST_STEPS + 1 :], self.now))

    def undo(self) -> History:
        """One step back, if there is one."""
        if not self.past:
            return self
        return History(self.past[-1], self.past[:-1], (self.now, *self.future))

    def redo(self) -> History:
        """One step forward again, if there is one."""
        if not self.future:
            return self
        return History(self.future[0], (*self.past, self.now), self.future[1:])


def names_matching(view: ModelView, pattern: str) -> list[str]:
    """Tensors that may change and whose whole name a pattern matches, as in a recipe's rules.

    Raises:
        RecipeError: the pattern is malformed or matches none.
    """
    expression = name_pattern(pattern)
    found = [name for name in view.by_name if name in view.quantizable and expression.fullmatch(name)]
    if not found:
        raise RecipeError(f"{pattern!r} matches no tensor that can change; try .*ffn_down.*", key=pattern)
    return found


def override(view: ModelView, draft: Draft, names: Collection[str], target: str) -> Draft:
    """Give tensors a type and pin them.

    Tensors that cannot have the type keep theirs, unless none can.

    Raises:
        UnsupportedTypeError: none of the tensors can have it.
    """
    target = qtype(target).name
    able = [name for name in names if target in legal_types(view.by_name[name])]
    if not able:
        first = next(iter(names), "no tensor")
        known = ", ".join(legal_types(view.by_name[first])) if first in view.by_name else ""
        raise UnsupportedTypeError(
            f"{first} cannot become {target}; it can be {known or 'nothing else'}",
            tensor=first,
            qtype=target,
            reason="not among its types",
        )
    what = able[0] if len(able) == 1 else f"{len(able)} tensors"
    return replace(
        draft,
        types={**draft.types, **dict.fromkeys(able, target)},
        pins=draft.pins | frozenset(able),
        edit=f"{what} to {target}",
    )


def pin(draft: Draft, names: Collection[str], pinned: bool) -> Draft:
    """Pin tensors at the type they have, or let them go."""
    pins = draft.pins | frozenset(names) if pinned else draft.pins - frozenset(names)
    what = next(iter(names)) if len(names) == 1 else f"{len(names)} tensors"
    return replace(draft, pins=pins, edit=f"{what} {'pinned' if pinned else 'let go'}")


def add_floor(view: ModelView, draft: Draft, pattern: str, target: str) -> Draft:
    """Demand at least the bits of a type for tensors whose name matches; types change when solved again.

    Raises:
        RecipeError: the pattern is malformed or matches none.
        UnsupportedTypeError: there is no such type.
    """
    names_matching(view, pattern)
    name = qtype(target).name
    floors = tuple((p, t) for p, t in draft.floors if p != pattern)
    return replace(draft, floors=(*floors, (pattern, name)), edit=f"{pattern} at least {name}")


def remove_floor(draft: Draft, pattern: str) -> Draft:
    """Demand nothing for a pattern any more."""
    floors = tuple((p, t) for p, t in draft.floors if p != pattern)
    return replace(draft, floors=floors, edit=f"no floor for {pattern}")


def allow(draft: Draft, types: Iterable[str]) -> Draft:
    """Only these types for what the solver chooses; none allows all."""
    names = tuple(dict.fromkeys(qtype(t).name for t in types))
    return replace(draft, allowed=names, edit=f"types: {', '.join(names) or 'all'}")


def take_types(view: ModelView, draft: Draft, types: Mapping[str, str], edit: str) -> Draft:
    """Another mix for the tensors that may change; pins stay where their type does."""
    found = {name: types.get(name, t) if name in view.quantizable else t for name, t in draft.types.items()}
    kept = frozenset(name for name in draft.pins if found[name] == draft.types[name])
    return replace(draft, types=found, pins=kept, edit=edit)


def take_recipe(view: ModelView, draft: Draft, recipe: Recipe, edit: str) -> Draft:
    """The types of a recipe; tensors that it does not name keep theirs.

    Raises:
        RecipeError: it names no tensor of this model, or a tensor that the model lacks.
        UnsupportedTypeError: a tensor cannot have the type asked for.
    """
    unknown = [name for name in recipe.tensors if name not in view.by_name]
    if unknown:
        raise RecipeError(
            f"the recipe names {unknown[0]}, which this model lacks; it is another model's",
            tensor=unknown[0],
        )
    types = {}
    for name in view.quantizable:
        wanted = recipe.type_of(name)
        if wanted is None:
            continue
        if view.is_measured and wanted not in legal_types(view.by_name[name]):
            raise UnsupportedTypeError(
                f"the recipe asks for {wanted} for {name}, which it cannot have here; edit the recipe",
                tensor=name,
                qtype=wanted,
                reason="not among its types",
            )
        types[name] = wanted
    if not types:
        raise RecipeError("the recipe names none of this model's tensors; it is another model's")
    return take_types(view, draft, types, edit)


def recipe_of(view: ModelView, draft: Draft, kld: float | None, size_bytes: int, bpw: float) -> Recipe:
    """The draft as a recipe file."""
    return Recipe(
        tensors=dict(draft.types),
        model={"name": view.name},
        target={"size_bytes": size_bytes, "bpw": round(bpw, 4)},
        predicted={} if kld is None else {"kld_mean": kld},
        provenance={"made_with": "mqnative ui", "pins": sorted(draft.pins)},
    )
