"""One connection to the store: short transactions, patience with others, errors that say what to do."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mqnative.errors import StoreError
from mqnative.store.paths import OTHER_FOLDER

# sqlite waits this long inside one call, where no signal gets through; the rest of the patience is ours.
_BUSY_TIMEOUT_S = 0.1
_PAUSE_S = 0.01
_BUSY = ("database is locked", "locking protocol")
_TOO_BIG = "a row is limited to 1 GB; keep larger results in a file and store its hash"
# sqlite's own texts, which are the same in all versions; the error codes came with Python 3.11.
_WAY_OUT = {
    "locked": "another process keeps it locked; wait for that one to end, then try again",
    "locking protocol": "other processes keep it busy; wait for one of them to end, then try again",
    "is full": f"the disk is full; free some space, or {OTHER_FOLDER}",
    "disk I/O error": f"the disk failed, is full or over its quota; make room, or {OTHER_FOLDER}",
    "not a database": f"it is no sqlite database; move it away, or {OTHER_FOLDER}",
    "malformed": f"it is damaged; recover it with sqlite3's .recover or move it away, or {OTHER_FOLDER}",
    "readonly": f"you may not write to it; change its permissions, or {OTHER_FOLDER}",
    "unable to open": f"it cannot be opened; let it be a file that you may write to, or {OTHER_FOLDER}",
    "BLOB longer": _TOO_BIG,
    "too big": _TOO_BIG,
}


class Database:
    """An open sqlite file; usable from the thread that opened it.

    The folder must lie on a disk of this machine: processes on several machines cannot share a WAL file.

    Attributes:
        path: the file.
        timeout_s: how long to wait for other processes.
        durable: whether a commit waits until it is on the disk. The next one that does makes those before it
            durable too.
    """

    def __init__(self, path: Path, timeout_s: float, *, durable: bool = True) -> None:
        self.path = path
        self.timeout_s = timeout_s
        with self._explained():
            self._connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self.execute("PRAGMA foreign_keys = ON")
            # FULL: a power cut loses no committed row either. Under NORMAL it may lose all since the last
            # checkpoint, which can be hours of work, and a sync costs milliseconds where a row costs seconds.
            self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.execute("PRAGMA fullfsync = ON")  # on macOS a plain fsync stops at the drive's cache
        except BaseException:
            self.close()
            raise

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of one statement, after waiting for other processes if need be.

        Raises:
            StoreError: see the class of errors that ``_WAY_OUT`` lists.
        """
        with self._explained():
            return self._patiently(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: committed when the block ends well, rolled back when it raises anything.

        It is immediate, that is it holds the right to write from its start, so that nothing read in the
        block can be changed by others and only the start may have to wait.

        Raises:
            StoreError: as ``execute``; errors of the block that sqlite did not raise pass unchanged.
        """
        with self._explained():
            try:
                self._patiently("BEGIN IMMEDIATE")
                yield self._connection
                self._patiently("COMMIT")
            except BaseException:
                # On a full disk sqlite has rolled back by itself; what went wrong must not be hidden.
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._connection.close()

    def error(self, reason: str, *, version: int | None = None) -> StoreError:
        """A StoreError about this file."""
        return StoreError(f"cannot use the store {self.path}: {reason}", path=str(self.path), version=version)

    def _patiently(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if not str(error).startswith(_BUSY) or time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE_S)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a closed store, another thread: mistakes of the caller, not of the file
        except (sqlite3.Error, OverflowError) as error:
            text = str(error)
            reasons = (reason for sign, reason in _WAY_OUT.items() if sign in text)
            raise self.error(next(reasons, f"{text}; move it away, or {OTHER_FOLDER}")) from error
