"""Others' mixes on the hub: only the headers of their files are read, which tell every tensor's type."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import GGUFError, SourceError
from mqnative.formats.gguf import GGUFFile
from mqnative.hybrids.learned import LearnedConfig, learn_tensors
from mqnative.jobs.hybrids.request import External
from mqnative.source.argument import HubModel
from mqnative.source.fetch import list_repository
from mqnative.source.hub import Hub, Repository
from mqnative.source.hub_errors import offline_error
from mqnative.source.listing import GGUFGroup, gguf_groups

# Vocabularies of 250,000 tokens need some ten megabytes, small ones a tenth of one.
_FIRST_BYTES = 1 << 20
_MOST_BYTES = 256 << 20


def learn_repository(hub: Hub, model: HubModel, monitor: Monitor = NULL_MONITOR) -> list[External]:
    """The mixes of a repository, or the one file of it that is named.

    Args:
        hub: where.
        model: the repository; without a file, all its quantized GGUF files.
        monitor: told the files done.

    Raises:
        HubError: the repository cannot be had, or there is no network.
        SourceError: it holds no such mix.
        GGUFError: a file is damaged.
    """
    if hub.offline:
        raise offline_error(hub.asked(model, model.file))
    repository = list_repository(hub, model)
    groups = gguf_groups(repository.files)
    if model.file is not None:
        wanted = [g for g in groups if model.file in {f.name for f in g.files}]
    else:
        wanted = [g for g in groups if not g.unquantized]
    if not wanted or not all(g.complete for g in wanted):
        what = model.file or "quantized GGUF file"
        raise SourceError(
            f"--external {model}: {model.repo} holds no whole {what}; name one of its files", repo=model.repo
        )
    monitor.start("headers", len(wanted), "files")
    found = []
    for i, group in enumerate(wanted, 1):
        learned = _learned(hub, repository, group)
        found.append(External(Path(group.name), f"{model.repo}/{group.name}", learned))
        monitor.update(i)
    monitor.finish()
    return found


def _learned(hub: Hub, repository: Repository, group: GGUFGroup) -> LearnedConfig:
    """Learn a model from the beginnings of its files."""
    size = _FIRST_BYTES
    while True:
        try:
            return _read(hub, repository, group, size)
        except GGUFError:
            # Perhaps a header is longer.
            if size >= min(max(f.size for f in group.files), _MOST_BYTES):
                raise
        size *= 4


def _read(hub: Hub, repository: Repository, group: GGUFGroup, size: int) -> LearnedConfig:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for file in group.files:
            path = Path(folder) / file.name.rpartition("/")[2]
            with path.open("wb") as sparse:
                sparse.write(hub.read(repository, file.name, 0, min(size, file.size)))
                # What was not fetched is a hole; headers must fit the whole file.
                sparse.truncate(file.size)
            paths.append(path)
        with GGUFFile.open(paths[0]) as opened:
            metadata = {k: v.plain for k, v in opened.metadata.items() if v.element_type is None}
            hashed = group.files[0].sha256 if len(group.files) == 1 else None
            return learn_tensors(opened.tensors, metadata, file=paths[0].name, file_sha256=hashed or "")
