"""What is published of a finished folder: which files, under which names, with which card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.errors import FormatError, GGUFError, SourceError
from mqnative.formats.gguf import GGUFFile
from mqnative.report.card import CardFacts, CardFile, model_card, with_metadata
from mqnative.report.jsonform import from_json
from mqnative.report.standalone import plot_files
from mqnative.report.summary import Report

MANIFEST = "manifest.json"
CARD = "README.md"
_IMATRIX = "work/imatrix.gguf"
_WHAT = {
    "recipe.yaml": "a type for every tensor, to edit and build again",
    "report.html": "the whole report as one page",
    "report.md": "the report as Markdown",
    "report.json": "the report for programs",
    MANIFEST: "everything needed to make the same bytes again",
    _IMATRIX: "the importances that went into it",
}


@dataclass(frozen=True)
class PublishedFile:
    """A file to publish.

    Attributes:
        name: its path in the repository.
        size_bytes: its size.
        sha256: of its bytes.
        path: where it lies; None: its bytes are in ``content``.
        content: of files that are made for the repository.
    """

    name: str
    size_bytes: int
    sha256: str
    path: Path | None = None
    content: bytes = b""

    @property
    def git_oid(self) -> str:
        """What git calls it, by which the hub knows small files."""
        digest = hashlib.sha1(b"blob %d\0" % self.size_bytes, usedforsecurity=False)
        digest.update(self.content if self.path is None else self.path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Publication:
    """What would be published.

    Attributes:
        repo: where to: ``org/name``.
        files: by name, the card among them.
        card: its text.
    """

    repo: str
    files: tuple[PublishedFile, ...]
    card: str

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(f.size_bytes for f in self.files)


def plan_publication(folder: Path, repo: str, *, base_model: str = "", license_id: str = "") -> Publication:
    """Gather what a finished folder holds.

    Args:
        folder: of `mqnative auto`, `demo`, `clone` or `hybrids`: with a manifest.
        repo: where to.
        base_model: hub id of the original; empty: where it was fetched from, or what the GGUF says.
        license_id: empty: what the GGUF says.

    Raises:
        SourceError: it is not finished, or a file is not what the manifest says.
        FormatError: the manifest is damaged.
    """
    manifest = _manifest(folder)
    names = _names(folder, manifest)
    files = [_published(folder, name) for name in names]
    _check(folder, manifest, files)
    report = _report(manifest, folder)
    drawings = {} if report is None else plot_files(report)
    plots = {f"plots/plot-{i + 1}.svg": (title, text) for i, (title, text) in enumerate(drawings.items())}
    files += [_made(name, text.encode()) for name, (_, text) in plots.items()]
    titles = {title: name for name, (title, _) in plots.items()}
    facts = _card_facts(folder, repo, manifest, files, titles, base_model, license_id)
    own = folder / CARD
    card = with_metadata(_text(own), facts) if own.is_file() else model_card(facts, report)
    return Publication(repo, (*files, _made(CARD, card.encode())), card)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{folder} holds no finished run (it has no {MANIFEST}); give the folder of mqnative auto",
            path=str(folder),
        ) from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged; run the command that made it again", path=str(path)) from error
    if not isinstance(found, dict) or _model_file(found) is None:
        raise FormatError(f"{path} names no model_file; run the command that made it again", path=str(path))
    return found


def _model_file(manifest: Mapping[str, Any]) -> str | None:
    """The model; of a release of several the first one."""
    survivors = manifest.get("survivors")
    first = survivors[0] if isinstance(survivors, list) and survivors else {}
    name = manifest.get("model_file") or (first.get("model_path") if isinstance(first, dict) else None)
    return name if isinstance(name, str) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text: {error}", path=str(path)) from error


def _names(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The model first, then what belongs to it, then what explains it."""
    model = str(_model_file(manifest))
    listed = manifest.get("files")
    names = [model, *(n for n in (listed if isinstance(listed, (dict, list)) else ()) if n != model)]
    for name in names:
        if not isinstance(name, str) or any(p in ("", ".", "..") for p in name.replace("\\", "/").split("/")):
            raise FormatError(
                f"{folder / MANIFEST} names a file outside its folder: {name!r}", path=str(folder)
            )
    if (folder / _IMATRIX).is_file():
        names.append(_IMATRIX)
    return [name for name in dict.fromkeys([*names, MANIFEST]) if name != CARD]


