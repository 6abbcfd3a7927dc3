"""Recipes of any content: they survive both notations, and llama-quantize's form keeps their types."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.formats.qtypes import all_types
from mqnative.formats.recipe import Recipe, Rule, format_recipe, parse_recipe
from mqnative.formats.strict_yaml import format_yaml, parse_document, plain
from mqnative.formats.tensor_types import format_tensor_types, parse_tensor_types


@dataclass(frozen=True)
class Tensor:
    quantizable: bool = True
    qtype_name: str = "F32"


# Text of every kind that UTF-8 can hold, with what YAML might take for something else.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "~", "null", "yes", "1e3", "0x1F", "1_000", "12:30", "2026-01-31", "<<", "=", "- a", "a: b",
     "#", " a ", "'", '"', "\\", "%", "@", "`", "|", ">", "!", "&a", "*a", "?", "{", "[", "\x85",
     "\u2028", "\ufeff", "\t", "a\nb", "a\r\nb", "\0", "\x1b", "---", "...", ".inf", "1e999", "é😀"]
)  # fmt: skip
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
notes = st.dictionaries(
    text,
    st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
# Called inside the strategies, so that collecting the tests needs no compiled module.
qtypes = st.deferred(lambda: st.sampled_from([t.name for t in all_types().values() if t.is_target]))
names = st.from_regex(r"\A(blk\.\d{1,2}\.)?[A-Za-z0-9_ =+$^.\-]{1,24}\Z")
patterns = (text | names).map(re.escape) | st.sampled_from([r"blk\.\d+\..*", "a|b", ".*", "(?i)x"])
rules = st.lists(st.builds(Rule, patterns, qtypes), max_size=4).map(tuple)
recipes = st.builds(
    Recipe,
    base=st.none() | qtypes,
    rules=rules,
    tensors=st.dictionaries(text | names, qtypes, max_size=4),
    model=notes,
    target=notes,
    predicted=notes,
    provenance=notes,
)


@given(recipes)
def test_any_recipe_survives_yaml(recipe: Recipe) -> None:
    written = format_recipe(recipe)
    assert parse_recipe(written) == recipe
    assert format_recipe(parse_recipe(written)) == written


@given(recipes)
def test_any_recipe_survives_json(recipe: Recipe) -> None:
    written = format_recipe(recipe, json=True)
    assert parse_recipe(written) == recipe
    assert json.loads(written)["mqnative"] == "recipe/1"


@given(rules)
def test_rules_take_one_line_each(rules: tuple[Rule, ...]) -> None:
    assert len(format_recipe(Recipe(rules=rules)).splitlines()) == (2 + len(rules) if rules else 1)


@given(notes)
def test_strings_in_our_yaml_are_strings_for_every_yaml_reader(data: dict[str, Any]) -> None:
    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [s for k, v in value.items() for s in (k, *strings(v))]
        if isinstance(value, list):
            return [s for v in value for s in strings(v)]
        return [value] if isinstance(value, str) else []

    written = format_yaml(data)
    assert strings(yaml.safe_load(written)) == strings(data)
    assert parse_document("# YAML\n" + written).data == data


@given(notes)
def test_plain_data_is_copied_unchanged(data: dict[str, Any]) -> None:
    assert plain(data) == data


@st.composite
def models(draw: st.DrawFn) -> dict[str, Tensor]:
    drawn = draw(st.lists(names, min_size=1, max_size=8, unique=True))
    return {name: Tensor(draw(st.booleans())) for name in drawn}


@given(model=models(), data=st.data())
def test_every_tensor_gets_the_type_that_the_slow_reading_of_the_rules_gives(
    model: dict[str, Tensor], data: st.DataObject
) -> None:
    movable = [name for name, tensor in model.items() if tensor.quantizable]
    exact = data.draw(st.dictionaries(st.sampled_from(movable), qtypes)) if movable else {}
    chosen = data.draw(st.lists(st.sampled_from(movable), max_size=3)) if movable else []
    recipe = Recipe(
        base=data.draw(qtypes),
        rules=tuple(Rule(re.escape(name[:4]) + ".*", data.draw(qtypes)) for name in chosen),
        tensors=exact,
    )
    expected = {}
    for name, tensor in model.items():
        expected[name] = recipe.base if tensor.quantizable else tensor.qtype_name
        for rule in reversed(recipe.rules):
            if tensor.quantizable and re.match(f"(?:{rule.match})\\Z", name):
                expected[name] = rule.qtype
        expected[name] = exact.get(name, expected[name])
    assert recipe.resolve(model) == expected


@given(model=models(), data=st.data())
def test_exported_tensor_types_read_again_give_the_same_types(
    model: dict[str, Tensor], data: st.DataObject
) -> None:
    movable = [name for name, tensor in model.items() if tensor.quantizable]
    recipe = Recipe(
        base=data.draw(qtypes),
        tensors=data.draw(st.dictionaries(st.sampled_from(movable), qtypes)) if movable else {},
    )
    written = format_tensor_types(recipe, movable)
    if movable:
        assert parse_tensor_types(written).resolve(model) == recipe.resolve(model)
        assert written == "".join(f"{line}\n" for line in written.split())
        assert all(line.rpartition("=")[0].lower() == line.rpartition("=")[0] for line in written.split())


# Patterns in the part of ECMAScript's syntax that Python shares, so that `re` can be the judge.
pieces = st.sampled_from(
    ["a", "b", "blk", r"\.", ".", r"\d", "[0-9]", "[^a]", "(a|b)", "(?:ab|k)", "_", "1", "^", "$", "|"]
)
ecma = st.lists(
    st.tuples(pieces, st.sampled_from(["", "", "", "*", "+", "?", "*?", "{2}"])).map("".join),
    min_size=1,
    max_size=6,
).map("".join)


@settings(max_examples=300)
@given(pattern=ecma, name=st.text("abkl._019", max_size=12))
def test_an_imported_pattern_matches_the_names_that_the_search_finds(pattern: str, name: str) -> None:
    try:
        searched = re.compile(pattern)
    except re.error:
        return
    (rule,) = parse_tensor_types(f"{pattern}=q6_k").rules
    assert rule.matches(name) == (searched.search(name) is not None)
