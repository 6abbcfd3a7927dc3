"""Recipes: what decides, what is refused for a model, the text people edit, llama-quantize's form."""

from __future__ import annotations

import json
import pickle
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from mqnative.errors import OutputError, OutputExistsError, RecipeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe import (
    Recipe,
    Rule,
    format_recipe,
    parse_recipe,
    read_recipe,
    write_recipe,
)
from mqnative.formats.tensor_types import (
    format_tensor_types,
    parse_tensor_types,
    read_tensor_type_file,
)


@dataclass(frozen=True)
class Tensor:
    quantizable: bool = True
    qtype_name: str = "BF16"


NORM = Tensor(quantizable=False, qtype_name="F32")
MODEL = {
    "token_embd.weight": Tensor(),
    **{
        f"blk.{layer}.{role}.weight": tensor
        for layer in range(12)
        for role, tensor in {
            "attn_norm": NORM,
            "attn_v": Tensor(),
            "ffn_down": Tensor(),
            "ffn_gate_inp": NORM,
        }.items()
    },
    "output.weight": Tensor(),
}
QUANTIZABLE = [name for name, tensor in MODEL.items() if tensor.quantizable]

TEXT = r"""mqnative: recipe/1
model:
  name: tiny
  hash: 0123e4
base: Q4_K
rules:
  - {match: 'blk\.[01]\.ffn_down\.weight', type: Q8_0}
  - {match: 'blk\.\d+\.ffn_down\.weight', type: Q6_K}
tensors:
  blk.2.attn_v.weight: Q5_K
  blk.10.attn_v.weight: Q5_K
  output.weight: Q8_0
target:
  bpw: 4.5
predicted:
  kld_mean: 0.0012
  kld_ci95:
    - 0.001
    - 0.0014
provenance:
  solver: exact
  date: '2026-11-21'
"""


# --- what decides ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("blk.0.ffn_down.weight", "Q8_0"),
        ("blk.2.ffn_down.weight", "Q6_K"),
        ("blk.2.attn_v.weight", "Q5_K"),
        ("blk.3.attn_v.weight", "Q4_K"),
        ("xblk.2.ffn_down.weight", "Q4_K"),
        ("blk.2.ffn_down.weight.x", "Q4_K"),
    ],
)
def test_exact_names_win_over_the_first_rule_and_rules_over_the_base(name: str, qtype: str) -> None:
    assert parse_recipe(TEXT).type_of(name) == qtype


def test_an_exact_name_wins_over_a_rule_that_matches_it() -> None:
    recipe = Recipe(rules=(Rule(".*", "Q4_K"),), tensors={"output.weight": "Q8_0"})
    assert recipe.type_of("output.weight") == "Q8_0"


def test_without_a_base_an_unnamed_tensor_has_no_type() -> None:
    assert Recipe(rules=(Rule("a", "Q4_K"),)).type_of("b") is None


def test_types_are_taken_in_any_case_and_kept_in_upper_case() -> None:
    recipe = Recipe(base="q4_k", rules=(Rule("a", "iq2_Xxs"),), tensors={"b": "bf16"})
    assert (recipe.base, recipe.rules[0].qtype, recipe.tensors["b"]) == ("Q4_K", "IQ2_XXS", "BF16")


def test_rules_given_as_a_list_become_a_tuple() -> None:
    assert Recipe(rules=[Rule("a", "Q4_K")]).rules == (Rule("a", "Q4_K"),)


# --- resolving ---------------------------------------------------------------------------------


def test_every_tensor_gets_its_type_and_those_never_changed_keep_theirs() -> None:
    resolved = parse_recipe(TEXT).resolve(MODEL)
    assert list(resolved) == list(MODEL)
    assert resolved["blk.0.ffn_down.weight"] == "Q8_0"
    assert resolved["blk.11.ffn_down.weight"] == "Q6_K"
    assert resolved["blk.2.attn_v.weight"] == "Q5_K"
    assert resolved["token_embd.weight"] == "Q4_K"
    assert {resolved[n] for n in MODEL if n not in QUANTIZABLE} == {"F32"}