def _published(folder: Path, name: str) -> PublishedFile:
    path = folder / name
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        return PublishedFile(name, path.stat().st_size, digest.hexdigest(), path)
    except OSError as error:
        raise SourceError(
            f"{path}, which the manifest names, cannot be read: {error.strerror}; run the command that made "
            "the folder again",
            path=str(path),
            file=name,
        ) from error


def _made(name: str, content: bytes) -> PublishedFile:
    return PublishedFile(name, len(content), hashlib.sha256(content).hexdigest(), None, content)


def _check(folder: Path, manifest: Mapping[str, Any], files: list[PublishedFile]) -> None:
    """Nothing goes out that is not what was measured."""
    sizes, hashes, mmproj = (manifest.get(k) for k in ("files", "files_sha256", "mmproj"))
    by_name = {f.name: f for f in files}
    expected = dict(hashes) if isinstance(hashes, dict) else {}
    if isinstance(mmproj, dict):
        expected[mmproj.get("file")] = mmproj.get("sha256")
    for name, file in by_name.items():
        size = sizes.get(name) if isinstance(sizes, dict) else None
        if (size is not None and size != file.size_bytes) or expected.get(name) not in (
            None,
            "",
            file.sha256,
        ):
            raise SourceError(
                f"{folder / name} is not what the manifest says; run the command that made the folder again",
                path=str(folder / name),
                file=name,
            )


def _report(manifest: Mapping[str, Any], folder: Path) -> Report | None:
    evaluation = manifest.get("evaluation")
    if not isinstance(evaluation, dict):
        return None
    try:
        return from_json(evaluation)
    except FormatError as error:
        raise FormatError(f"{folder / MANIFEST}: {error.message}", path=str(folder / MANIFEST)) from error


def _card_facts(
    folder: Path,
    repo: str,
    manifest: Mapping[str, Any],
    files: list[PublishedFile],
    plots: Mapping[str, str],
    base_model: str,
    license_id: str,
) -> CardFacts:
    model = str(_model_file(manifest))
    said = _said_by(folder / model)
    mmproj = next((f.name for f in files if f.name.startswith("mmproj") and f.name.endswith(".gguf")), "")
    origin = manifest.get("origin")
    origin = origin if isinstance(origin, str) else ""
    rebuild = (
        f"hf download {repo} --include {MANIFEST} 'work/*' --local-dir .\n"
        f"mqnative build {origin or 'ORIGINAL.gguf'} --manifest {MANIFEST} -o {model}"
    )
    return CardFacts(
        repo,
        model,
        [CardFile(f.name, f.size_bytes, _what(f.name, model), f.sha256) for f in files],
        base_model or _repo_of(origin) or said.get("base_model", ""),
        license_id or said.get("license", ""),
        mmproj,
        plots,
        rebuild,
    )


def _repo_of(origin: str) -> str:
    """Its repository, without file and commit."""
    return "/".join(origin.partition("@")[0].split("/")[:2])


def _what(name: str, model: str) -> str:
    if name == model:
        return "the model"
    if name.startswith("mmproj"):
        return "the projector for images or sound, as converted"
    return "a plot of this card" if name.startswith("plots/") else _WHAT.get(name, "")


def _said_by(path: Path) -> dict[str, str]:
    """What the GGUF's own metadata say of licence and origin."""
    try:
        with GGUFFile.open(path) as file:
            repo = str(file.get("general.base_model.0.repo_url") or "")
            found = {"license": str(file.get("general.license") or "")}
    except GGUFError as error:
        raise SourceError(f"{path.name} is damaged: {error.message}", path=str(path)) from error
    parts = repo.rstrip("/").split("/")
    return found | {"base_model": "/".join(parts[-2:]) if len(parts) >= 5 else ""}
