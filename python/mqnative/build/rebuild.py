"""A written file and its manifest: what is recorded, and how the same bytes are made again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mqnative.build.plan import BuildPlan, plan_build
from mqnative.core.native import core
from mqnative.errors import FormatError, ManifestError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix, read_imatrix
from mqnative.formats.manifest import ImatrixRef, Manifest, Source
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.formats.tied import stored_name
from mqnative.source.identity import Identity, file_sha256, identify


def manifest_of(
    made_by: str,
    file: GGUFFile,
    plan: BuildPlan,
    output: Path,
    *,
    source_sha256: str,
    imatrix_name: str = "",
    imatrix_file: str = "",
    allow_requantize: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of a file that was built from ``plan``.

    Args:
        made_by: the command.
        file: the open source.
        plan: what was written.
        output: the written file; it is read once for its hash.
        source_sha256: of `identify(file).model`.
        imatrix_name: as given to `plan_build`.
        imatrix_file: where the importances lie beside the manifest, if not under that name.
        allow_requantize: as given to `plan_build`.
        extra: whatever else to keep.
    """
    imatrix = plan.imatrix
    reference = None
    if imatrix is not None:
        name = Path(imatrix_name).name
        datasets = imatrix.datasets[:1]
        reference = ImatrixRef(
            imatrix.content_hash(),
            name,
            imatrix_file or name,
            imatrix.chunk_count,
            Path(datasets[0]).name if datasets else "",
        )
    return Manifest(
        made_by=made_by,
        source=Source(
            source_sha256, file.paths[0].name, str(file.get("general.name", "")), file.architecture or ""
        ),
        imatrix=reference,
        types=plan.types,
        shapes={t.name: t.shape for t in plan.tensors},
        model_file=output.name,
        model_sha256=file_sha256([output]),
        size_bytes=plan.file_bytes,
        allow_requantize=allow_requantize,
        build=core().build_info(),
        extra={"bpw": plan.bpw, "ftype": plan.ftype.name, **(extra or {})},
    )


@dataclass(frozen=True)
class Inputs:
    """What a manifest was made of, found again.

    Attributes:
        identity: of the source.
        imatrix: with the labels that the header tells.
        plan: of the very same file.
    """

    identity: Identity
    imatrix: Imatrix | None
    plan: BuildPlan


def plan_rebuild(
    manifest: Manifest, file: GGUFFile, imatrix_path: Path | None, *, n_threads: int | None = None
) -> Inputs:
    """Plan the file of a manifest again.

    Args:
        manifest: from `read_manifest`.
        file: the open source.
        imatrix_path: its importances; None if it was made without.
        n_threads: for hashing the source.

    Raises:
        ManifestError: the source or the imatrix is another one, or the plan has another size.
        Any error of `plan_build`.
    """
    own = [name for name in manifest.types if stored_name(name, file.tensors) == name]
    missing = [name for name in own if name not in file.tensors]
    if missing or len(own) != len(file.tensors):
        odd = missing or [name for name in file.tensors if name not in manifest.types]
        raise ManifestError(
            f"the manifest is of another model than {file.path}: {odd[0]} is in only one of them; "
            "give the model it was made of, or clone it onto this one",
            path=str(file.path),
            tensor=odd[0],
        )
    identity = identify(file, n_threads=n_threads)
    if identity.model != manifest.source.sha256:
        raise ManifestError(
            f"the manifest was made of {manifest.source.file or 'a model'} with SHA-256 "
            f"{manifest.source.sha256}, but {file.path} has {identity.model}; give that model, or clone the "
            "manifest onto this one",
            path=str(file.path),
            key="source_sha256",
            expected=manifest.source.sha256,
            got=identity.model,
        )
    imatrix = _imatrix(manifest.imatrix, imatrix_path)
    plan = plan_build(
        file,
        Recipe(tensors={name: t for name, t in manifest.types.items() if qtype(t).is_target}),
        imatrix,
        imatrix_name="" if manifest.imatrix is None else manifest.imatrix.name,
        source_hash=identity.model,
        allow_requantize=manifest.allow_requantize,
        labels=labels_of(manifest),
    )
    if plan.file_bytes != manifest.size_bytes:
        raise ManifestError(
            f"the manifest's file has {manifest.size_bytes:,} bytes and this build would write "
            f"{plan.file_bytes:,}; use the mqnative that wrote it ({_writer(manifest)})",
            key="size_bytes",
            expected=str(manifest.size_bytes),
            got=str(plan.file_bytes),
        )
    return Inputs(identity, imatrix, plan)


def _imatrix(wanted: ImatrixRef | None, path: Path | None) -> Imatrix | None:
    if wanted is None:
        return None
    if path is None:
        raise ManifestError(
            f"the file was made with importances ({wanted.name}, SHA-256 {wanted.sha256}); give them with "
            "--imatrix",
            key="imatrix_sha256",
            expected=wanted.sha256,
        )
    found = read_imatrix(path)
    got = found.content_hash()
    if got != wanted.sha256:
        raise ManifestError(
            f"the file was made with importances of SHA-256 {wanted.sha256}, but {path} holds {got}; give "
            f"the ones called {wanted.name} that it was made with",
            path=str(path),
            key="imatrix_sha256",
            expected=wanted.sha256,
            got=got,
        )
    # Labels are no part of the hash, and the header tells them.
    datasets = (wanted.dataset,) if wanted.dataset else ()
    return replace(found, datasets=datasets, chunk_count=wanted.chunk_count)


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Texts that the writer put into the metadata besides, by key.

    Raises:
        ManifestError: they are not such texts.
    """
    labels = manifest.extra.get("labels", {})
    if not isinstance(labels, Mapping) or not all(
        isinstance(key, str) and key.startswith("mqnative.") and isinstance(text, str)
        for key, text in labels.items()
    ):
        raise ManifestError("labels is an object of texts under keys that begin with mqnative.", key="labels")
    return dict(labels)


def check_rebuilt(manifest: Manifest, output: Path) -> str:
    """The SHA-256 of a rebuilt file, which is the manifest's.

    Raises:
        ManifestError: it is another; the file stays, so that it can be looked at.
    """
    got = file_sha256([output])
    if manifest.model_sha256 and got != manifest.model_sha256:
        raise ManifestError(
            f"{output} has SHA-256 {got} where the manifest has {manifest.model_sha256}; it was written by "
            f"another build ({_writer(manifest)})",
            path=str(output),
            key="files_sha256",
            expected=manifest.model_sha256,
            got=got,
        )
    return got


def find_beside(manifest_path: Path, names: Iterable[str]) -> Path | None:
    """The first file of these relative names beside a manifest, in its ``work`` folder or here."""
    folder = manifest_path.parent
    for name in filter(None, names):
        for place in (folder / name, folder / "work" / name, Path(name)):
            try:
                if place.is_file():
                    return place
            except (OSError, ValueError) as error:
                raise FormatError(f"cannot look for {name}: {error}", path=str(place)) from None
    return None


def _writer(manifest: Manifest) -> str:
    build = manifest.build
    return f"mqnative {build.get('version', '?')}, llama.cpp {build.get('upstream_commit', '?')}"
