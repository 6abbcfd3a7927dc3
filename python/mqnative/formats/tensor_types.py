"""llama-quantize's ``--tensor-type-file``: recipes in the form upstream's own tool takes.

The tool splits the file at white space into ``pattern=type``, lower-cases each pattern, searches it
as an ECMAScript expression anywhere in a tensor's name, and lets the first that is found decide.

Source: tools/quantize/quantize.cpp, `parse_tensor_type_file`, and src/llama-quant.cpp,
`llama_tensor_get_type`, at the pinned commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mqnative.errors import RecipeError
from mqnative.formats.recipe import Recipe, Rule, read_text
from mqnative.formats.recipe_rules import place, type_name

# What C's isspace calls white space; str.split() would split at more.
_TOKEN = re.compile(r"[^ \t\n\v\f\r]+")


def read_tensor_type_file(path: str | Path) -> Recipe:
    """The rules of a tensor-type file; see ``parse_tensor_types``.

    Raises:
        RecipeError: the file cannot be read or holds something else.
    """
    return parse_tensor_types(read_text(path), str(path))


def parse_tensor_types(text: str, path: str | None = None) -> Recipe:
    """The rules in ``text``, in order, each with a pattern for the whole name that means the same.

    The recipe has no base: what other tensors would get depends on the preset the tool is run with.

    Args:
        text: the content of a tensor-type file.
        path: where it came from, for messages.

    Raises:
        RecipeError: an entry is no ``pattern=type``, its type is unknown, or its pattern is
            malformed or uses what cannot be expressed in a recipe. ``line`` is set.
    """
    rules = []
    for token in _TOKEN.finditer(text):
        line = text.count("\n", 0, token.start()) + 1
        pattern, equals, qtype = token[0].partition("=")
        try:
            if not (pattern and equals and qtype):
                raise RecipeError(f"{token[0]!r} is not pattern=type, such as attn_v=q6_k")
            rules.append(Rule(_whole_name(_to_python(_lower(pattern))), qtype, line))
        except RecipeError as error:
            raise RecipeError(
                f"{place(path, line)}{error.message}", path=path, line=line, key=token[0]
            ) from None
    if not rules:
        raise RecipeError(
            f"{place(path)}there are no tensor types in it; write one pattern=type per line",
            path=path,
        )
    return Recipe(rules=tuple(rules), path=path)


def format_tensor_types(recipe: Recipe, tensor_names: Iterable[str]) -> str:
    """One line per tensor, with which llama-quantize gives exactly the recipe's types.

    The tool heeds the file only if its preset is a quantized type; ``--pure`` with ``Q8_0`` always
    works.

    Args:
        recipe: the types to express.
        tensor_names: the model's tensors that can be quantized, in the order wanted.

    Raises:
        RecipeError: the recipe gives a tensor no type.
    """
    lines = []
    for name in tensor_names:
        qtype = recipe.type_of(name)
        if qtype is None:
            raise RecipeError(
                f"no rule gives a type to {name}; add one, or a base type for the rest", tensor=name
            )
        lines.append(f"^{_escape(name)}$={type_name(qtype).lower()}\n")
    return "".join(lines)


def _lower(pattern: str) -> str:
    """C's tolower, which leaves letters beyond ASCII alone."""
    return re.sub("[A-Z]+", lambda letters: letters[0].lower(), pattern)


def _escape(name: str) -> str:
    """An expression for ``name`` itself that survives splitting and lower-casing.

    Capitals, white space and ``=`` are written as character codes.
    """
    return re.sub(
        r"([\^$\\.*+?()\[\]{}|])|([A-Z=\x00-\x20\x7f])",
        lambda found: f"\\{found[1]}" if found[1] else f"\\x{ord(found[2]):02x}",
        name,
    )


# One element of an ECMAScript expression over bytes; what Python reads differently is left out.
_ESCAPE = r"\\(?:[dwsfnrtv]|x[0-9a-f]{2}|u[0-9a-f]{4}|[!-/:-@\[-`{-~])"
_SET = rf"\[(?:\^(?![\]])|(?![\^\]]))(?:{_ESCAPE}|(?!\[[:.=]|--)[ -\[^-~])+\]"
_ELEMENT = re.compile(
    rf"{_ESCAPE}|\\[b1-9]|{_SET}|\(\?[:!]|\((?!\?)"
    r"|(?:[*?+]|\{[0-9]+(?:,[0-9]*)?\})(?!\+)|[^\\\[(*?+{}\x7f-\U0010ffff]|[^\x00-\x7f](?![*?+{])"
)


def _to_python(pattern: str) -> list[str]:
    """The elements of an ECMAScript expression, written so that Python reads them the same."""
    elements = []
    position = 0
    while position < len(pattern):
        found = _ELEMENT.match(pattern, position)
        if found is None:
            raise RecipeError(
                f"'{pattern[position : position + 3]}' in '{pattern}' has no like in a recipe; "
                "write it in plainer terms"
            )
        element = found[0]
        if element.startswith("["):
            # Python reserves these inside a set for operators it may get one day.
            element = "[" + re.sub(r"(?<!\\)[\[&~|]", r"\\\g<0>", element[1:])
        elements.append(element)
        position = found.end()
    return elements


def _whole_name(elements: list[str]) -> str:
    """A pattern for a whole name, from one that is searched anywhere in it."""
    depth = 0
    alternatives = False
    for element in elements:
        depth += (element[0] == "(") - (element == ")")
        alternatives = alternatives or (element == "|" and depth == 0)
    if alternatives:
        return f".*(?:{''.join(elements)}).*"
    anything = [".", "*"]
    before, after = "".join(anything), "".join(anything)
    if elements[0] == "^":
        before, elements = "", elements[1:]
    elif elements[:2] == anything:
        before = ""
    if elements[-1:] == ["$"]:
        after, elements = "", elements[:-1]
    elif elements[-2:] == anything:
        after = ""
    return f"{before}{''.join(elements)}{after}"
