"""The hub's cache on this machine: what is there already, and where a download goes.

The layout is huggingface_hub's own: content under its hash in ``blobs``, names as links in ``snapshots``,
branches in ``refs``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mqnative.errors import DiskSpaceError
from mqnative.source.argument import HubModel
from mqnative.source.hub import Hub, Repository
from mqnative.source.hub_errors import offline_error
from mqnative.source.hub_library import hub_library
from mqnative.source.listing import ListedFile

DEFAULT_REVISION = "main"
_DEEPEST = 3


def repository_folder(hub: Hub, repo: str) -> Path:
    """Where the cache keeps a repository."""
    hub_library()
    from huggingface_hub.file_download import repo_folder_name

    return hub.cache_dir / str(repo_folder_name(repo_id=repo, repo_type="model"))


def snapshot(hub: Hub, model: HubModel, commit: str) -> Path:
    """The folder of a commit's files, whether it is there or not."""
    return repository_folder(hub, model.repo) / "snapshots" / commit


def cached_repository(hub: Hub, model: HubModel) -> Repository:
    """What the cache holds of a repository, without any network.

    Raises:
        HubError: nothing, or not at that revision.
    """
    folder = repository_folder(hub, model.repo)
    revision = model.revision or DEFAULT_REVISION
    ref = folder / "refs" / revision
    try:
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
        found = folder / "snapshots" / commit
        present = found.is_dir()
    except (OSError, ValueError):
        present = False
    if not present:
        raise offline_error(hub.asked(model))
    return Repository(model, commit, list_folder(found))


def is_cached(hub: Hub, repository: Repository, file: ListedFile) -> bool:
    """Whether a file is there whole."""
    path = snapshot(hub, repository.model, repository.commit) / file.name
    try:
        return path.stat().st_size == file.size
    except OSError:
        return False


def list_folder(folder: Path) -> tuple[ListedFile, ...]:
    """The files of a folder and a few levels below it, hidden ones left out."""
    found = []
    waiting = [(folder, 0)]
    while waiting:
        here, depth = waiting.pop()
        for path in sorted(here.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if depth + 1 < _DEEPEST:
                    waiting.append((path, depth + 1))
            elif path.is_file():
                found.append(ListedFile(path.relative_to(folder).as_posix(), path.stat().st_size))
    return tuple(sorted(found, key=lambda f: f.name))


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse what the disk cannot hold, before anything is written.

    Args:
        folder: where it goes; its nearest existing parent counts.
        needed_bytes: of what is still to be written.
        what: for the message.

    Raises:
        DiskSpaceError: the disk has less.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        return
    if needed_bytes > free:
        raise DiskSpaceError(
            f"{what} takes {_gigabytes(needed_bytes)}, but the disk of {there} has {_gigabytes(free)} free; "
            "make room, or set HF_HOME and MQNATIVE_HOME to folders on a larger disk",
            path=str(folder),
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB"
