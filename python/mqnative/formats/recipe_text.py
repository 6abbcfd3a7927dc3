"""The text of a recipe, ``mqnative: recipe/1``: read strictly, and written in one way only."""

from __future__ import annotations

import difflib
import re
from typing import Any

from mqnative.errors import RecipeError
from mqnative.formats.recipe_data import NOTES, Recipe
from mqnative.formats.recipe_rules import Rule, place, type_name
from mqnative.formats.strict_yaml import (
    Document,
    DocumentError,
    OneLine,
    Path,
    Quoted,
    format_json,
    format_yaml,
    parse_document,
)

VERSION = "recipe/1"

_KEYS = ("mqnative", "model", "base", "rules", "tensors", "target", "predicted", "provenance")


def parse_recipe(text: str, path: str | None = None) -> Recipe:
    """The recipe in ``text``; ``path`` is where it came from, for messages.

    Raises:
        RecipeError: not YAML or JSON, another version, an unknown or repeated key, a value of
            another kind than the format asks for, an unknown type or a malformed expression.
            ``line`` is set for YAML.
    """
    try:
        document = parse_document(text)
    except DocumentError as error:
        at = () if error.key is None else (error.key,)
        raise _Reader(Document(None), path).error(error.problem, at=at, line=error.line) from None
    return _Reader(document, path).recipe()


def format_recipe(recipe: Recipe, json: bool = False) -> str:
    """``recipe`` as YAML, or as JSON; equal recipes give equal text.

    Keys come in a fixed order, rules one to a line, tensors sorted with their numbers as numbers.
    """
    document: dict[str, Any] = {
        "mqnative": VERSION,
        "model": dict(recipe.model),
        "base": recipe.base,
        "rules": [OneLine(match=Quoted(rule.match), type=rule.qtype) for rule in recipe.rules],
        "tensors": dict(sorted(recipe.tensors.items(), key=lambda item: _natural(item[0]))),
        **{key: dict(getattr(recipe, key)) for key in ("target", "predicted", "provenance")},
    }
    document = {key: value for key, value in document.items() if value not in (None, [], {})}
    return format_json(document) if json else format_yaml(document)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts blk.2 before blk.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


class _Reader:
    """Turns a parsed document into a recipe, and knows the line of everything it refuses."""

    def __init__(self, document: Document, path: str | None) -> None:
        self.document, self.path = document, path

    def recipe(self) -> Recipe:
        data = self.document.data
        if not isinstance(data, dict) or "mqnative" not in data:
            raise self.error("this is not a recipe", f"begin it with `mqnative: {VERSION}`", at=("mqnative",))
        if data["mqnative"] != VERSION:
            raise self.error(
                f"the version is {data['mqnative']!r} and this program reads {VERSION!r}",
                "use the mqnative that wrote it, or fix the first key",
                at=("mqnative",),
            )
        for key in data:
            if key not in _KEYS:
                near = difflib.get_close_matches(key, _KEYS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
                raise self.error(f"there is no key {key!r} in a recipe", hint, at=(key,))
        base = data.get("base")
        tensors = self.section(data, "tensors", dict, "tensor names and types")
        return Recipe(
            base=None if base is None else self.type_at(base, ("base",)),
            rules=tuple(
                self.rule(item, index)
                for index, item in enumerate(self.section(data, "rules", list, "rules"))
            ),
            tensors={
                name: self.type_at(qtype, ("tensors", name), tensor=name) for name, qtype in tensors.items()
            },
            path=self.path,
            tensor_lines={
                name: line for name in tensors if (line := self.line(("tensors", name))) is not None
            },
            **{key: self.section(data, key, dict, "keys and values") for key in NOTES},
        )

    def section(self, data: dict[str, Any], key: str, kind: type[Any], what: str) -> Any:
        """An optional section; an empty one counts as absent."""
        value = data.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            noun = "a list" if kind is list else "a mapping"
            raise self.error(f"{key!r} is {_kind(value)}", f"make it {noun} of {what}", at=(key,))
        return value

    def rule(self, item: Any, index: int) -> Rule:
        at = ("rules", index)
        if not isinstance(item, dict) or set(item) != {"match", "type"}:
            raise self.error(
                f"rule {index + 1} is not a pattern with a type",
                "write {match: 'pattern', type: Q6_K}",
                at=at,
            )
        if not isinstance(item["match"], str):
            raise self.error(
                f"the pattern of rule {index + 1} is {_kind(item['match'])}",
                "put it in quotes",
                at=(*at, "match"),
            )
        qtype = self.type_at(item["type"], (*at, "type"))
        try:
            return Rule(item["match"], qtype, self.line(at))
        except RecipeError as error:
            raise self.error(error.message, at=(*at, "match")) from None

    def type_at(self, value: Any, at: Path, tensor: str | None = None) -> str:
        if not isinstance(value, str):
            raise self.error(f"the type is {_kind(value)}", "write the name of a type, such as Q6_K", at=at)
        try:
            return type_name(value)
        except RecipeError as error:
            raise self.error(error.message, at=at, tensor=tensor) from None

    def line(self, at: Path) -> int | None:
        return self.document.lines.get(at)

    def error(
        self,
        problem: str,
        way_out: str = "",
        *,
        at: Path = (),
        line: int | None = None,
        tensor: str | None = None,
    ) -> RecipeError:
        line = line or self.line(at)
        return RecipeError(
            place(self.path, line) + (f"{problem}; {way_out}" if way_out else problem),
            path=self.path,
            key=".".join(map(str, at)) or None,
            line=line,
            tensor=tensor,
        )


def _kind(value: Any) -> str:
    """What a parsed value is, for a person."""
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"the text {value!r}" if isinstance(value, str) else f"the value {value!r}"
