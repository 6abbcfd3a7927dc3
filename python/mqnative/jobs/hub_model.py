"""From a repository to its model on this machine; what would fail is told before the weights are paid for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import SourceError
from mqnative.formats.gguf import GGUFFile
from mqnative.source.argument import HubModel
from mqnative.source.checkpoint import folder_reader, hub_reader, write_stubs
from mqnative.source.converter_tree import require_architecture, require_packages
from mqnative.source.download import download
from mqnative.source.fetch import Choice, choose, fetch_choice, plan_fetch
from mqnative.source.hub import Hub
from mqnative.source.hub_cache import is_cached, require_space, snapshot
from mqnative.source.listing import CONFIG
from mqnative.source.local import CheckpointFolder, Reference, direct, link, open_checkpoint, read_config
from mqnative.source.outline import outline_gguf
from mqnative.store.paths import home

# Told what was found, and of the hub's models which files make it.
OnFound = Callable[[Choice | None], None]


def fetch_model(
    model: HubModel, hub: Hub, monitor: Monitor = NULL_MONITOR, on_found: OnFound | None = None
) -> Reference | CheckpointFolder:
    """Have a repository's model on this machine; what cannot be converted is refused before its weights come.

    Args:
        model: which.
        hub: where it is.
        monitor: told the bytes.
        on_found: called once it is known what will be fetched.

    Raises:
        as `find_reference`.
    """
    choice = choose(hub, model, monitor)
    origin = replace(model, revision=choice.repository.commit)
    if choice.selection.kind == "gguf":
        if model.file is None:
            _require_unquantized(hub, choice)
        if on_found is not None:
            on_found(choice)
        fetched = fetch_choice(hub, choice, monitor)
        found = direct(fetched.folder, choice.selection.weights, choice.selection.mmproj)
        return replace(found, origin=origin)
    _require_convertible(hub, choice, monitor)
    if on_found is not None:
        on_found(choice)
    fetched = fetch_choice(hub, choice, monitor)
    return replace(checkpoint_of(choice, fetched.folder), origin=origin)


def checkpoint_of(choice: Choice, folder: Path) -> CheckpointFolder:
    """A checkpoint of the hub whose files are all in ``folder``.

    Raises:
        as `mqnative.source.local.open_checkpoint`.
    """
    opened = open_checkpoint(folder, choice.selection, choice.repository.model.name)
    # Of the hub's files the names of the contents are known, which say more than dates.
    etags = {f.name: f for f in choice.files}
    return replace(opened, files=tuple(etags.get(f.name, f) for f in opened.files))


def outlined_checkpoint(
    hub: Hub, choice: Choice, folder: Path, monitor: Monitor = NULL_MONITOR
) -> CheckpointFolder:
    """A checkpoint on the hub with holes for its weights: enough for the converter to plan.

    Args:
        hub: where it is.
        choice: of a checkpoint.
        folder: an empty one, for links and holes.
        monitor: told the bytes of configuration and tokenizer.
    """
    repository, selection = choice.repository, choice.selection
    assert choice.checkpoint is not None
    if hub.offline:
        cached = snapshot(hub, repository.model, repository.commit)
    else:
        cached = download(hub, repository, selection.others, monitor)
    for file in selection.others:
        link(cached / file.name, folder / file.name)
    write_stubs(choice.checkpoint, folder)
    return open_checkpoint(folder, selection, repository.model.name)


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


def _require_unquantized(hub: Hub, choice: Choice) -> None:
    """Look into the header before the weights are paid for: names can lie."""
    repository, weights = choice.repository, choice.selection.weights
    model = repository.model
    there = all(is_cached(hub, repository, f) for f in weights)
    folder = snapshot(hub, model, repository.commit)
    read = folder_reader(folder) if there or hub.offline else hub_reader(hub, repository)
    with tempfile.TemporaryDirectory(prefix="mqnative-") as scratch:
        path = outline_gguf(weights, read, Path(scratch)).path
        with GGUFFile.open(path) as file:
            quantized = sum(t.size_bytes for t in file.tensors.values() if t.qtype.is_quantized)
            if quantized * 2 > file.tensor_bytes:
                raise SourceError(
                    f"{path.name} of {model.repo} is quantized, whatever its name says; give the repository "
                    f"of the original, or name the file to take it as it is: {model.repo}/{weights[0].name}",
                    repo=model.repo,
                    file=weights[0].name,
                )
