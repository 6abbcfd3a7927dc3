"""Names of what is published: v2 for files, the nearest v1 spec beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mqnative.build.plan import ModelTensor
from mqnative.errors import QuantNameError
from mqnative.formats.groups import label_tensors
from mqnative.formats.names import QuantName, deviations, file_safe, write_name
from mqnative.formats.quant_tokens import FAMILIES
from mqnative.formats.recipe import Recipe
from mqnative.hybrids.chords import Point
from mqnative.hybrids.named import name_of_recipe

_SUFFIXES = ("-bf16", "-f16", "-f32", "-BF16", "-F16", "-F32")
# Files that differ by less, as a share, are of one size to their users.
_SAME_BYTES = 0.005
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Spec:
    """A mix in v1 terms.

    Attributes:
        text: ``Q4K-E-Q6K-H-Q8_0``, without the model's name.
        is_exact: whether every group has the one type that it says; else it names each group's commonest.
    """

    text: str
    is_exact: bool


def model_stem(file_name: str) -> str:
    """The model's name as published files carry it."""
    stem = file_name.removesuffix(".gguf")
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    return file_safe(stem)


def v1_spec(types: Mapping[str, str], tensors: Mapping[str, ModelTensor]) -> Spec:
    """The v1 spec of a mix, or of the mix that is nearest to it group by group.

    Args:
        types: of every tensor.
        tensors: the model's.
    """
    quantizable = {name: types[name] for name, t in tensors.items() if t.quantizable}
    try:
        exact = name_of_recipe(Recipe(tensors=quantizable), tensors)
        return Spec(write_name(QuantName(None, exact.base, exact.groups)), True)
    except QuantNameError:
        pass
    weights: dict[str, Counter[str]] = {}
    every: Counter[str] = Counter()
    for name, found in label_tensors(quantizable).items():
        n = tensors[name].info.n_weights
        every[quantizable[name]] += n
        if found.letter is not None and not (found.letter == "R" and types[name] in _UNQUANTIZED):
            weights.setdefault(found.letter, Counter())[quantizable[name]] += n
    base = _most(every)
    groups = deviations(base, {letter: _most(counts) for letter, counts in weights.items()})
    return Spec(write_name(QuantName(None, base, groups)), False)


def family_of(point: Point, baselines: Sequence[Point]) -> str:
    """The family of a hybrid: the smaller baseline of the two that it lies between, or the nearest.

    A file of a baseline's own bytes, give or take its header, is of that baseline's family.

    Args:
        point: the hybrid.
        baselines: whose names are families.
    """
    usable = [b for b in baselines if b.name in FAMILIES]
    if not usable:
        return "Q8_0"
    smaller = [b for b in usable if b.size_bytes <= (1.0 + _SAME_BYTES) * point.size_bytes]
    if smaller:
        return max(smaller, key=lambda b: (b.size_bytes, b.kld, b.name)).name
    return min(usable, key=lambda b: (b.size_bytes, b.name)).name


def number_hybrids(families: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, int]:
    """Ordinals of hybrids within their families, the largest file first.

    Args:
        families: hybrid -> family.
        sizes: hybrid -> bytes.
    """
    count: Counter[str] = Counter()
    found = {}
    for name in sorted(families, key=lambda n: (-sizes[n], n)):
        count[families[name]] += 1
        found[name] = count[families[name]]
    return found


def file_name(model: str, provider: str, family: str, ordinal: int | None = None) -> str:
    """``Model-MQ-Q4_K_M_1.gguf``.

    Raises:
        QuantNameError: no such provider or family.
    """
    return f"{write_name(QuantName(model, family, provider=provider, ordinal=ordinal))}.gguf"


def _most(counts: Counter[str]) -> str:
    return min(counts, key=lambda quant: (-counts[quant], quant))
