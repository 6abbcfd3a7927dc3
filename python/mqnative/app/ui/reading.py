"""Models, finished runs and releases as the page sees them, read from files and the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mqnative.app.views.model_view import ModelView, view_of_known, view_of_release, view_of_report
from mqnative.errors import MQNativeError, SourceError
from mqnative.formats.manifest import read_manifest
from mqnative.jobs.stored_model import known_model
from mqnative.report.folder import NAME as REPORT
from mqnative.report.folder import read_results
from mqnative.report.hybrid_summary import HybridReport
from mqnative.store import Store

Mixes = dict[str, Mapping[str, str]]
# Gives the model files that a run may have been made of.
Nearby = Callable[[], Iterable[Path]]


def _nowhere() -> Iterable[Path]:
    return ()


def read_view(path: Path, nearby: Nearby = _nowhere) -> ModelView:
    """A model file, the folder of a finished run, or that of a release of hybrids.

    Args:
        path: of it.
        nearby: where to look for the model that a folder is about.

    Raises:
        MQNativeError: it is none of these, or damaged.
    """
    if not path.is_dir():
        with Store.open() as store:
            return view_of_known(known_model(path, store))
    found = read_results(path)
    if not isinstance(found, HybridReport):
        view = view_of_report(found, path)
        return replace(view, source=source_of(view, nearby))
    mixes = _release_mixes(path, found)
    view = view_of_release(found, path, mixes, None)
    source = source_of(view, nearby)
    return view if source is None else view_of_release(found, path, mixes, read_view(source))


def source_of(view: ModelView, nearby: Nearby) -> Path | None:
    """The file whose hash is the view's; only files that some run has hashed are known by it."""
    if not view.model_hash:
        return None
    with Store.open() as store:
        for path in nearby():
            text = store.remembered_identity(path)
            if text is not None and _hash(text) == view.model_hash:
                return path
    return None


def _hash(identity: str) -> str:
    try:
        return str(json.loads(identity)["model"])
    except (ValueError, KeyError, TypeError):  # an older form
        return ""


def _release_mixes(folder: Path, release: HybridReport) -> Mixes:
    """Types of every published file, from the manifests beside them."""
    found: Mixes = {}
    for row in release.files:
        try:
            manifest = read_manifest(folder / f"{Path(row.file).name.removesuffix('.gguf')}.manifest.json")
        except MQNativeError:
            continue
        found[row.name] = manifest.types
    return found


def related_mixes(view: ModelView, folders: Iterable[Path]) -> Mixes:
    """What runs and releases on the page made of the same model, by name."""
    found: Mixes = {}
    for folder in folders:
        if not view.model_hash or folder == view.path or not folder.is_dir():
            continue
        try:
            other = read_view(folder)
        except MQNativeError:
            continue
        if other.model_hash == view.model_hash:
            mixes = other.mixes if other.report is None else {other.report.result.name: other.types}
            for name, types in mixes.items():
                found[name if name not in found else f"{name} ({folder.name})"] = types
    return {name: t for name, t in found.items() if set(t) >= view.quantizable}


def model_in(folder: Path) -> Path:
    """The one model, or finished run, in a folder.

    Raises:
        SourceError: there is none, or there are several.
    """
    if (folder / REPORT).is_file():
        return folder
    models = sorted(p for p in folder.glob("*.gguf") if "imatrix" not in p.name)
    firsts = [p for p in models if "-of-" not in p.name or "-00001-of-" in p.name]
    if not firsts:
        raise SourceError(
            f"{folder} holds no GGUF and no report of a run; convert the model first, or give a file in it",
            path=str(folder),
        )
    if len(firsts) > 1:
        names = ", ".join(p.name for p in firsts[:4])
        raise SourceError(f"{folder} holds several models ({names}); name one of them", path=str(folder))
    return firsts[0]


def files_in(path: Path) -> list[tuple[str, int]]:
    """Names and bytes of the files of a folder, or of those beside a file, as far as they can be seen."""
    found = []
    try:
        for entry in sorted((path if path.is_dir() else path.parent).iterdir()):
            if entry.is_file() and not entry.name.startswith((".", "_")):
                found.append((entry.name, entry.stat().st_size))
    except OSError:
        return found
    return found


def stamp_of(path: Path) -> tuple[Any, ...]:
    """Changes when the file, or what the store holds, does."""
    target = path / REPORT if path.is_dir() else path
    try:
        facts = target.stat()
    except OSError:
        return (0,)
    file = (facts.st_mtime_ns, facts.st_size)
    if path.is_dir():
        return file
    with Store.open() as store:
        counts = tuple(store.count(kind) for kind in ("errors", "probe", "imatrix"))
        return (*file, counts, store.remembered_identity(path) is not None)
