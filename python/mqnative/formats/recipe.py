"""Recipe files: which ggml type every tensor of a model should have, for people to edit.

A tensor's own entry decides first, then the first rule whose pattern matches its whole name, then
the base type.
"""

from __future__ import annotations

import os
from pathlib import Path

from mqnative.errors import OutputExistsError, RecipeError
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.recipe_data import Recipe
from mqnative.formats.recipe_rules import ResolvableTensor, Rule
from mqnative.formats.recipe_text import format_recipe, parse_recipe
from mqnative.formats.strict_yaml import MAX_BYTES

__all__ = [
    "Recipe",
    "ResolvableTensor",
    "Rule",
    "format_recipe",
    "parse_recipe",
    "read_recipe",
    "write_recipe",
]


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML or JSON file; which of the two, its content decides.

    Raises:
        RecipeError: the file cannot be read, or is not a recipe: see ``parse_recipe``.
    """
    return parse_recipe(read_text(path), str(path))


def write_recipe(path: str | Path, recipe: Recipe, force: bool = False) -> None:
    """Write ``recipe`` to ``path``: as JSON if the name ends in ``.json``, else as YAML.

    Raises:
        OutputExistsError: something is there already, and ``force`` is not set.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path) and not force:
        raise OutputExistsError(f"{path} exists already, pass force to replace it", path=str(path))
    write_text_atomic(path, format_recipe(recipe, json=path.suffix.lower() == ".json"))


def read_text(path: str | Path) -> str:
    """The text of a small UTF-8 file.

    Raises:
        RecipeError: it is missing, unreadable, too large or not UTF-8.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"cannot read {name}: {reason}; give the path of a recipe file", path=name
        ) from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{name} is larger than {MAX_BYTES} bytes, so it is no recipe; give the path of one",
            path=name,
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8",
            path=name,
            offset=error.start,
            line=raw.count(b"\n", 0, error.start) + 1,
        ) from None
