"""Work that only one process should do at a time: locks on files, which die with their holder."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mqnative.errors import StoreError
from mqnative.store.paths import OTHER_FOLDER, made_folder

_PAUSE_S = 0.05

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def named_lock(folder: Path, name: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock ``name`` of ``folder`` during the block; see `Store.lock`."""
    descriptor = _open(lock_path(folder, name))
    try:
        _acquire(descriptor, name, on_wait)
        try:
            yield
        finally:
            # Said aloud, since closing is not enough while a forked child holds a copy of the descriptor.
            _unlock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def try_named_lock(folder: Path, name: str) -> Iterator[bool]:
    """Whether the lock was free and is held during the block; see `Store.try_lock`."""
    descriptor = _open(lock_path(folder, name))
    try:
        held = _try(descriptor, name)
        try:
            yield held
        finally:
            if held:
                _unlock(descriptor)
    finally:
        os.close(descriptor)


def hold(descriptor: int) -> bool:
    """Lock an open file of one's own until it is closed; whether that worked.

    Raises:
        OSError: the file system has no locks.
    """
    return _try_lock(descriptor)


def lock_path(folder: Path, name: str) -> Path:
    """The file of a lock. It is never removed, since a process that waits may have it open already."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return folder / "locks" / f"{digest[:32]}.lock"


def _open(path: Path) -> int:
    made_folder(path.parent)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"cannot lock {path}: {error.strerror}; {OTHER_FOLDER}", path=str(path)) from error


def _acquire(descriptor: int, name: str, on_wait: Callable[[], None] | None) -> None:
    """Try until it works. Only sleeping blocks, so that Ctrl-C and other signals get through."""
    told = False
    while not _try(descriptor, name):
        if on_wait is not None and not told:
            on_wait()
        told = True
        time.sleep(_PAUSE_S)


def _try(descriptor: int, name: str) -> bool:
    try:
        return _try_lock(descriptor)
    except OSError as error:
        raise StoreError(
            f"the file system cannot lock files ({name!r}: {error.strerror}); {OTHER_FOLDER}"
        ) from error
