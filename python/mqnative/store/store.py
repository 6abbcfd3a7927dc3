"""The store as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mqnative.store import measurements, models
from mqnative.store.connection import Database
from mqnative.store.jobs import JobTable
from mqnative.store.keys import content_key
from mqnative.store.locks import named_lock, try_named_lock
from mqnative.store.measurements import Measurement
from mqnative.store.migrations import migrate
from mqnative.store.paths import DATABASE_NAME, home, made_folder
from mqnative.store.unit_costs import UnitCosts

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_TIMEOUT_S = 30.0


class Store:
    """Measurements under the hash of what decides them, in one sqlite file that processes can share.

    A row is on the disk when ``put`` returns: a process that is killed, or a power cut, loses the row in
    flight at most. Every method raises StoreError if the file cannot be used: locked for too long,
    damaged, read-only, on a full disk. Nothing is changed then, and the store works on once the cause is
    gone.

    One instance is one connection and belongs to one thread; open as many as there are threads.

    Attributes:
        folder: where the file lies, and the locks and caches beside it.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        """Wrap an open database; ``open`` does both."""
        self.folder = folder
        self._database = database

    @classmethod
    def open(
        cls, folder: Path | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S, durable: bool = True
    ) -> Store:
        """Open the store in ``folder``, made if it is not there, and bring its schema up to date.

        Args:
            folder: a folder on a disk of this machine; the default is `home`.
            timeout_s: how long to wait for another process that writes.
            durable: whether what is written has to outlive a power cut; without, a write waits for no disk.

        Raises:
            StoreError: besides what the class says: a newer mqnative wrote the store (``version`` is set),
                or the file is no store. It is left as it is, never replaced.
        """
        folder = home() if folder is None else made_folder(folder)
        database = Database(folder / DATABASE_NAME, timeout_s, durable=durable)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(folder, database)

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def get(self, kind: str, inputs: Mapping[str, Any]) -> Measurement | None:
        """The measurement of these inputs, if it was made.

        Raises:
            TypeError, ValueError, NonFiniteError: as `content_key`.
        """
        return self.get_many(kind, [inputs])[0]

    def get_many(self, kind: str, list_of_inputs: Iterable[Mapping[str, Any]]) -> list[Measurement | None]:
        """For each inputs in turn the measurement, or None; about 20 microseconds each.

        Raises:
            TypeError, ValueError, NonFiniteError: as `content_key`.
        """
        keys = [content_key(kind, inputs) for inputs in list_of_inputs]
        found = measurements.find(self._database, keys)
        return [found.get(key) for key in keys]

    def all_of(self, kind: str, **inputs: str) -> list[Measurement]:
        """Every measurement of a kind, oldest first; only those with these texts among their inputs."""
        return measurements.of_kind(self._database, kind, inputs)

    def put(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        value: Mapping[str, Any],
        data: bytes | None = None,
        *,
        elapsed_s: float = 0.0,
    ) -> None:
        """Store a result, unless these inputs have one already: the first one stays.

        Args:
            kind: an identifier such as ``probe``.
            inputs: everything that decides the outcome: hashes, types, metric version, build.
            value: the figures, as JSON values; no NaN, no infinity.
            data: at most 1 GB.
            elapsed_s: how long it took to measure.

        Raises:
            TypeError, ValueError, NonFiniteError: as `content_key`, for inputs and value.
        """
        measurements.insert(self._database, [measurements.row(kind, inputs, value, data, elapsed_s)])

    def put_many(
        self,
        kind: str,
        rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], bytes | None]],
        *,
        elapsed_s: float = 0.0,
    ) -> None:
        """Store results (inputs, value, data) in one transaction: all of them or, on an error, none.

        Args:
            kind: as in `put`.
            rows: as in `put`.
            elapsed_s: how long each of them took.

        Raises:
            TypeError, ValueError, NonFiniteError: as `put`.
        """
        made = (measurements.row(kind, inputs, value, data, elapsed_s) for inputs, value, data in rows)
        measurements.insert(self._database, made)

    def count(self, kind: str | None = None) -> int:
        """How many measurements there are, of one kind or of all."""
        return measurements.count(self._database, kind)

    def lock(self, name: str, *, on_wait: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Work under a name that one holder at a time may do, on this machine.

        The operating system gives the lock back when its holder dies. It is not reentrant: taking it again
        inside the block waits forever.

        Args:
            name: any text.
            on_wait: called once if another holder must be waited for.

        Raises:
            StoreError: the lock's file cannot be made, or the file system has no locks.
        """
        return named_lock(self.folder, name, on_wait)

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """As `lock`, without waiting: whether it is held during the block.

        Raises:
            StoreError: as `lock`.
        """
        return try_named_lock(self.folder, name)

    @property
    def jobs(self) -> JobTable:
        """The jobs."""
        return JobTable(self._database)

    @property
    def unit_costs(self) -> UnitCosts:
        """What a unit of work takes."""
        return UnitCosts(self._database)

    def remembered_identity(self, path: Path) -> str | None:
        """What `remember_identity` was told of the model at ``path``.

        Args:
            path: the file, or the first one of a split model.

        Returns:
            None if it was told nothing, or if a file was changed, replaced, moved or removed since.
        """
        return models.recall(self._database, path)

    def remember_identity(self, paths: Sequence[Path], identity: str, *, stamp: str | None = None) -> None:
        """Remember the identity of a model until one of its files changes.

        Args:
            paths: its files, in order; it is asked for by the first one.
            identity: JSON text.
            stamp: `file_stamp` of ``paths`` from before they were hashed. Files that were changed meanwhile
                are not remembered.
        """
        models.remember(self._database, paths, identity, stamp)
