"""Learning from files on the hub: by their headers alone, no weight is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import SourceError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.groups import UserGroup
from mqnative.hybrids.learned import UNKNOWN, LearnedConfig, learn_tensors
from mqnative.source.argument import HubModel
from mqnative.source.checkpoint import Reader, folder_reader, hub_reader
from mqnative.source.fetch import list_repository
from mqnative.source.hub import Hub, Repository
from mqnative.source.hub_cache import is_cached, snapshot
from mqnative.source.listing import GGUFGroup, gguf_groups, select_files
from mqnative.source.outline import outline_gguf


def learn_repository(
    model: HubModel,
    hub: Hub,
    *,
    provider: str | None = None,
    groups: Iterable[UserGroup] = (),
    monitor: Monitor = NULL_MONITOR,
) -> dict[str, LearnedConfig]:
    """Learn the types of the quantized GGUF files of a repository.

    Args:
        model: the repository; where it names a file, that one alone is learned.
        hub: asked for headers.
        provider: who made them; by default what their metadata or names say, else the repository's owner.
        groups: of the user's own.
        monitor: told the files.

    Returns:
        Name of the file, the first of a split one -> its types. The hash of a file that is not split is the
        one that the hub lists.

    Raises:
        HubError: the repository or a header cannot be had.
        SourceError: it holds no GGUF, not the one named, or not all parts of one.
        GGUFError: a header is damaged, or holds a type that ggml does not know.
    """
    repository = list_repository(hub, model)
    groups = list(groups)
    wanted = _wanted(repository, model)
    learned = {}
    monitor.start("headers", len(wanted), "files")
    for i, group in enumerate(wanted, 1):
        learned[group.name] = _learn(group, hub, repository, provider, groups)
        monitor.update(i)
    monitor.finish()
    return learned


def _wanted(repository: Repository, model: HubModel) -> list[GGUFGroup]:
    if model.file is not None:
        return [GGUFGroup(select_files(repository.files, model.repo, wanted=model.file).weights, "")]
    found = [group for group in gguf_groups(repository.files) if not group.unquantized]
    if not found:
        raise SourceError(
            f"{model.repo} holds no quantized GGUF file to learn from; name a repository that does"
        )
    for group in found:
        if not group.complete:
            raise SourceError(
                f"{model.repo}: {group.name} is one of several parts and not all of them are there; name "
                f"another file: {model.repo}/FILE.gguf",
                file=group.name,
            )
    return found


def _learn(
    group: GGUFGroup, hub: Hub, repository: Repository, provider: str | None, groups: list[UserGroup]
) -> LearnedConfig:
    with tempfile.TemporaryDirectory(prefix="mqnative-") as scratch:
        outline = outline_gguf(group.files, _reader(group, hub, repository), Path(scratch))
        with GGUFFile.open(outline.path) as file:
            metadata = {
                key: value.plain for key, value in file.metadata.items() if value.element_type is None
            }
            found = learn_tensors(
                file.tensors,
                metadata,
                file=group.name.rpartition("/")[2],
                file_sha256=(group.files[0].sha256 or "") if len(group.files) == 1 else "",
                provider=provider,
                groups=groups,
            )
    owner = repository.model.repo.partition("/")[0]
    return replace(found, provider=owner) if found.provider == UNKNOWN else found


def _reader(group: GGUFGroup, hub: Hub, repository: Repository) -> Reader:
    if hub.offline or all(is_cached(hub, repository, f) for f in group.files):
        return folder_reader(snapshot(hub, repository.model, repository.commit))
    return hub_reader(hub, repository)
