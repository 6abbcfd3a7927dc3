"""Learned configs: the type of every tensor of a file that others made, by tensor and by group, with credit.

A learned config is a pattern, to be built again from our reference with our importances, so that patterns
compete on equal ground. llama.cpp's presets are learned from its own code, without quantizing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mqnative.build.plan import ModelTensor
from mqnative.core.native import core
from mqnative.core.presets import preset, preset_types, presets
from mqnative.errors import GGUFError, QuantizeError, QuantNameError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_header import TensorInfo
from mqnative.formats.groups import Label, UserGroup, by_group, label_tensors
from mqnative.formats.name_parser import parse_name
from mqnative.formats.names import QuantName, write_name
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.hybrids.carry import Carried, Policy, carry_over
from mqnative.source.identity import file_sha256

UNKNOWN = "unknown"
_BY_MARK = {"UD": "unsloth", "LM": "llama.cpp"}


@dataclass(frozen=True)
class LearnedConfig:
    """The types of one file or preset.

    Attributes:
        name: what others call it: ``UD-Q4_K_XL``, ``Q4_K_M``, or the file's name.
        provider: who made it, as far as the file or its user says.
        file: the file's name; of a preset the model's it was planned for.
        file_sha256: of the file's bytes; empty for presets.
        architecture: the model's.
        model_name: in the metadata.
        types: tensor -> type.
        shapes: tensor -> GGUF shape.
        labels: tensor -> group.
        with_imatrix: whether importances went into it, as far as the file says.
    """

    name: str
    provider: str
    file: str
    file_sha256: str
    architecture: str
    model_name: str
    types: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    labels: Mapping[str, Label] = field(repr=False)
    with_imatrix: bool = False

    @property
    def groups(self) -> dict[str, dict[str, int]]:
        """Group -> type -> number of tensors, the commonest type first, without the group ``never``."""
        return {
            group: dict(Counter(self.types[name] for name in names).most_common())
            for group, names in by_group(self.labels).items()
            if group != "never"
        }

    @property
    def tensor_bytes(self) -> int:
        """Bytes of tensor data."""
        return sum(qtype(t).tensor_bytes(self.shapes[name]) for name, t in self.types.items())

    @property
    def credit(self) -> dict[str, Any]:
        """Whose pattern this is, for recipes and manifests."""
        return {
            "learned_from": self.name,
            "provider": self.provider,
            "file": self.file,
            **({"file_sha256": self.file_sha256} if self.file_sha256 else {}),
        }

    def recipe(self) -> Recipe:
        """The types as they are in the file, for a model with the very same tensors."""
        return Recipe(
            tensors={name: t for name, t in self.types.items() if qtype(t).is_target},
            model={"name": self.model_name, "architecture": self.architecture},
            provenance=self.credit,
        )

    def recipe_for(
        self, tensors: Mapping[str, ModelTensor], architecture: str, policy: Policy | None = None
    ) -> Carried:
        """The types for our own reference of the model.

        Raises:
            ParityError: the two files do not hold the same tensors; see `Policy`.
        """
        return carry_over(
            self.recipe(),
            tensors,
            shapes=self.shapes,
            architectures=(self.architecture, architecture),
            policy=policy,
        )


def learn_file(
    path: str | Path, *, provider: str | None = None, groups: Iterable[UserGroup] = ()
) -> LearnedConfig:
    """Learn the types of a GGUF file, split or not.

    Args:
        path: the file, the first of a split one; it is read once for its hash.
        provider: who made it; by default what its metadata or name says.
        groups: of the user's own.

    Raises:
        GGUFError: the file is damaged, a part is missing, or a tensor has a type that ggml does not know.
        GroupError: a user's group matches nothing.
    """
    with GGUFFile.open(path) as file:
        metadata = {key: value.plain for key, value in file.metadata.items() if value.element_type is None}
        return learn_tensors(
            file.tensors,
            metadata,
            file=file.paths[0].name,
            file_sha256=file_sha256(file.paths),
            provider=provider,
            groups=groups,
        )


def learn_tensors(
    tensors: Mapping[str, TensorInfo],
    metadata: Mapping[str, Any],
    *,
    file: str,
    file_sha256: str,
    provider: str | None = None,
    groups: Iterable[UserGroup] = (),
) -> LearnedConfig:
    """Learn from a header alone, wherever it came from.

    Args:
        tensors: of the header, all parts together.
        metadata: key -> plain value.
        file: the file's name, which may tell who made it.
        file_sha256: of the whole file; empty if only the header was read.
        provider: who made it, if that is known.
        groups: of the user's own.

    Raises:
        GGUFError: the header names no architecture or no tensors.
        GroupError: a user's group matches nothing.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not tensors:
        lacking = "tensors" if isinstance(architecture, str) else "general.architecture"
        raise GGUFError(
            f"{file} has no {lacking}, so that there is nothing to learn from it; give a model",
            path=file,
            key="general.architecture",
        )
    said = _name_of(file)
    return LearnedConfig(
        name=file if said is None else _mix_name(said),
        provider=provider or _provider(metadata, said),
        file=file,
        file_sha256=file_sha256,
        architecture=architecture,
        model_name=str(metadata.get("general.name", "")),
        types={name: t.qtype.name for name, t in tensors.items()},
        shapes={name: t.shape for name, t in tensors.items()},
        labels=label_tensors(tensors, groups),
        with_imatrix=any(key.startswith("quantize.imatrix.") for key in metadata),
    )


