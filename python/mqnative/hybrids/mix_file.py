"""Reads a mix from whatever holds one: a manifest, a recipe, a clone config, or a GGUF file by anyone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mqnative.errors import ManifestError
from mqnative.formats.manifest import Manifest, parse_manifest, read_json
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe, read_recipe
from mqnative.hybrids.clone_config import is_clone_config, pick, read_artifacts
from mqnative.hybrids.learned import learn_file

_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True)
class MixFile:
    """Types for a model, and where they come from.

    Attributes:
        kind: what the file is.
        name: what the mix is called.
        recipe: types by tensor, or by pattern.
        architecture: of its model; empty if that is not known.
        shapes: of its tensors; empty if they are not known.
        parent: who is to be named: file, hash, provider.
        manifest: the whole of it, if it is one.
    """

    kind: Literal["manifest", "recipe", "clone-config", "gguf"]
    name: str
    recipe: Recipe
    architecture: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parent: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None


def read_mix(path: str | Path, artifact: str | None = None) -> MixFile:
    """The mix in a file; which kind, its content decides.

    Args:
        path: the file.
        artifact: which file of a clone config.

    Raises:
        ManifestError: a broken manifest or clone config, or an artifact where there are none.
        RecipeError: it is nothing else, and no recipe.
        GGUFError: a damaged model.
    """
    path = Path(path)
    start = _start(path)
    document = None
    if start.startswith(_GGUF_MAGIC):
        found = _of_gguf(path)
    elif start.lstrip().startswith(b"{"):
        document = read_json(path)
        found = _of_json(document, path, artifact)
    else:
        found = _of_recipe(path)
    if artifact is not None and found.kind != "clone-config":
        raise ManifestError(
            f"{path} is a {found.kind} and holds one mix; leave out the artifact {artifact!r}",
            path=str(path),
            key=artifact,
        )
    return found


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(
            f"cannot read {path}: {reason}; give a manifest, a recipe or a model", path=str(path)
        ) from error


def _of_gguf(path: Path) -> MixFile:
    learned = learn_file(path)
    return MixFile(
        "gguf", learned.name, learned.recipe(), learned.architecture, learned.shapes, learned.credit
    )


def _of_recipe(path: Path) -> MixFile:
    recipe = read_recipe(path)
    architecture = recipe.model.get("architecture")
    return MixFile(
        "recipe",
        path.name,
        recipe,
        architecture if isinstance(architecture, str) else "",
        parent={"file": path.name, "sha256": _sha256(path)},
    )


def _of_json(document: Any, path: Path, artifact: str | None) -> MixFile:
    if is_clone_config(document):
        chosen = pick(read_artifacts(document, str(path)), artifact, str(path))
        return MixFile(
            "clone-config",
            chosen.file_name,
            _targets(Recipe(), chosen.types),
            parent={
                "file": path.name,
                "sha256": _sha256(path),
                "artifact": chosen.file_name,
                "provider": chosen.provider,
            },
        )
    if not isinstance(document, dict) or not str(document.get("mqnative")).startswith("manifest/"):
        return _of_recipe(path)
    manifest = parse_manifest(document, str(path))
    source = manifest.source
    recipe = Recipe(
        model={"name": source.name, "architecture": source.architecture, "sha256": source.sha256},
        target={"size_bytes": manifest.size_bytes},
    )
    return MixFile(
        "manifest",
        manifest.model_file,
        _targets(recipe, manifest.types),
        source.architecture,
        manifest.shapes,
        {
            "file": path.name,
            "sha256": _sha256(path),
            "model_file": manifest.model_file,
            "model_sha256": manifest.model_sha256,
            "source_sha256": source.sha256,
            "source_name": source.name,
        },
        manifest,
    )


def _targets(recipe: Recipe, types: Mapping[str, str]) -> Recipe:
    """Types that a recipe can give; tables of integers are copied anyway."""
    return replace(recipe, tensors={name: t for name, t in types.items() if qtype(t).is_target})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measured_kld(manifest: Manifest) -> float | None:
    """The held-out KLD that a manifest claims; None if it claims none."""
    evaluation = manifest.extra.get("evaluation")
    value = evaluation.get("kld_mean") if isinstance(evaluation, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