def test_a_rule_may_also_match_tensors_that_never_change() -> None:
    resolved = Recipe(rules=(Rule(".*", "Q4_K"),)).resolve(MODEL)
    assert resolved["blk.0.attn_norm.weight"] == "F32"
    assert resolved["blk.0.attn_v.weight"] == "Q4_K"


def test_an_entry_that_asks_for_the_type_a_fixed_tensor_has_is_fine() -> None:
    recipe = Recipe(base="Q4_K", tensors={"blk.0.attn_norm.weight": "F32"})
    assert recipe.resolve(MODEL)["blk.0.attn_norm.weight"] == "F32"


@dataclass(frozen=True)
class Misfit:
    """A recipe that does not fit the model; the error's fields and a part of its message."""

    body: str
    line: int | None = None
    key: str | None = None
    tensor: str | None = None
    says: str = ""


MISFITS = {
    "an entry for an absent tensor": Misfit(
        "base: Q4_K\ntensors:\n  blk.3.ffn_dwn.weight: Q6_K\n",
        line=4,
        tensor="blk.3.ffn_dwn.weight",
        says="nearest is blk.3.ffn_down.weight",
    ),
    "an entry for a norm": Misfit(
        "base: Q4_K\ntensors:\n  blk.3.attn_norm.weight: Q6_K\n",
        line=4,
        tensor="blk.3.attn_norm.weight",
        says="it stays F32",
    ),
    "an entry for a router": Misfit(
        "base: Q4_K\ntensors: {blk.3.ffn_gate_inp.weight: F16}\n",
        line=3,
        tensor="blk.3.ffn_gate_inp.weight",
        says="llama.cpp never changes",
    ),
    "a rule with a typing error": Misfit(
        "base: Q4_K\nrules:\n  - {match: 'blk\\.\\d+\\.ffn_dwn\\.weight', type: Q6_K}\n",
        line=4,
        key=r"blk\.\d+\.ffn_dwn\.weight",
        says="nearest is blk.0.ffn_down.weight",
    ),
    "a rule that fits a part of a name": Misfit(
        "base: Q4_K\nrules:\n  - match: attn_v\n    type: Q6_K\n",
        line=4,
        key="attn_v",
        says="a part of blk.0.attn_v.weight",
    ),
    "a rule for another architecture": Misfit(
        "base: Q4_K\nrules:\n  - {match: zzz, type: Q6_K}\n",
        line=4,
        key="zzz",
        says="made for this model",
    ),
    "a rule that matches norms only": Misfit(
        "base: Q4_K\nrules:\n  - {match: .*_norm\\.weight, type: Q6_K}\n",
        line=4,
        key=r".*_norm\.weight",
        tensor="blk.0.attn_norm.weight",
        says="never changes",
    ),
    "a tensor that nothing names": Misfit(
        "rules:\n  - {match: blk.*, type: Q6_K}\n",
        tensor="token_embd.weight",
        says="base type",
    ),
}


@pytest.mark.parametrize("case", MISFITS.values(), ids=list(MISFITS))
def test_a_recipe_that_does_not_fit_is_refused(case: Misfit) -> None:
    recipe = parse_recipe("mqnative: recipe/1\n" + case.body, "r.yaml")
    with pytest.raises(RecipeError) as caught:
        recipe.resolve(MODEL)
    error = caught.value
    fields = (error.path, error.line, error.key, error.tensor)
    assert fields == ("r.yaml", case.line, case.key, case.tensor)
    assert case.says in error.message
    assert ";" in error.message


# --- text --------------------------------------------------------------------------------------


def test_the_text_of_a_recipe_is_pinned() -> None:
    assert format_recipe(parse_recipe(TEXT)) == TEXT


def test_a_recipe_survives_json_which_says_the_same() -> None:
    recipe = parse_recipe(TEXT)
    text = format_recipe(recipe, json=True)
    assert parse_recipe(text) == recipe
    assert json.loads(text)["rules"][1] == {"match": r"blk\.\d+\.ffn_down\.weight", "type": "Q6_K"}


