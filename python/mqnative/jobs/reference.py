"""From a MODEL argument to a GGUF that can be measured: fetched, converted, or simply there.

What was converted is kept under MQNATIVE_HOME, so that a second command begins at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core
from mqnative.errors import ConversionError, SourceError
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.convert import Conversion, run_conversion
from mqnative.source.argument import FolderPath, GGUFPath, HubModel, parse_source
from mqnative.source.converter_tree import mmproj_architecture, require_architecture, require_packages
from mqnative.source.download import download
from mqnative.source.fetch import Choice, choose, fetch_choice, plan_fetch
from mqnative.source.hub import Access, Hub
from mqnative.source.hub_cache import require_space, snapshot
from mqnative.source.listing import CONFIG, ListedFile
from mqnative.source.local import (
    CheckpointFolder,
    open_checkpoint,
    read_config,
    reference_type,
    select_in_folder,
    staged,
)
from mqnative.store.locks import named_lock
from mqnative.store.paths import home, made_folder

_FOLDER = "references"
_RECORD = "reference.json"
_VERSION = 1


@dataclass(frozen=True)
class Reference:
    """A GGUF to measure.

    Attributes:
        path: the file, the first of a split one.
        mmproj: the projector for images or sound that belongs to it.
        notes: what a user should know of it.
    """

    path: Path
    mmproj: Path | None = None
    notes: tuple[str, ...] = ()


def find_reference(
    argument: str | Path, access: Access | None = None, monitor: Monitor = NULL_MONITOR
) -> Reference:
    """Have the model that ``argument`` names as a GGUF on this machine.

    Args:
        argument: a GGUF, a folder, or a hub id.
        access: token and whether there is a network.
        monitor: told every step.

    Raises:
        SourceError, HubError, SafetensorsError: it cannot be had, or is not whole.
        ConversionError, MissingExtraError: it cannot be converted.
        DiskSpaceError: there is no room for it.
    """
    source = parse_source(argument)
    if isinstance(source, GGUFPath):
        return Reference(source.path)
    if isinstance(source, FolderPath):
        selection = select_in_folder(source.path)
        if selection.kind == "gguf":
            return _direct(source.path, selection.weights, selection.mmproj)
        return converted(open_checkpoint(source.path, selection), monitor)
    found = fetch_model(source, Hub(access), monitor)
    return found if isinstance(found, Reference) else converted(found, monitor)


def fetch_model(model: HubModel, hub: Hub, monitor: Monitor = NULL_MONITOR) -> Reference | CheckpointFolder:
    """Have a repository's model on this machine; what cannot be converted is refused before its weights come.

    Raises:
        as `find_reference`.
    """
    choice = choose(hub, model, monitor)
    if choice.selection.kind == "gguf":
        fetched = fetch_choice(hub, choice, monitor)
        found = _direct(fetched.folder, choice.selection.weights, choice.selection.mmproj)
        if model.file is None:
            _require_unquantized(found.path, model)
        return found
    _require_convertible(hub, choice, monitor)
    fetched = fetch_choice(hub, choice, monitor)
    opened = open_checkpoint(fetched.folder, choice.selection, model.name)
    # Of the hub's files the names of the contents are known, which say more than dates.
    etags = {f.name: f for f in choice.files}
    return replace(opened, files=tuple(etags.get(f.name, f) for f in opened.files))


def converted(model: CheckpointFolder, monitor: Monitor = NULL_MONITOR) -> Reference:
    """The reference GGUF of a checkpoint: made now, or kept from before.

    Raises:
        as `find_reference`.
    """
    require_architecture(model.config, model.name)
    outtype = reference_type(model.checkpoint.tensors.values())
    key = source_key(model, outtype=outtype)
    folder = made_folder(home() / _FOLDER / key[:24])
    with named_lock(home(), f"reference {key}"):
        kept = _recall(folder, key)
        if kept is not None:
            return kept
        require_packages()
        require_space(
            folder, sum(t.size_bytes for t in model.checkpoint.tensors.values()), f"{model.name} as a GGUF"
        )
        output = folder / f"{model.name}-{outtype}.gguf"
        notes: list[str] = []
        with staged(model) as place:
            run_conversion(Conversion(str(place), str(output), outtype), monitor)
            mmproj = convert_mmproj(model, place, output, notes, monitor)
        found = Reference(output, mmproj, tuple(notes))
        _record(folder, key, found)
        return found


def convert_mmproj(
    model: CheckpointFolder, place: Path, output: Path, notes: list[str], monitor: Monitor = NULL_MONITOR
) -> Path | None:
    """Convert a model's projector for images or sound beside ``output``, if it has one.

    Args:
        model: the checkpoint.
        place: its staged folder.
        output: the text model's file.
        notes: gets a sentence if upstream cannot.
        monitor: told the bytes.
    """
    if mmproj_architecture(model.config) is None:
        return None
    path = output.with_name(f"mmproj-{output.name}")
    try:
        run_conversion(Conversion(str(place), str(path), "auto", mmproj=True), monitor)
    except ConversionError as error:
        notes.append(f"its projector was left out, since upstream's converter refuses it: {error.message}")
        return None
    return path


def source_key(model: CheckpointFolder, **options: Any) -> str:
    """What decides the bytes of a conversion: the files, the converter and the options; SHA-256, in hex."""
    files = [
        [f.name, f.etag or _stamp(model.folder / f.name)] for f in sorted(model.files, key=lambda f: f.name)
    ]
    facts = {
        "version": _VERSION,
        "converter": core().build_info()["upstream_commit"],
        "name": model.name,
        "files": files,
        "options": options,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _direct(folder: Path, weights: tuple[ListedFile, ...], mmproj: tuple[ListedFile, ...]) -> Reference:
    return Reference(folder / weights[0].name, folder / mmproj[0].name if mmproj else None)


def _require_convertible(hub: Hub, choice: Choice, monitor: Monitor) -> None:
    """Say what would fail before gigabytes are paid for: architecture, packages, disk."""
    repository = choice.repository
    if hub.offline:
        folder = snapshot(hub, repository.model, repository.commit)
    else:
        folder = download(hub, repository, [f for f in choice.selection.others if f.name == CONFIG], monitor)
    config = read_config((folder / CONFIG).read_bytes(), repository.model.repo)
    require_architecture(config, repository.model.repo)
    require_packages()
    remaining = plan_fetch(hub, choice).remaining_bytes
    if remaining:
        weights = sum(f.size for f in choice.selection.weights)
        together = weights + (remaining if _same_disk(hub.cache_dir, home()) else 0)
        require_space(home(), together, f"{repository.model.repo}, downloaded and converted,")


def _same_disk(one: Path, other: Path) -> bool:
    def device(path: Path) -> int:
        there = path.absolute()
        while not there.exists():
            there = there.parent
        return there.stat().st_dev

    return device(one) == device(other)


def _require_unquantized(path: Path, model: HubModel) -> None:
    with GGUFFile.open(path) as file:
        quantized = sum(t.size_bytes for t in file.tensors.values() if t.qtype.is_quantized)
        if quantized * 2 > file.tensor_bytes:
            raise SourceError(
                f"{path.name} of {model.repo} is quantized, whatever its name says; give the repository of "
                f"the original model, or name the file to take it as it is: {model.repo}/{path.name}",
                repo=model.repo,
                file=path.name,
            )


def _record(folder: Path, key: str, found: Reference) -> None:
    record = {
        "key": key,
        "file": found.path.name,
        "size_bytes": found.path.stat().st_size,
        "mmproj": None if found.mmproj is None else found.mmproj.name,
        "notes": list(found.notes),
    }
    write_text_atomic(folder / _RECORD, json.dumps(record) + "\n")


def _recall(folder: Path, key: str) -> Reference | None:
    try:
        record: Mapping[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        path = folder / record["file"]
        mmproj = folder / record["mmproj"] if record["mmproj"] else None
        whole = record["key"] == key and path.stat().st_size == record["size_bytes"]
        return Reference(path, mmproj, tuple(record["notes"])) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
