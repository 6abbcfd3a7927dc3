"""A publication to the hub: one file after the other, then one commit; what is there is not sent again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import HubError
from mqnative.jobs.publication import Publication, PublishedFile
from mqnative.source.argument import HubModel
from mqnative.source.hub import Hub
from mqnative.source.hub_errors import Asked, offline_error, patiently, translated
from mqnative.source.hub_library import hub_library

_MESSAGE = "Publish {model}"


@dataclass(frozen=True)
class Uploaded:
    """What happened.

    Attributes:
        repo: where.
        commit: the repository's newest one now.
        sent: names of files that were changed by it.
        sent_bytes: their size.
        created: whether the repository was made.
    """

    repo: str
    commit: str
    sent: tuple[str, ...]
    sent_bytes: int
    created: bool


def upload(
    publication: Publication,
    hub: Hub,
    *,
    private: bool = False,
    message: str = "",
    monitor: Monitor = NULL_MONITOR,
) -> Uploaded:
    """Send what the hub does not have, and commit everything in one step.

    A run that breaks off has changed nothing that visitors see; the files that were sent whole stay in the
    hub's storage, so that the next run goes on with the first that is missing.

    Args:
        publication: what.
        hub: where to.
        private: make the repository private, if it is made.
        message: of the commit.
        monitor: told the bytes.

    Raises:
        HubError: refused, offline or broken off.
    """
    asked = Asked(publication.repo, authenticated=hub.token() is not None, writing=True)
    if hub.offline:
        raise offline_error(asked)
    if not asked.authenticated:
        raise asked.error(
            f"publishing {publication.repo} takes a token with write access; log in with `hf auth login`, "
            "set HF_TOKEN or pass --token",
            "token",
        )
    api = hub.api()
    known, created = _known(publication.repo, hub)
    if created:
        patiently(asked, lambda: api.create_repo(publication.repo, private=private, exist_ok=True))
    changed = [f for f in publication.files if known.get(f.name) not in (f.sha256, f.git_oid)]
    if not changed:
        commit = hub.repository(HubModel(publication.repo)).commit
        return Uploaded(publication.repo, commit, (), 0, created)
    text = message or _MESSAGE.format(model=publication.files[0].name)
    with ExitStack() as opened:
        operations = _send(publication.repo, changed, api, asked, monitor, opened)
        with _explained(asked):
            done = api.create_commit(publication.repo, operations=operations, commit_message=text)
    return Uploaded(
        publication.repo,
        str(done.oid),
        tuple(f.name for f in changed),
        sum(f.size_bytes for f in changed),
        created,
    )


def _known(repo: str, hub: Hub) -> tuple[dict[str, str], bool]:
    """The contents that the repository has, by file name, and whether there is no repository yet."""
    try:
        found = hub.repository(HubModel(repo))
    except HubError as error:
        if error.reason != "repository":
            raise
        return {}, True
    return {f.name: f.etag for f in found.files}, False


def _send(
    repo: str, files: list[PublishedFile], api: Any, asked: Asked, monitor: Monitor, opened: ExitStack
) -> list[Any]:
    """Have every large file in the hub's storage; the operations for the commit."""
    operation = hub_library().CommitOperationAdd
    total = sum(f.size_bytes for f in files)
    monitor.start(f"upload {repo}", total, "bytes")
    operations, before = [], 0
    for file in files:
        source: Any = file.content if file.path is None else str(file.path)
        if file.path is not None and not _has_xet():
            # Read through us, so that people see how far it is.
            source = opened.enter_context(_Counted(file, partial(_tell, monitor, before, total)))
        with _explained(asked):
            added = operation(path_in_repo=file.name, path_or_fileobj=source)
            api.preupload_lfs_files(repo, additions=[added])
        operations.append(added)
        before += file.size_bytes
        monitor.update(before)
    monitor.finish()
    return operations


def _tell(monitor: Monitor, before: int, total: int, at: int) -> None:
    monitor.update(min(total, before + at))


class _Counted(io.BufferedReader):
    """A file that tells how far it was read."""

    def __init__(self, file: PublishedFile, at: Callable[[int], None]) -> None:
        assert file.path is not None
        super().__init__(io.FileIO(file.path))
        self._at = at

    def read(self, size: int | None = -1, /) -> bytes:
        """As a file, and tell."""
        data = super().read(size)
        self._at(self.tell())
        return data


def _has_xet() -> bool:
    """Whether the library would send large files by Xet, which reads them itself."""
    from huggingface_hub import constants

    return find_spec("hf_xet") is not None and not getattr(constants, "HF_HUB_DISABLE_XET", False)


@contextmanager
def _explained(asked: Asked) -> Iterator[None]:
    """Errors of an upload as ours; the library wraps some of them in others."""
    with translated(asked):
        try:
            yield
        except RuntimeError as error:
            cause: BaseException = error
            while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
                cause = cause.__cause__
            raise cause from None
        except ValueError as error:
            # Of our own checks none can fail here: the hub refused what was sent.
            said = " ".join(str(error).split())
            raise asked.error(
                f"the hub refused the upload to {asked.repo}: {said[:300]}", "refused"
            ) from None
