"""Files from the hub into its cache: resumed where they broke off, checked before they get their name.

huggingface_hub throws a partial file away and compares sizes only, so that the bytes are read here; the
cache and its links stay the library's.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import HubError, OperationCancelled
from mqnative.formats.atomic import give_name
from mqnative.source.blob import Blob, content_hash, partial_size, receive
from mqnative.source.hub import Hub, Repository
from mqnative.source.hub_cache import (
    DEFAULT_REVISION,
    is_cached,
    repository_folder,
    require_space,
    snapshot,
)
from mqnative.source.hub_errors import patiently
from mqnative.source.hub_library import hub_library
from mqnative.source.listing import ListedFile
from mqnative.store.locks import named_lock
from mqnative.store.paths import home

_FILES_AT_ONCE = 4
_REPORT_EVERY_S = 0.1
_LEAVE_S = 1.0
# What may become the name of a file.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Plan:
    """What a download would do.

    Attributes:
        missing: files that are not there yet.
        total_bytes: of all files.
        remaining_bytes: still to be read.
    """

    missing: tuple[ListedFile, ...]
    total_bytes: int
    remaining_bytes: int


def plan_download(hub: Hub, repository: Repository, files: Sequence[ListedFile]) -> Plan:
    """Tell what is missing; nothing is fetched."""
    missing = tuple(f for f in files if not is_cached(hub, repository, f))
    blobs = repository_folder(hub, repository.model.repo) / "blobs"
    remaining = sum(f.size - partial_size(blobs, f) for f in missing)
    return Plan(missing, sum(f.size for f in files), remaining)


def download(
    hub: Hub, repository: Repository, files: Sequence[ListedFile], monitor: Monitor = NULL_MONITOR
) -> Path:
    """Have all ``files`` in the cache.

    A run that is stopped or cut off leaves what it has read beside the cache's files; the next goes on there.

    Args:
        hub: where from.
        repository: at the commit wanted.
        files: of that repository.
        monitor: told the bytes.

    Returns:
        The folder of the commit's files.

    Raises:
        HubError: refused, broken off for good, or the bytes are not what the hub announced.
        DiskSpaceError: they would not fit; nothing was fetched.
        OperationCancelled: what was read is kept.
    """
    plan = plan_download(hub, repository, files)
    if plan.missing:
        require_space(hub.cache_dir, plan.remaining_bytes, f"the download of {repository.model.repo}")
        _Download(hub, repository, plan, monitor).run()
    return snapshot(hub, repository.model, repository.commit)


class _Download:
    """Several files at once, in threads; the calling thread reports and lets signals through."""

    def __init__(self, hub: Hub, repository: Repository, plan: Plan, monitor: Monitor) -> None:
        self.hub, self.repository, self.plan, self.monitor = hub, repository, plan, monitor
        self.folder = repository_folder(hub, repository.model.repo)
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.waiting: queue.SimpleQueue[ListedFile] = queue.SimpleQueue()
        # Bytes on the disk of each file; one writer each.
        self.have = {f.name: 0 for f in plan.missing}

    def run(self) -> None:
        for file in sorted(self.plan.missing, key=lambda f: -f.size):
            self.waiting.put(file)
        total = sum(f.size for f in self.plan.missing)
        self.monitor.start(f"download {self.repository.model.repo}", total, "bytes")
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_FILES_AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            while any(t.is_alive() for t in threads) and not self.failures:
                time.sleep(_REPORT_EVERY_S)
                self.monitor.update(min(total, sum(self.have.values())))
        finally:
            self.stop.set()
            deadline = time.monotonic() + _LEAVE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if self.failures:
            raise self.failures[0]
        self.monitor.update(total)
        self.monitor.finish()

    def _work(self) -> None:
        with suppress(queue.Empty):
            while not self.stop.is_set():
                file = self.waiting.get_nowait()
                try:
                    self._fetch(file)
                except OperationCancelled:
                    return
                except BaseException as error:  # raised again by the calling thread
                    self.failures.append(error)
                    return

    def _fetch(self, file: ListedFile) -> None:
        asked = self.hub.asked(self.repository.model, file.name)
        etag, size = patiently(asked, lambda: self._head(file))
        blob = Blob(self.folder / "blobs", etag, replace(file, size=size))
        with named_lock(home(), f"download {blob.path}"):
            if not blob.path.exists():
                receive(self.hub, self.repository, blob, self._at(file), self.stop)
                self._check(blob)
        self.have[file.name] = file.size
        # The bytes are there: this makes the link.
        patiently(asked, lambda: self._link(file))
        self._remember(self.repository.model.revision or DEFAULT_REVISION)

    def _link(self, file: ListedFile) -> None:
        repo, commit = self.repository.model.repo, self.repository.commit
        hub_library().hf_hub_download(repo, file.name, revision=commit, token=self.hub.token() or False)

    def _head(self, file: ListedFile) -> tuple[str, int]:
        """The name that the cache gives the file's content, and its size."""
        library = hub_library()
        url = library.hf_hub_url(self.repository.model.repo, file.name, revision=self.repository.commit)
        found: Any = library.get_hf_file_metadata(url, token=self.hub.token() or False)
        if not _PLAIN.fullmatch(found.etag or ""):
            asked = self.hub.asked(self.repository.model, file.name)
            raise asked.error(f"{asked.repo}: the server gives {file.name} no usable ETag", "protocol")
        return str(found.etag), file.size if found.size is None else int(found.size)

    def _at(self, file: ListedFile) -> Any:
        def at(position: int) -> None:
            self.have[file.name] = position

        return at

    def _check(self, blob: Blob) -> None:
        """Give the file its name if it is what the hub announced; else throw it away."""
        found, expected = content_hash(blob)
        name, repo = blob.file.name, self.repository.model.repo
        if found != expected:
            blob.part.unlink(missing_ok=True)
            raise HubError(
                f"{name} of {repo} arrived with the hash {found[:16]}..., but the hub announces "
                f"{expected[:16]}...; it was thrown away, run the same command again",
                repo=repo,
                file=name,
                reason="hash",
            )
        give_name(blob.part, blob.path)

    def _remember(self, revision: str) -> None:
        """Note which commit a branch stood for, so that the branch is found offline."""
        if revision == self.repository.commit or ".." in revision.split("/"):
            return
        ref = self.folder / "refs" / revision
        with suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(self.repository.commit, encoding="utf-8")