def learn_preset(
    model: str | Path, name: str, *, with_imatrix: bool = True, groups: Iterable[UserGroup] = ()
) -> LearnedConfig:
    """Learn what a preset of llama.cpp would make of a model, from llama.cpp's own code.

    Raises:
        UnsupportedTypeError: no such preset.
        GGUFError, QuantizeError: as `preset_types`.
    """
    found = preset(name)
    types = preset_types(model, found.name, with_imatrix=with_imatrix)
    with GGUFFile.open(model) as file:
        return LearnedConfig(
            name=found.name,
            provider=f"llama.cpp {core().build_info()['upstream_commit']}",
            file=file.paths[0].name,
            file_sha256="",
            architecture=file.architecture or "",
            model_name=str(file.get("general.name", "")),
            types=types,
            shapes={n: t.shape for n, t in file.tensors.items()},
            labels=label_tensors(file.tensors, groups),
            with_imatrix=with_imatrix,
        )


def learn_presets(model: str | Path, *, with_imatrix: bool = True) -> dict[str, LearnedConfig]:
    """Every preset that llama.cpp can make of a model; those that it refuses are left out."""
    found = {}
    for name in presets():
        try:
            found[name] = learn_preset(model, name, with_imatrix=with_imatrix)
        except QuantizeError:
            continue
    return found


def same_preset(types: Mapping[str, str], model: str | Path) -> list[str]:
    """Presets that give exactly these types to our reference of the model, with or without importances."""
    found = []
    for name in presets():
        for with_imatrix in (True, False):
            try:
                plan = preset_types(model, name, with_imatrix=with_imatrix)
            except QuantizeError:
                continue
            if all(plan.get(tensor) == t for tensor, t in types.items()):
                found.append(name)
                break
    return found


def _name_of(file: str) -> QuantName | None:
    try:
        parsed = parse_name(file)
    except QuantNameError:
        return None
    # Of a whole file, MXFP4_MOE is llama.cpp's preset.
    preset_too = [a for a in parsed.alternatives if a.base == "MXFP4_MOE" and not a.groups]
    return preset_too[0] if preset_too else parsed.name


def _mix_name(said: QuantName) -> str:
    """The name without the model's; a plain type or preset in full."""
    if said.scheme == "v1" and not said.groups and said.base is not None:
        return said.base
    return write_name(replace(said, model=None))


def _provider(metadata: Mapping[str, Any], said: QuantName | None) -> str:
    if any(key.startswith("mqnative.") for key in metadata):
        return "mqnative"
    maker = metadata.get("general.quantized_by")
    if isinstance(maker, str) and maker.strip():
        return maker.strip()
    mark = (said.provider or "") if said is not None else ""
    return _BY_MARK.get(mark.removeprefix("MQ-"), UNKNOWN)