def test_notes_keep_what_they_look_like() -> None:
    notes = parse_recipe(
        "mqnative: recipe/1\nprovenance: {a: 2026-01-31, b: yes, c: 0x10, d: 12:30, e: 010, f: 1_0,"
        " g: 1e3, h: -2, i: null, j: ~, k: true, l: '1', m: .5, n: <<}\n"
    ).provenance
    texts = {"a": "2026-01-31", "b": "yes", "c": "0x10", "d": "12:30", "e": "010", "f": "1_0"}
    others = {"g": 1000.0, "h": -2, "i": None, "j": None, "k": True, "l": "1", "m": ".5", "n": "<<"}
    assert notes == texts | others


def test_notes_are_copies_in_plain_types() -> None:
    numbers = [np.float64(0.5), np.int32(3)]
    recipe = Recipe(base="Q4_K", predicted=MappingProxyType({"a": (numbers,)}))
    numbers.clear()
    assert recipe.predicted == {"a": [[0.5, 3]]}
    assert parse_recipe(format_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    "value", [float("nan"), object(), {1: 2}, 2**64, "\ud800", [[float("-inf")]], b"a", {"\ud800": 1}]
)
def test_notes_that_no_file_can_hold_are_refused(value: object) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(base="Q4_K", target={"x": value})
    assert caught.value.key == "target"


def test_equal_recipes_give_equal_text_whatever_the_order_of_tensors() -> None:
    recipe = parse_recipe(TEXT)
    other = replace(recipe, tensors=dict(reversed(recipe.tensors.items())))
    assert other == recipe
    assert format_recipe(other) == format_recipe(recipe)


def test_empty_sections_count_as_absent() -> None:
    text = "mqnative: recipe/1\nbase: F16\nrules:\ntensors: {}\ntarget:\n"
    assert parse_recipe(text) == Recipe(base="F16")
    assert format_recipe(Recipe(base="F16")) == "mqnative: recipe/1\nbase: F16\n"


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b'\xef\xbb\xbf{"mqnative": "recipe/1", "base": "F16"}')
    assert read_recipe(path).base == "F16"


def test_content_decides_between_yaml_and_json(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(format_recipe(parse_recipe(TEXT), json=True))
    (tmp_path / "r.json").write_text(TEXT)
    assert read_recipe(tmp_path / "r.yaml") == read_recipe(tmp_path / "r.json")


@pytest.mark.parametrize("name", ["r.yaml", "r.json", "r.JSON", "recipe"])
def test_the_suffix_decides_what_is_written(tmp_path: Path, name: str) -> None:
    recipe = parse_recipe(TEXT)
    write_recipe(tmp_path / name, recipe)
    assert (tmp_path / name).read_text().startswith("{") == name.lower().endswith(".json")
    assert read_recipe(tmp_path / name) == recipe


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("mine")
    with pytest.raises(OutputExistsError):
        write_recipe(path, parse_recipe(TEXT))
    assert path.read_text() == "mine"
    write_recipe(path, parse_recipe(TEXT), force=True)
    assert path.read_text() == TEXT


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_recipe(tmp_path / "none" / "r.yaml", parse_recipe(TEXT))


def test_a_recipe_can_be_sent_to_another_process() -> None:
    recipe = parse_recipe(TEXT, "r.yaml")
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_an_error_can_be_sent_to_another_process() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("mqnative: recipe/1\nbase: Q9\n", "r.yaml")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.to_dict() == caught.value.to_dict()
    assert copy.line == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda: Rule("(", "Q4_K"),
        lambda: Rule("a", "Q4_K_M"),
        lambda: Recipe(base="no"),
        lambda: Recipe(tensors={"a": "no"}),
        lambda: Recipe(tensors={"\udcff": "F16"}),
        lambda: Recipe(rules=(Rule("\udcff", "F16"),)),
    ],
    ids=[
        "a malformed pattern",
        "a preset",
        "an unknown base",
        "an unknown type",
        "half a name",
        "half a rule",
    ],
)
def test_what_cannot_be_written_cannot_be_built(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError):
        build()


