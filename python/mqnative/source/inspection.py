"""A model looked at from afar: what its files, configuration and headers tell, no weight read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import ConversionError, GGUFError
from mqnative.formats.gguf import GGUFFile
from mqnative.source.argument import HubModel
from mqnative.source.checkpoint import Checkpoint, Reader, folder_reader, hub_reader, read_checkpoint
from mqnative.source.converter_tree import gguf_architecture, require_architecture
from mqnative.source.download import download
from mqnative.source.fetch import Choice, list_repository
from mqnative.source.hub import Hub, Repository
from mqnative.source.hub_cache import is_cached, snapshot
from mqnative.source.hyperparameters import hyperparameters
from mqnative.source.listing import CONFIG, INDEX, Selection, select_files
from mqnative.source.local import read_config, reference_type, select_in_folder
from mqnative.source.outline import Outline, outline_checkpoint, outline_gguf
from mqnative.source.predicted import Prediction, predict_tensors

_TOKENIZER = "tokenizer_config.json"
_SMALL = (CONFIG, INDEX, _TOKENIZER, "generation_config.json")


@dataclass(frozen=True)
class Inspection:
    """What is known of a model that is no local GGUF.

    Attributes:
        where: the folder or hub id.
        selection: the files that make it.
        outline: the GGUF that it is or would become, without data; None if that cannot be told.
        repository: on the hub; None for a folder.
        config: ``config.json``; empty for GGUF repositories.
        tokenizer: ``tokenizer_config.json``.
        generation: ``generation_config.json``.
        checkpoint: the stored tensors; None for GGUF repositories.
        prediction: how they would be called; None for GGUF repositories, and where that cannot be told.
        notes: sentences a user should read, the first one about what cannot be done.
        convertible: whether upstream's converter knows the model.
    """

    where: str
    selection: Selection
    outline: Outline | None
    repository: Repository | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    prediction: Prediction | None = None
    notes: tuple[str, ...] = ()
    convertible: bool = True


@contextmanager
def inspect_hub(
    model: HubModel, hub: Hub, monitor: Monitor = NULL_MONITOR, *, choice: Choice | None = None
) -> Iterator[Inspection]:
    """Look at a repository; of its weights only headers are read.

    Args:
        model: which.
        hub: where it is.
        monitor: told the bytes of configuration.
        choice: what was found there already, which is not asked for again.

    Raises:
        HubError, SourceError, SafetensorsError, GGUFError: it cannot be had, holds no model, or is damaged.
    """
    if choice is None:
        repository = list_repository(hub, model)
        choice = Choice(repository, select_files(repository.files, model.repo, wanted=model.file))
    repository, selection = choice.repository, choice.selection
    small = [f for f in selection.others if f.name in _SMALL]
    folder = (
        snapshot(hub, model, repository.commit) if hub.offline else download(hub, repository, small, monitor)
    )
    everything = all(is_cached(hub, repository, f) for f in selection.weights)
    read = folder_reader(folder) if hub.offline or everything else hub_reader(hub, repository)
    with tempfile.TemporaryDirectory(prefix="mqnative-") as scratch:
        if selection.kind == "gguf":
            outline = outline_gguf(selection.weights, read, Path(scratch))
            yield Inspection(str(model), selection, outline, repository)
        else:
            yield _of_checkpoint(str(model), selection, folder, read, Path(scratch), choice)


@contextmanager
def inspect_folder(folder: Path) -> Iterator[Inspection]:
    """Look at a folder with a checkpoint.

    Raises:
        SourceError, SafetensorsError: it holds no model, or is damaged.
    """
    selection = select_in_folder(folder)
    with tempfile.TemporaryDirectory(prefix="mqnative-") as scratch:
        if selection.kind == "gguf":
            yield Inspection(str(folder), selection, Outline(folder / selection.weights[0].name))
        else:
            yield _of_checkpoint(str(folder), selection, folder, folder_reader(folder), Path(scratch))


def _of_checkpoint(
    where: str,
    selection: Selection,
    folder: Path,
    read: Reader,
    scratch: Path,
    choice: Choice | None = None,
) -> Inspection:
    config = read_config((folder / CONFIG).read_bytes(), where)
    index = folder / INDEX
    indexed = any(f.name == INDEX for f in selection.others)
    checkpoint = None if choice is None else choice.checkpoint
    if checkpoint is None:
        checkpoint = read_checkpoint(selection, index.read_bytes() if indexed else None, read, where)
    selection = Selection(selection.kind, checkpoint.files, selection.others)
    outline, prediction, notes, convertible = None, None, [], True
    try:
        name = require_architecture(config, where)
    except ConversionError as error:
        notes.append(error.message)
        convertible = False
    else:
        outline, prediction, notes = _outlined(name, config, checkpoint, scratch)
    return Inspection(
        where,
        selection,
        outline,
        None if choice is None else choice.repository,
        config,
        _optional(folder / _TOKENIZER),
        _optional(folder / "generation_config.json"),
        checkpoint,
        prediction,
        tuple(notes),
        convertible,
    )


def _outlined(
    name: str, config: Mapping[str, Any], checkpoint: Checkpoint, scratch: Path
) -> tuple[Outline | None, Prediction | None, list[str]]:
    architecture = gguf_architecture(name)
    if architecture is None or not checkpoint.tensors:
        why = "it is a PyTorch checkpoint" if architecture else f"the converter's table does not place {name}"
        return None, None, [f"the tensors of the GGUF cannot be told before the conversion: {why}"]
    metadata = hyperparameters(config, architecture)
    blocks = metadata.get(f"{architecture}.block_count")
    n_blocks = blocks.plain if blocks is not None else 0
    stored = checkpoint.tensors.values()
    prediction = predict_tensors(
        stored, architecture, n_blocks if isinstance(n_blocks, int) else 0, reference_type(stored), config
    )
    notes = []
    if prediction.unknown:
        notes.append(
            f"{len(prediction.unknown)} tensors, such as {prediction.unknown[0].name}, have no name in GGUF "
            "until they are converted"
        )
    try:
        outline = outline_checkpoint(metadata, prediction.tensors, scratch / "outline.gguf")
        GGUFFile.open(outline.path).close()
    except GGUFError as error:
        return None, prediction, [*notes, f"the GGUF cannot be told before the conversion: {error.message}"]
    return outline, prediction, notes


def _optional(path: Path) -> dict[str, Any]:
    """A JSON object that need not be there, nor be whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
