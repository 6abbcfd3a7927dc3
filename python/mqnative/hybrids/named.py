"""From a name to the types of a model's tensors, and from types to the name that says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mqnative.build.fallback import legal_type
from mqnative.build.plan import ModelTensor
from mqnative.core.presets import preset_types, presets
from mqnative.errors import QuantNameError, RecipeError
from mqnative.formats.group_table import LETTERS
from mqnative.formats.groups import Label, label_tensors, letter_pattern
from mqnative.formats.names import QuantName, file_safe, write_name
from mqnative.formats.qtypes import qtype
from mqnative.formats.quant_tokens import is_type
from mqnative.formats.recipe import Recipe, Rule

# Where a recipe has patterns and no model is given, they are tried on these.
_REPRESENTATIVES = {
    "E": ("token_embd",),
    "H": ("output",),
    "Q": ("attn_q",),
    "K": ("attn_k", "attn_v"),
    "O": ("attn_output",),
    "U": ("ffn_gate", "ffn_up"),
    "D": ("ffn_down",),
    "X": ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
    "R": ("ffn_gate_inp",),
}
_BLOCKS = (0, 1, 1000)


@dataclass(frozen=True)
class NamedMix:
    """What a name asks of a model.

    Attributes:
        recipe: a type for every tensor that may change, and for routers that the name wants changed, which
            a build refuses.
        warnings: groups of the name that the model lacks.
        tensor_bytes: of all tensors at their types after row-size fallback; routers at their own.
    """

    recipe: Recipe
    warnings: tuple[str, ...]
    tensor_bytes: int


def recipe_of_name(name: QuantName) -> Recipe:
    """A name as rules by group, for any model.

    Raises:
        QuantNameError: it speaks of mixes, which have a type for each tensor of one model only.
    """
    if name.semantics != "type" or name.base is None:
        raise _needs_more(name)
    rules = tuple(Rule(letter_pattern(letter), quant) for letter, quant in name.groups.items())
    model = {} if name.model is None else {"name": name.model}
    return Recipe(base=name.base, rules=rules, model=model, provenance={"name": write_name(name)})


def mix_of_name(
    name: QuantName,
    tensors: Mapping[str, ModelTensor],
    path: Path | None = None,
    *,
    experts: str = "X",
) -> NamedMix:
    """What a name asks of a model.

    Args:
        name: v1, or v2 of llama.cpp's presets.
        tensors: the model's.
        path: its file, which presets are planned for.
        experts: ``X``, as the naming guide has it; ``UD`` for names that mean experts too by U and D, as the
            published v1 names of mixtures of experts do.

    Raises:
        QuantNameError: the types of another's mix are not in its name.
    """
    if name.base is None:
        raise _needs_more(name)
    labels = label_tensors(tensors)
    letters = {n: _letter(found, name, experts) for n, found in labels.items()}
    present = set(letters.values())
    warnings = tuple(
        f"the model has no group {letter} ({LETTERS[letter]})"
        for letter in name.groups
        if letter not in present
    )
    patterns: dict[str, Mapping[str, str]] = {}
    types: dict[str, str] = {}
    for n, tensor in tensors.items():
        wanted = name.groups.get(letters[n] or "", name.base)
        if not tensor.quantizable and letters[n] not in name.groups:
            continue
        if name.provider is not None or not is_type(wanted):
            wanted = _pattern(wanted, name, path, patterns)[n]
        if tensor.quantizable or wanted != tensor.qtype_name:
            types[n] = wanted
    size = sum(
        qtype(legal_type(types[n], t.info.shape[0]) if n in types and t.quantizable else t.qtype_name)
        .tensor_bytes(t.info.shape)
        for n, t in tensors.items()
    )  # fmt: skip
    recipe = Recipe(
        base=name.base if name.semantics == "type" else None,
        tensors=types,
        model={} if name.model is None else {"name": name.model},
        provenance={"name": write_name(name)},
    )
    return NamedMix(recipe, warnings, size)


def _letter(found: Label, name: QuantName, experts: str) -> str | None:
    if found.group == "X" and experts == "UD" and "X" not in name.groups:
        return "D" if found.part.endswith("down") else "U"
    return found.letter


def _pattern(
    quant: str, name: QuantName, path: Path | None, known: dict[str, Mapping[str, str]]
) -> Mapping[str, str]:
    """The types of a preset for this model."""
    if name.provider not in (None, "LM") or path is None or quant not in (*presets(), "Q5_K", "Q4_K", "Q3_K"):
        raise _needs_more(name)
    if quant not in known:
        known[quant] = preset_types(path, quant, with_imatrix=True)
    return known[quant]


def _needs_more(name: QuantName) -> QuantNameError:
    if name.base is None:
        problem = "is a part of a name without base; write the base in front"
    elif name.provider in (None, "LM"):
        problem = "speaks of presets, whose types depend on the model; give the model's file"
    else:
        problem = "does not tell its types; learn them from its file, or clone its manifest"
    return QuantNameError(f"{write_name(name)!r} {problem}", name=write_name(name), part=name.base)


def name_of_recipe(
    recipe: Recipe, tensors: Mapping[str, ModelTensor] | None = None, *, model: str | None = None
) -> QuantName:
    """The v1 name that says what a recipe says.

    Args:
        recipe: types by name or pattern.
        tensors: the model's; without them, patterns are tried on the usual names of each group.
        model: instead of the recipe's own name of the model.

    Raises:
        QuantNameError: a group has tensors of several types, which v1 names cannot tell.
        RecipeError: nothing gives a tensor a type.
    """
    types = _types(recipe, tensors)
    by_letter: dict[str, Counter[str]] = {}
    weights: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    for name, found in label_tensors(types).items():
        # A router that stays F32 deviates from nothing: llama.cpp never changes it.
        if found.group == "never" or (found.letter == "R" and types[name] == "F32"):
            continue
        counts = rest if found.letter is None else by_letter.setdefault(found.letter, Counter())
        counts[types[name]] += 1
        weights[types[name]] += 1 if tensors is None else tensors[name].info.n_weights
    groups = {letter: _only(f"group {letter}", counts) for letter, counts in by_letter.items()}
    if recipe.base is not None and rest:
        rest[recipe.base] += 1
    base = _only("what no group covers", rest) if rest else recipe.base
    if base is None:
        if not groups:
            raise QuantNameError("the recipe gives no tensor of a known group a type", part="tensors")
        base = min(weights, key=lambda quant: (-weights[quant], quant))
    if model is None:
        model = str(recipe.model.get("name") or "") or None
    kept = {letter: quant for letter, quant in groups.items() if quant != base}
    return QuantName(None if model is None else file_safe(model), base, kept)


def _types(recipe: Recipe, tensors: Mapping[str, ModelTensor] | None) -> dict[str, str]:
    if tensors is not None:
        resolved = recipe.resolve(tensors)
        return {name: resolved[name] for name, t in tensors.items() if t.quantizable}
    names = list(recipe.tensors)
    if recipe.rules:
        names += _representatives(recipe.rules)
    types = {}
    for name in dict.fromkeys(names):
        found = recipe.type_of(name)
        if found is None:
            raise RecipeError(f"nothing gives {name} a type", tensor=name)
        types[name] = found
    return types


def _representatives(rules: Sequence[Rule]) -> list[str]:
    """The usual names of every group that a rule speaks of."""
    found = []
    for letter, roles in _REPRESENTATIVES.items():
        blocks = [""] if letter in "EH" else [f"blk.{block}." for block in _BLOCKS]
        names = [f"{block}{role}.weight" for block in blocks for role in roles]
        if any(rule.matches(name) for rule in rules for name in names):
            found += names
    return found


def _only(what: str, counts: Mapping[str, int]) -> str:
    if len(counts) > 1:
        found = ", ".join(
            f"{n} x {quant}" for quant, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
        )
        raise QuantNameError(
            f"{what} has tensors of several types ({found}), which a v1 name cannot tell; give the model if "
            "the recipe has patterns, or a provider and a family for a v2 name",
            part=what,
        )
    return next(iter(counts))
