"""Incumbents: others' mixes, planned for this model with our importances, as rivals of the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mqnative.build.plan import ModelTensor, model_tensors, plan_build, types_hash
from mqnative.core.presets import presets
from mqnative.errors import ParityError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.hybrids.carry import Carried, carry_over
from mqnative.hybrids.mix_file import MixFile, read_mix
from mqnative.jobs.presets import Rival
from mqnative.measure.study import Study


@dataclass(frozen=True)
class Incumbent:
    """A mix to compare with: what it is called, and what it asks for."""

    name: str
    mix: MixFile

    @property
    def key(self) -> str:
        """What tells it from others: its types and where unnamed tensors go."""
        rules = "".join(f"{rule.match}={rule.qtype}\n" for rule in self.mix.recipe.rules)
        return types_hash({**self.mix.recipe.tensors, "base": f"{self.mix.recipe.base}\n{rules}"})


def read_incumbents(paths: Iterable[Path]) -> tuple[Incumbent, ...]:
    """Read recipes, manifests or models; two of one name are told apart by a number.

    Raises:
        ManifestError, RecipeError, GGUFError: as `read_mix`.
    """
    found: list[Incumbent] = []
    for path in paths:
        mix = read_mix(path)
        taken = {i.name for i in found} | set(presets())
        name, number = mix.name, 2
        while name in taken:
            name, number = f"{mix.name} ({number})", number + 1
        found.append(Incumbent(name, mix))
    return tuple(found)


def incumbents_of(file: GGUFFile, paths: Iterable[Path]) -> tuple[Incumbent, ...]:
    """Read incumbents, and refuse those of other models before anything is measured.

    Raises:
        ParityError: one is of another model.
        ManifestError, RecipeError, GGUFError: as `read_mix`.
    """
    found = read_incumbents(paths)
    if found:
        tensors = model_tensors(file)
        for incumbent in found:
            _carried(incumbent, tensors, file)
    return found


def _carried(incumbent: Incumbent, tensors: Mapping[str, ModelTensor], file: GGUFFile) -> Carried:
    mix = incumbent.mix
    architectures = (mix.architecture, file.architecture or "")
    try:
        return carry_over(mix.recipe, tensors, shapes=mix.shapes, architectures=architectures)
    except ParityError as error:
        fields = {name: getattr(error, name) for name in error.fields}
        raise ParityError(f"incumbent {incumbent.name}: {error.message}", **fields) from None


def planned(
    study: Study,
    incumbents: Iterable[Incumbent],
    tensors: Mapping[str, ModelTensor],
    imatrix: Imatrix | None,
    imatrix_name: str,
) -> dict[str, Rival]:
    """The incumbents as rivals: their types here, and the size of the file we would write.

    Raises:
        ParityError: one is of another model.
        Any error of `plan_build`.
    """
    found = {}
    for incumbent in incumbents:
        plan = plan_build(
            study.file,
            _carried(incumbent, tensors, study.file).recipe,
            imatrix,
            imatrix_name="" if imatrix is None else imatrix_name,
            source_hash=study.identity.model,
        )
        found[incumbent.name] = Rival(incumbent.name, plan.types, plan.file_bytes, plan.bpw)
    return found
