"""A model that is no GGUF on this machine yet: what it takes to have it, and the header it will have.

Of its weights nothing is read: plans ask for headers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mqnative.jobs.estimate import Planned
from mqnative.jobs.hub_model import checkpoint_of
from mqnative.jobs.reference import kept_reference
from mqnative.jobs.work import Units
from mqnative.source.argument import FolderPath, GGUFPath, HubModel, parse_source
from mqnative.source.download import Plan
from mqnative.source.fetch import Choice, plan_fetch
from mqnative.source.hub import Access, Hub
from mqnative.source.hub_cache import snapshot
from mqnative.source.inspection import Inspection, inspect_folder, inspect_hub
from mqnative.source.local import Reference, open_checkpoint


@dataclass(frozen=True)
class Ahead:
    """What is known of a model before it is there.

    Attributes:
        path: a GGUF to read headers from: the model itself, or one of holes; None if it cannot be told.
        downloads: what is to be fetched.
        conversions: what is to be converted, unless that was done before.
        stored_bytes: of a checkpoint's weights; 0 where the source is a GGUF.
        name: of the model.
        notes: what a reader should know.
    """

    path: Path | None
    downloads: tuple[Planned, ...] = ()
    conversions: tuple[Planned, ...] = ()
    stored_bytes: int = 0
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Planned, ...]:
        """Until the model is a GGUF on this machine; none if it is."""
        return (*self.downloads, *self.conversions)


@contextmanager
def look_ahead(
    argument: str | Path, units: Units, access: Access | None = None, choice: Choice | None = None
) -> Iterator[Ahead]:
    """Look at the model that an argument names; files of holes are gone after the block.

    Args:
        argument: a GGUF, a folder, or a hub id.
        units: what a byte takes.
        access: token and whether there is a network.
        choice: what was found on the hub already.

    Raises:
        SourceError, HubError, SafetensorsError, GGUFError: it cannot be had, or is damaged.
    """
    source = parse_source(argument)
    if isinstance(source, GGUFPath):
        yield Ahead(source.path, name=source.path.name)
    elif isinstance(source, FolderPath):
        with inspect_folder(source.path) as seen:
            yield _in_folder(source.path, seen, units)
    else:
        hub = Hub(access)
        with inspect_hub(source, hub, choice=choice) as seen:
            yield _on_hub(source, hub, seen, units)


def _in_folder(folder: Path, seen: Inspection, units: Units) -> Ahead:
    weights = seen.selection.weights
    if seen.selection.kind == "gguf":
        return Ahead(folder / weights[0].name, name=weights[0].name)
    kept = kept_reference(open_checkpoint(folder, seen.selection))
    return _checkpoint(seen, folder.resolve().name, units, kept)


def _on_hub(source: HubModel, hub: Hub, seen: Inspection, units: Units) -> Ahead:
    assert seen.repository is not None
    choice = Choice(seen.repository, seen.selection, seen.checkpoint)
    plan = plan_fetch(hub, choice)
    downloads = download_steps(source.repo, plan, units)
    if seen.selection.kind == "gguf":
        assert seen.outline is not None
        path = seen.outline.path
        if not downloads:
            path = snapshot(hub, source, choice.repository.commit) / seen.selection.weights[0].name
        return Ahead(path, downloads, name=source.name)
    kept = None
    if not downloads:
        kept = kept_reference(checkpoint_of(choice, snapshot(hub, source, choice.repository.commit)))
    return replace(_checkpoint(seen, source.name, units, kept), downloads=downloads)


def download_steps(repo: str, plan: Plan, units: Units) -> tuple[Planned, ...]:
    """The download of a repository's files; none if they are all there."""
    if not plan.missing:
        return ()
    size = plan.remaining_bytes
    return (Planned(f"download {repo}", size, "bytes", size * units.network_byte_s, size, model=repo),)


def _checkpoint(seen: Inspection, name: str, units: Units, kept: Reference | None) -> Ahead:
    stored = sum(f.size for f in seen.selection.weights)
    if kept is not None:
        return Ahead(kept.path, stored_bytes=stored, name=name)
    path = None if seen.outline is None else seen.outline.path
    size = stored if path is None else path.stat().st_size
    return Ahead(path, (), (conversion(name, stored, size, units),), stored, name, seen.notes)


def conversion(name: str, stored_bytes: int, size_bytes: int, units: Units) -> Planned:
    """The conversion of a checkpoint to a GGUF of this size."""
    seconds = (stored_bytes + size_bytes) * units.byte_s
    return Planned("convert", size_bytes, "bytes", seconds, size_bytes, model=name)