# --- llama-quantize's tensor-type files --------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("attn_v", ".*attn_v.*"),
        (r"^blk\.3\.ffn_down\.weight$", r"blk\.3\.ffn_down\.weight"),
        ("^blk", "blk.*"),
        ("weight$", ".*weight"),
        (".*attn.*", ".*attn.*"),
        ("^", ".*"),
        (".*", ".*"),
        (r"\.(1|2)\.attn", r".*\.(1|2)\.attn.*"),
        ("^a|b$", ".*(?:^a|b$).*"),
        (r"weight\$", r".*weight\$.*"),
        ("ATTN_V", ".*attn_v.*"),
        (r"\D", r".*\d.*"),  # the tool lower-cases classes as well
        ("[a&&b[]", r".*[a\&\&b\[].*"),
    ],
)
def test_searched_patterns_become_patterns_for_whole_names(pattern: str, expected: str) -> None:
    assert parse_tensor_types(f"{pattern}=q6_k").rules == (Rule(expected, "Q6_K"),)


def test_entries_are_separated_by_any_white_space_and_keep_their_order() -> None:
    recipe = parse_tensor_types("a=q4_K\tb=Q5_k\r\n\n  c=bf16 ", "types.txt")
    assert [(rule.match, rule.qtype, rule.line) for rule in recipe.rules] == [
        (".*a.*", "Q4_K", 1),
        (".*b.*", "Q5_K", 1),
        (".*c.*", "BF16", 3),
    ]
    assert (recipe.base, recipe.path) == (None, "types.txt")


def test_only_the_first_equals_sign_separates() -> None:
    with pytest.raises(RecipeError, match="'=q6_k' is not a tensor type"):
        parse_tensor_types("a==q6_k")


def test_the_first_pattern_found_decides() -> None:
    recipe = parse_tensor_types("ffn=q4_k ffn_down=q6_k .=q8_0")
    assert recipe.type_of("blk.0.ffn_down.weight") == "Q4_K"
    assert recipe.type_of("blk.0.attn_v.weight") == "Q8_0"


def test_exported_types_are_one_anchored_line_per_tensor() -> None:
    recipe = Recipe(base="Q4_K", tensors={"blk.3.ffn_down.weight": "Q6_K"})
    names = ["blk.3.ffn_down.weight", "Odd Name=1.weight"]
    assert format_tensor_types(recipe, names) == (
        "^blk\\.3\\.ffn_down\\.weight$=q6_k\n^\\x4fdd\\x20\\x4eame\\x3d1\\.weight$=q4_k\n"
    )


def test_exported_types_resolve_to_the_same_types(tmp_path: Path) -> None:
    recipe = parse_recipe(TEXT)
    (tmp_path / "types.txt").write_text(format_tensor_types(recipe, QUANTIZABLE))
    assert read_tensor_type_file(tmp_path / "types.txt").resolve(MODEL) == recipe.resolve(MODEL)


def test_a_tensor_without_a_type_cannot_be_exported() -> None:
    with pytest.raises(RecipeError) as caught:
        format_tensor_types(Recipe(rules=(Rule("blk.*", "Q4_K"),)), QUANTIZABLE)
    assert caught.value.tensor == "token_embd.weight"


@pytest.mark.upstream
def test_llama_quantize_gives_the_exported_types(
    tmp_path: Path, upstream_bin: Path, builtin_model: Path
) -> None:
    with GGUFFile.open(builtin_model) as model:
        names = [name for name, info in model.tensors.items() if len(info.shape) > 1]
    rng = random.Random(1)
    types = ("Q4_K", "Q6_K", "Q8_0", "IQ4_XS", "BF16", "Q5_1", "F16", "TQ1_0")
    recipe = Recipe(base="Q5_K", tensors={name: rng.choice(types) for name in names[::2]})
    (tmp_path / "types.txt").write_text(format_tensor_types(recipe, names))
    command = [upstream_bin / "llama-quantize", "--dry-run", "--tensor-type-file"]
    command += [tmp_path / "types.txt", builtin_model, "Q8_0"]
    done = subprocess.run([str(p) for p in command], check=True, capture_output=True, text=True)
    line = re.compile(r"\] +(\S+) +- \[.*?type = +(\S+), size = [^(\n]*(?:\((\w+)\))?$", re.MULTILINE)
    got = {name: (new or old).upper() for name, old, new in line.findall(done.stdout + done.stderr)}
    assert {name: got[name] for name in names} == {name: recipe.type_of(name) for name in names}
