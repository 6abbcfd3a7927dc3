"""From a MODEL argument to a GGUF that can be measured: fetched, converted, or simply there.

What was converted is kept under MQNATIVE_HOME, so that a second command begins at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core
from mqnative.errors import ConversionError
from mqnative.formats.atomic import write_text_atomic
from mqnative.jobs.convert import Conversion, run_conversion
from mqnative.jobs.hub_model import OnFound, fetch_model
from mqnative.source.argument import FolderPath, GGUFPath, parse_source
from mqnative.source.converter_tree import mmproj_architecture, require_architecture, require_packages
from mqnative.source.hub import Access, Hub
from mqnative.source.hub_cache import require_space
from mqnative.source.local import (
    CheckpointFolder,
    Reference,
    direct,
    open_checkpoint,
    reference_type,
    select_in_folder,
    staged,
)
from mqnative.store.locks import named_lock
from mqnative.store.paths import home, made_folder

_FOLDER = "references"
_RECORD = "reference.json"
_VERSION = 1


def find_reference(
    argument: str | Path,
    access: Access | None = None,
    monitor: Monitor = NULL_MONITOR,
    *,
    on_found: OnFound | None = None,
) -> Reference:
    """Have the model that ``argument`` names as a GGUF on this machine.

    Args:
        argument: a GGUF, a folder, or a hub id.
        access: token and whether there is a network.
        monitor: told every step.
        on_found: called once when it is known what is to be fetched or converted, before that begins.

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
            return direct(source.path, selection.weights, selection.mmproj)
        opened = open_checkpoint(source.path, selection)
        if on_found is not None:
            on_found(None)
        return converted(opened, monitor)
    found = fetch_model(source, Hub(access), monitor, on_found)
    return found if isinstance(found, Reference) else converted(found, monitor)


def converted(model: CheckpointFolder, monitor: Monitor = NULL_MONITOR) -> Reference:
    """The reference GGUF of a checkpoint: made now, or kept from before.

    Raises:
        as `find_reference`.
    """
    require_architecture(model.config, model.name)
    outtype = reference_type(model.checkpoint.tensors.values())
    key = source_key(model, outtype=outtype)
    folder = made_folder(_folder_of(key))
    with named_lock(home(), f"reference {key}"):
        kept = _recall(folder, key)
        if kept is not None:
            return replace(kept, origin=model.origin)
        require_packages()
        require_space(
            folder, sum(t.size_bytes for t in model.checkpoint.tensors.values()), f"{model.name} as a GGUF"
        )
        output = folder / f"{model.name}-{outtype}.gguf"
        notes: list[str] = []
        with staged(model) as place:
            run_conversion(Conversion(str(place), str(output), outtype), monitor)
            mmproj = convert_mmproj(model, place, output, notes, monitor)
        found = Reference(output, mmproj, tuple(notes), model.origin)
        _record(folder, key, found)
        return found


def kept_reference(model: CheckpointFolder) -> Reference | None:
    """The reference GGUF of a checkpoint, if it was made before."""
    key = source_key(model, outtype=reference_type(model.checkpoint.tensors.values()))
    return _recall(_folder_of(key), key)


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


def _folder_of(key: str) -> Path:
    return home() / _FOLDER / key[:24]


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


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
