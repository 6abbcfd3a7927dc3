"""The manifest beside a built file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mqnative.build.rebuild import manifest_of
from mqnative.build.writer import BuildResult
from mqnative.build.plan import BuildPlan
from mqnative.errors import ManifestError, OutputExistsError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.manifest import Manifest, read_manifest, write_manifest


def sidecar_path(output: Path) -> Path:
    """``mix.gguf`` has its manifest in ``mix.manifest.json``."""
    return output.with_suffix(".manifest.json")


def check_sidecar(output: Path, *, force: bool) -> None:
    """Refuse to replace a file that only happens to have the manifest's name.

    Raises:
        OutputExistsError: there is one, and force is not set.
    """
    path = sidecar_path(output)
    if force or not path.exists():
        return
    try:
        read_manifest(path)
    except ManifestError as error:
        raise OutputExistsError(
            f"{path} exists and is no manifest; move it, or pass --force to replace it", path=str(path)
        ) from error


def write_sidecar(
    file: GGUFFile,
    plan: BuildPlan,
    result: BuildResult,
    *,
    source_sha256: str,
    imatrix_name: str,
    allow_requantize: bool,
    labels: Mapping[str, str],
) -> Path:
    """Record a build, unless the record of this very file is there already.

    ``labels`` are those of `plan_build`; the other arguments are `manifest_of`'s.

    Raises:
        OutputError: the manifest cannot be written.
    """
    path = sidecar_path(result.path)
    if not (result.reused and _describes(path, plan, result.path, source_sha256)):
        manifest = manifest_of(
            "build",
            file,
            plan,
            result.path,
            source_sha256=source_sha256,
            imatrix_name=imatrix_name,
            allow_requantize=allow_requantize,
            extra={"labels": dict(labels)} if labels else None,
        )
        write_manifest(path, manifest)
    return path


def _describes(path: Path, plan: BuildPlan, output: Path, source_sha256: str) -> bool:
    try:
        found: Manifest = read_manifest(path)
    except ManifestError:
        return False
    return (found.model_file, found.source.sha256, found.size_bytes, dict(found.types)) == (
        output.name,
        source_sha256,
        plan.file_bytes,
        plan.types,
    )
