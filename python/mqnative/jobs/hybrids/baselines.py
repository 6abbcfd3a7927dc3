"""Baselines: presets and others' files as learned configs, planned from our own original on equal ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mqnative.build.fallback import legal_type
from mqnative.build.plan import ModelTensor, model_tensors
from mqnative.core.native import core
from mqnative.core.presets import preset, preset_types, requires_imatrix
from mqnative.errors import BaselineError, ParityError, QuantizeError, QuantNameError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.name_parser import parse_name
from mqnative.hybrids.carry import carry_over
from mqnative.hybrids.learned import LearnedConfig
from mqnative.hybrids.mix_file import MixFile, read_mix
from mqnative.hybrids.verdicts import Removal
from mqnative.jobs.candidates import Importances
from mqnative.jobs.hybrids.request import External, HybridOptions

_LEAST = 2


@dataclass(frozen=True)
class Baseline:
    """A mix that others publish.

    Attributes:
        name: provider and family: ``LM-Q4_K_M``, ``UD-Q4_K_XL``.
        provider: LM, UD or EXT.
        family: a quantization's name; None where the file's own name tells none.
        types: of every tensor.
        credit: whose pattern it is.
        also: names of baselines with the same types, which are not looked at again.
    """

    name: str
    provider: str
    family: str | None
    types: Mapping[str, str] = field(repr=False)
    credit: Mapping[str, Any] = field(repr=False)
    also: tuple[str, ...] = ()


def read_externals(externals: Sequence[External], file: GGUFFile) -> list[Baseline]:
    """Learn others' files, and refuse those of other models and those that are called alike.

    Raises:
        ParityError: of another model; the file is named.
        BaselineError: two of one provider and name.
        ManifestError, RecipeError, GGUFError: it cannot be read.
    """
    tensors = model_tensors(file)
    found: dict[str, tuple[Baseline, External]] = {}
    for external in externals:
        baseline = _external(external, tensors, file.architecture or "")
        if baseline.name in found:
            raise BaselineError(
                f"{external.said} and {found[baseline.name][1].said} are both {baseline.name}; give one file "
                "for each provider and name, or rename one",
                provider=baseline.provider,
                name=baseline.name,
            )
        found[baseline.name] = baseline, external
    return [baseline for baseline, _ in found.values()]


def baselines_of(
    file: GGUFFile, externals: Sequence[Baseline], options: HybridOptions, importances: Importances
) -> tuple[list[Baseline], list[Removal]]:
    """Every baseline, those of the same types as one; and those that are not looked at, with their reason.

    Args:
        file: the model.
        externals: from `read_externals`.
        options: which presets.
        importances: by tensor name.

    Raises:
        BaselineError: fewer than two are left.
        UnsupportedTypeError: there is no such preset.
    """
    found: dict[tuple[str, ...], Baseline] = {}
    removed: list[Removal] = []
    presets = [p for name in dict.fromkeys(options.presets) if (p := _preset(file, name, importances))]
    for baseline in (*presets, *externals):
        key = tuple(baseline.types[name] for name in file.tensors)
        if key in found:
            first = found[key]
            found[key] = Baseline(
                first.name,
                first.provider,
                first.family,
                first.types,
                first.credit,
                (*first.also, baseline.name),
            )
            said = f"it gives this model the same types as {first.name}"
            removed.append(Removal(baseline.name, "SAME_TYPES", first.name, said, None, 0))
        else:
            found[key] = baseline
    require_enough(list(found.values()))
    return list(found.values()), removed


def require_enough(baselines: Sequence[Baseline]) -> None:
    """Refuse a contest of fewer than two.

    Raises:
        BaselineError: so it is.
    """
    if len(baselines) < _LEAST:
        names = ", ".join(b.name for b in baselines) or "none"
        raise BaselineError(
            f"hybrids are judged between baselines, and there are fewer than two different ones ({names}); "
            "name more with --presets or --external",
            name=names,
        )


def _preset(file: GGUFFile, name: str, importances: Importances) -> Baseline | None:
    """A preset of llama.cpp, or None where it cannot make this model."""
    known = preset(name)
    try:
        types = preset_types(file.path, known.name, with_imatrix=True)
    except QuantizeError:
        return None
    lacking = (
        n for n, w in importances.items() if w is None and requires_imatrix(n, types[n], ftype=known.ftype)
    )
    if any(lacking):
        return None
    maker = f"llama.cpp {core().build_info()['upstream_commit']}"
    return Baseline(f"LM-{known.name}", "LM", known.name, types, {"provider": maker, "preset": known.name})


def _external(external: External, tensors: Mapping[str, ModelTensor], architecture: str) -> Baseline:
    mix = read_mix(external.path) if external.learned is None else _of_header(external.learned)
    try:
        carried = carry_over(
            mix.recipe, tensors, shapes=mix.shapes, architectures=(mix.architecture, architecture)
        )
    except ParityError as error:
        fields = {name: getattr(error, name) for name in error.fields}
        raise ParityError(f"external {external.said}: {error.message}", **fields) from None
    wanted = carried.recipe.resolve(tensors)
    types = {
        name: legal_type(wanted[name], t.info.shape[0])
        if t.quantizable and wanted[name] != t.qtype_name
        else t.qtype_name
        for name, t in tensors.items()
    }
    maker = str(mix.parent.get("provider") or "")
    mark, family = _mark_and_family(mix.name)
    provider = "UD" if mark == "UD" or "unsloth" in f"{maker} {external.said}".lower() else "EXT"
    credit = {**mix.parent, "origin": external.said}
    return Baseline(f"{provider}-{family or mix.name}", provider, family, types, credit)


def _of_header(learned: LearnedConfig) -> MixFile:
    return MixFile(
        "gguf", learned.name, learned.recipe(), learned.architecture, learned.shapes, learned.credit
    )


def _mark_and_family(name: str) -> tuple[str, str | None]:
    """The provider's mark and the quantization that a file is called by."""
    try:
        parsed = parse_name(name).name
    except QuantNameError:
        return "", None
    return (parsed.provider or "").removeprefix("MQ-"), None if parsed.groups else parsed.base
