"""From a repository to files on this machine: only those that make the model, checked before paid for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.source.argument import HubModel
from mqnative.source.checkpoint import Checkpoint, folder_reader, hub_reader, read_checkpoint
from mqnative.source.download import Plan, download, plan_download
from mqnative.source.hub import Hub, Repository
from mqnative.source.hub_cache import cached_repository, is_cached, snapshot
from mqnative.source.hub_errors import offline_error
from mqnative.source.listing import INDEX, ListedFile, Selection, select_files


@dataclass(frozen=True)
class Choice:
    """The model in a repository.

    Attributes:
        repository: where it is, and at which commit.
        selection: the files that make it; of checkpoints exactly those that the index names.
        checkpoint: its tensors; None for GGUF repositories.
    """

    repository: Repository
    selection: Selection
    checkpoint: Checkpoint | None = None

    @property
    def files(self) -> tuple[ListedFile, ...]:
        """All of them, weights last."""
        return (*self.selection.others, *self.selection.mmproj, *self.selection.weights)


@dataclass(frozen=True)
class Fetched:
    """A model in the hub's cache.

    Attributes:
        choice: what was fetched.
        folder: of the commit's files.
    """

    choice: Choice
    folder: Path

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the weights."""
        return tuple(self.folder / f.name for f in self.choice.selection.weights)

    @property
    def mmproj(self) -> tuple[Path, ...]:
        """Projectors for images or sound that come as GGUF."""
        return tuple(self.folder / f.name for f in self.choice.selection.mmproj)


def list_repository(hub: Hub, model: HubModel) -> Repository:
    """What a repository holds; offline, what the cache has of it.

    Raises:
        HubError: it cannot be had.
    """
    return cached_repository(hub, model) if hub.offline else hub.repository(model)


def choose(hub: Hub, model: HubModel, monitor: Monitor = NULL_MONITOR) -> Choice:
    """Find the model in a repository and check that it is whole; no weight is read.

    Raises:
        HubError: the repository cannot be had.
        SourceError: it holds no model, or a part of it is missing.
        SafetensorsError: headers are damaged, or contradict the index.
    """
    repository = list_repository(hub, model)
    selection = select_files(repository.files, model.repo, wanted=model.file)
    if selection.kind != "safetensors":
        return Choice(repository, selection)
    indexes = tuple(f for f in selection.others if f.name == INDEX)
    folder = _have(hub, repository, indexes, monitor)
    everything = all(is_cached(hub, repository, f) for f in selection.weights)
    read = folder_reader(folder) if hub.offline or everything else hub_reader(hub, repository)
    text = (folder / INDEX).read_bytes() if indexes else None
    checkpoint = read_checkpoint(selection, text, read, model.repo)
    return Choice(repository, Selection("safetensors", checkpoint.files, selection.others), checkpoint)


def fetch(hub: Hub, model: HubModel, monitor: Monitor = NULL_MONITOR) -> Fetched:
    """Have the model in the hub's cache.

    Raises:
        as `choose` and `mqnative.source.download.download`.
    """
    choice = choose(hub, model, monitor)
    return fetch_choice(hub, choice, monitor)


def fetch_choice(hub: Hub, choice: Choice, monitor: Monitor = NULL_MONITOR) -> Fetched:
    """Have the files of a choice in the hub's cache."""
    folder = _have(hub, choice.repository, choice.files, monitor)
    return Fetched(choice, folder)


def plan_fetch(hub: Hub, choice: Choice) -> Plan:
    """What `fetch_choice` would download."""
    return plan_download(hub, choice.repository, choice.files)


def _have(hub: Hub, repository: Repository, files: tuple[ListedFile, ...], monitor: Monitor) -> Path:
    if not hub.offline:
        return download(hub, repository, files, monitor)
    for file in files:
        if not is_cached(hub, repository, file):
            raise offline_error(hub.asked(repository.model, file.name))
    return snapshot(hub, repository.model, repository.commit)
