"""One file's bytes over a connection that breaks: received piece by piece, never twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from mqnative.errors import HubError, OperationCancelled
from mqnative.formats.atomic import output_errors
from mqnative.source.hub import Answer, Hub, Repository
from mqnative.source.hub_errors import network_error, patience, status_error, translated
from mqnative.source.listing import ListedFile

# Attempts without a single new byte, after which a connection counts as broken for good.
_PATIENCE = 5
# One request asks for so much: proxies and stores limit what a single answer may hold.
_PIECE = 8 << 30
_READ = 1 << 20
_SUFFIX = ".mqnative.incomplete"


@dataclass(frozen=True)
class Blob:
    """A file's place in the cache.

    Attributes:
        folder: of the cache's contents.
        etag: the name of the content.
        file: what the repository says about it.
    """

    folder: Path
    etag: str
    file: ListedFile

    @property
    def path(self) -> Path:
        """Where it will be."""
        return self.folder / self.etag

    @property
    def part(self) -> Path:
        """What was received so far."""
        return self.folder / f"{self.etag}{_SUFFIX}"


def partial_size(folder: Path, file: ListedFile) -> int:
    """Bytes of a file that an earlier run has received."""
    with suppress(OSError):
        if file.etag:
            return min(file.size, (folder / f"{file.etag}{_SUFFIX}").stat().st_size)
    return 0


def receive(hub: Hub, repository: Repository, blob: Blob, at: Callable[[int], None], stop: Event) -> None:
    """Read what is missing of a blob into its part file.

    Args:
        hub: where from.
        repository: that holds it.
        blob: its place.
        at: told how many bytes are there.
        stop: ends the work with OperationCancelled.

    Raises:
        HubError: refused, or no byte came in several attempts.
        OutputError: the disk is full or read-only.
    """
    with output_errors(blob.part):
        blob.folder.mkdir(parents=True, exist_ok=True)
        if blob.part.exists() and blob.part.stat().st_size > blob.file.size:
            blob.part.unlink()
        blob.part.touch()
    failed = 0
    while (have := blob.part.stat().st_size) < blob.file.size:
        at(have)
        try:
            with translated(hub.asked(repository.model, blob.file.name)):
                _attempt(hub, repository, blob, have, at, stop)
        except HubError as error:
            failed = 1 if blob.part.stat().st_size > have else failed + 1
            pause = patience(error, failed)
            if pause is None or failed >= _PATIENCE:
                raise
            if stop.wait(pause):
                raise OperationCancelled("stopped", done=have, total=blob.file.size) from None


def _attempt(
    hub: Hub, repository: Repository, blob: Blob, have: int, at: Callable[[int], None], stop: Event
) -> None:
    """One request, and what comes of it."""
    asked = hub.asked(repository.model, blob.file.name)
    end = min(blob.file.size, have + _PIECE) - 1
    with hub.open(repository, blob.file.name, have, end) as answer:
        if answer.status not in (200, 206):
            raise status_error(answer.status, answer.headers, asked)
        _write(answer, blob, have, at, stop)
    if blob.part.stat().st_size <= end:
        # Some clients take a connection that closes early for the end of the body.
        raise network_error(EOFError(), asked)


def _write(answer: Answer, blob: Blob, have: int, at: Callable[[int], None], stop: Event) -> None:
    """Append what comes; a server without ranges begins at the beginning."""
    start = _start(answer)
    with output_errors(blob.part), blob.part.open("r+b", buffering=0) as out:
        if start != have:
            start = 0
            out.truncate(0)
        position = out.seek(start)
        for piece in answer.pieces:
            if stop.is_set():
                raise OperationCancelled("stopped", done=position, total=blob.file.size)
            # Never beyond the end: a longer file has the wrong hash in any case.
            position += out.write(piece[: blob.file.size - position])
            at(position)


def _start(answer: Answer) -> int:
    found = re.match(
        r"bytes (\d+)-", answer.headers.get("Content-Range") or answer.headers.get("content-range") or ""
    )
    return int(found[1]) if answer.status == 206 and found else 0


def content_hash(blob: Blob) -> tuple[str, str]:
    """The hash of what was received and the one announced; both empty where the hub announces none.

    Large files have a SHA-256, the others what git makes of them.
    """
    if blob.file.sha256 or re.fullmatch(r"[0-9a-f]{64}", blob.etag):
        digest, expected = hashlib.sha256(), blob.file.sha256 or blob.etag
    elif blob.file.git_oid == blob.etag:
        digest, expected = hashlib.sha1(b"blob %d\0" % blob.file.size, usedforsecurity=False), blob.etag
    else:
        return "", ""
    with blob.part.open("rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
    return digest.hexdigest(), expected
