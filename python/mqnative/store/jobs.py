"""The jobs of a store: what was asked for, how far it is, what happened to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mqnative.errors import JobNotFoundError, JobStateError
from mqnative.store.connection import Database
from mqnative.store.job_rows import Event, Job, Step, job_of, json_text
from mqnative.store.job_tables import CANCELLED, DONE, NEXT_STATES, PAUSED, QUEUED, RUNNING

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


_COLUMNS = ", ".join(Job.__dataclass_fields__)
_INTERRUPTED = "interrupted: its process ended without a word"
_STEP_COLUMNS = tuple(Step.__dataclass_fields__)


class JobTable:
    """The jobs of a store.

    Every method raises StoreError if the file cannot be used, and JobNotFoundError for a number that no job
    has.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job: int) -> Job:
        """One job."""
        return self._one(self._database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job,)), job)

    def live(self, key: str) -> Job | None:
        """The job of this key that is not done."""
        found = self._database.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE key = ? AND state <> 'done'", (key,)
        )
        return job_of(found[0]) if found else None

    def all(self, states: Sequence[str] = (), *, device: str | None = None) -> list[Job]:
        """Jobs, oldest first; of some states, of one device."""
        where, values = ["1"], list[Any]()
        if states:
            where.append(f"state IN ({','.join('?' * len(states))})")
            values += states
        if device is not None:
            where.append("device = ?")
            values.append(device)
        found = self._database.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE {' AND '.join(where)} ORDER BY id", values
        )
        return [job_of(row) for row in found]

    def add(
        self,
        key: str,
        kind: str,
        argv: Sequence[str],
        options: Mapping[str, Any],
        folder: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        versions: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> Job:
        """The live job of this key: the one there is, or a new one that is queued."""
        values = (key, kind, json_text(list(argv)), json_text(options), folder, json_text(inputs or {}))
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO jobs (key, kind, argv, options, folder, inputs, versions, device, state) "
                "SELECT ?, ?, ?, ?, ?, ?, ?, ?, 'queued' "
                "WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE key = ? AND state <> 'done')",
                (*values, json_text(versions or {}), device, key),
            )
            found = db.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE key = ? AND state <> 'done'", (key,)
            ).fetchall()
        return job_of(found[0])

    def begin(self, job: int, pid: int) -> Job:
        """A process takes the job over; it holds the job's lock.

        A job that still says it is running was left by a process that died: that is written down first.
        """
        with self._database.transaction() as db:
            if self._state(db, job) == RUNNING:
                _interrupted(db, job)
            self._move(db, job, RUNNING)
            db.execute(
                f"UPDATE jobs SET pid = ?, wish = NULL, attempts = attempts + 1, error = NULL, ended = NULL, "
                f"started = coalesce(started, {_NOW}) WHERE id = ?",
                (pid, job),
            )
            found = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchall()
        return self._one(found, job)

    def end(self, job: int, state: str, error: Mapping[str, Any] | None = None) -> None:
        """The process that runs the job leaves it in ``state``."""
        with self._database.transaction() as db:
            self._move(db, job, state)
            db.execute(
                f"UPDATE jobs SET wish = NULL, ended = {_NOW}, error = ? WHERE id = ?",
                (None if error is None else json_text(error), job),
            )
            db.execute("UPDATE steps SET state = 'stopped' WHERE job = ? AND state = 'running'", (job,))

    def interrupted(self, job: int) -> None:
        """A running job whose lock nobody holds was interrupted: it is paused."""
        with self._database.transaction() as db:
            if self._state(db, job) == RUNNING:
                _interrupted(db, job)

    def was_interrupted(self, job: int) -> bool:
        """Whether a job is paused because its process died, not because somebody wanted it."""
        found = self._database.execute(
            "SELECT kind, text FROM events WHERE job = ? AND kind IN ('state', 'warning') "
            "ORDER BY id DESC LIMIT 2",
            (job,),
        )
        return found == [("state", PAUSED), ("warning", _INTERRUPTED)]

    def move(self, job: int, state: str) -> None:
        """Change the state of a job that no process works on.

        Raises:
            JobStateError: the state does not follow from the one it has.
        """
        with self._database.transaction() as db:
            self._move(db, job, state)

    def wish(self, job: int, wish: str) -> Job:
        """Ask for a pause or an end; at once where nothing runs, else its process is told.

        Raises:
            JobStateError: the job is over.
        """
        wanted = PAUSED if wish == "pause" else CANCELLED
        with self._database.transaction() as db:
            state = self._state(db, job)
            if state == RUNNING:
                db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (wish, job))
            elif state != wanted:
                self._move(db, job, wanted)
            found = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchall()
        return self._one(found, job)

    def wished(self, job: int) -> str | None:
        """What the process of a job is asked for."""
        found = self._database.execute("SELECT wish FROM jobs WHERE id = ?", (job,))
        return found[0][0] if found else "cancel"

    def describe(self, job: int, **columns: Mapping[str, Any]) -> None:
        """Set ``inputs``, ``versions`` or ``estimate``."""
        sets = ", ".join(f"{name} = ?" for name in columns)
        with self._database.transaction() as db:
            db.execute(f"UPDATE jobs SET {sets} WHERE id = ?", (*map(json_text, columns.values()), job))

    def write(
        self,
        job: int,
        steps: Iterable[Step],
        *,
        wall_s: float,
        cpu_s: float,
        events: Iterable[tuple[str, str]] = (),
    ) -> None:
        """What a running job has come to since the last call; the costs are added."""
        marks = ", ".join("?" * (len(_STEP_COLUMNS) + 1))
        rows = [(job, *(getattr(step, name) for name in _STEP_COLUMNS)) for step in steps]
        with self._database.transaction() as db:
            db.executemany(
                f"INSERT OR REPLACE INTO steps (job, {', '.join(_STEP_COLUMNS)}) VALUES ({marks})", rows
            )
            db.executemany(
                "INSERT INTO events (job, kind, text) VALUES (?, ?, ?)", [(job, *event) for event in events]
            )
            db.execute(
                "UPDATE jobs SET wall_s = wall_s + ?, cpu_s = cpu_s + ? WHERE id = ?", (wall_s, cpu_s, job)
            )

    def steps(self, job: int) -> list[Step]:
        """The steps of a job, in order."""
        found = self._database.execute(
            f"SELECT {', '.join(_STEP_COLUMNS)} FROM steps WHERE job = ? ORDER BY number", (job,)
        )
        return [Step(*row) for row in found]

    def current_steps(self) -> dict[int, Step]:
        """The latest step of every job that is not over, by job."""
        columns = ", ".join(f"s.{name}" for name in _STEP_COLUMNS)
        found = self._database.execute(
            f"SELECT s.job, {columns} FROM steps s JOIN jobs j ON j.id = s.job "
            "WHERE j.state IN ('running', 'paused') "
            "AND s.number = (SELECT max(number) FROM steps WHERE job = j.id)"
        )
        return {row[0]: Step(*row[1:]) for row in found}

    def events(self, job: int, after: int = 0) -> list[Event]:
        """What happened to a job since event ``after``."""
        found = self._database.execute(
            "SELECT id, at, kind, text FROM events WHERE job = ? AND id > ? ORDER BY id", (job, after)
        )
        return [Event(*row) for row in found]

    def remove(self, jobs: Sequence[int]) -> None:
        """Forget jobs that do not run, with steps and events; measurements stay.

        Raises:
            JobStateError: one of them is running.
        """
        with self._database.transaction() as db:
            for job in jobs:
                if self._state(db, job) == RUNNING:
                    raise JobStateError(
                        f"job {job} is running; pause or cancel it first", job=job, state=RUNNING
                    )
                db.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def _move(self, db: sqlite3.Connection, job: int, state: str) -> None:
        before = self._state(db, job)
        if before != state and state not in NEXT_STATES[before]:
            done = "; give its command again for a new job" if before == DONE else ""
            raise JobStateError(f"job {job} is {before} and cannot be {state}{done}", job=job, state=before)
        db.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, job))
        if state == QUEUED:
            db.execute("UPDATE jobs SET wish = NULL, ended = NULL WHERE id = ?", (job,))

    @staticmethod
    def _state(db: sqlite3.Connection, job: int) -> str:
        found = db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchall()
        if not found:
            raise _not_found(job)
        return str(found[0][0])

    @staticmethod
    def _one(rows: Sequence[Any], job: int) -> Job:
        if not rows:
            raise _not_found(job)
        return job_of(rows[0])


def _interrupted(db: sqlite3.Connection, job: int) -> None:
    db.execute("INSERT INTO events (job, kind, text) VALUES (?, 'warning', ?)", (job, _INTERRUPTED))
    db.execute(f"UPDATE jobs SET state = 'paused', wish = NULL, ended = {_NOW} WHERE id = ?", (job,))
    db.execute("UPDATE steps SET state = 'stopped' WHERE job = ? AND state = 'running'", (job,))


def _not_found(job: int) -> JobNotFoundError:
    return JobNotFoundError(f"there is no job {job}; `mqnative jobs list` shows those there are", job=job)
