"""The schema and its history: numbered steps, each in its own transaction together with its number.

A step that was released is never edited; a change is a further step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from mqnative.store.connection import Database
from mqnative.store.job_tables import m004_jobs
from mqnative.store.paths import OTHER_FOLDER

# Marks the file as ours, for us and for file(1): "mqna".
APPLICATION_ID = 0x6D716E61

Step = Callable[[sqlite3.Connection], None]


def m001_measurements(db: sqlite3.Connection) -> None:
    """Everything that is measured, under the hash of what decides it."""
    # data comes last, since sqlite reads a row from its front and blobs may fill thousands of pages.
    db.execute(
        """
        CREATE TABLE measurements (
          id INTEGER PRIMARY KEY,
          kind TEXT NOT NULL,
          key TEXT NOT NULL UNIQUE CHECK (length(key) = 64),
          inputs TEXT NOT NULL,
          value TEXT NOT NULL,
          created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
          elapsed_s REAL NOT NULL CHECK (elapsed_s >= 0),
          data BLOB CHECK (typeof(data) IN ('blob', 'null'))
        )
        """
    )
    db.execute("CREATE INDEX measurements_by_kind ON measurements (kind)")


def m002_views(db: sqlite3.Connection) -> None:
    """The figures as columns, for people who query the file with sqlite3."""
    provenance = ("imatrix", "metric_version", "build")
    errors = (
        "weighted",
        "half_width",
        "unweighted",
        "rmse",
        "max_abs",
        "cosine",
        "n_rows",
        "energy",
        "importance",
    )
    scores = ("chunk", "n_ctx", "n_tokens", "kld_mean", "nll_mean")
    tensor = {"tensor": "name", "tensor_hash": "tensor"}
    _create_view(db, "errors", "errors", tensor | _same("qtype", *errors, "tolerance", *provenance))
    _create_view(db, "probes", "probe", _same("model", "tensor", "qtype", *scores, "mix", *provenance))
    _create_view(db, "evaluations", "evaluation", _same("model", "mix", *scores, *provenance))


def m003_remembered_models(db: sqlite3.Connection) -> None:
    """Identities of model files, which cost a read of every byte."""
    # The path is a blob, since names of files need not be UTF-8.
    db.execute(
        """
        CREATE TABLE remembered_models (
          path BLOB PRIMARY KEY,
          stamp TEXT NOT NULL,
          identity TEXT NOT NULL,
          created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
        )
        """
    )


STEPS: tuple[Step, ...] = (m001_measurements, m002_views, m003_remembered_models, m004_jobs)


def migrate(database: Database, steps: Sequence[Step] = STEPS) -> None:
    """Bring the schema to the newest version; an up-to-date file is only read.

    Raises:
        StoreError: the file is another program's or a newer mqnative's (then ``version`` is its version);
            it was not touched.
    """
    version = _version(database, len(steps))
    if version < len(steps):
        # Where the file system cannot share memory, sqlite keeps its rollback journal: slower, equally safe.
        database.execute("PRAGMA journal_mode = WAL")
    for number, step in enumerate(steps, start=1):
        if number > version:
            _apply(database, number, step)


def _version(database: Database, known: int) -> int:
    """The file's schema version; 0 if it is empty."""
    ((version,),) = database.execute("PRAGMA user_version")
    ((n_objects,),) = database.execute("SELECT count(*) FROM sqlite_master")
    # Read last: a process that makes the schema meanwhile sets it together with the first table, so that a
    # table without it is another program's.
    ((application,),) = database.execute("PRAGMA application_id")
    if application != APPLICATION_ID:
        if version or n_objects or application:
            raise database.error(f"it is a database of another program; move it away, or {OTHER_FOLDER}")
        return 0
    if version > known:
        raise database.error(
            f"a newer mqnative wrote it (schema version {version}, this one knows {known}); "
            f"upgrade mqnative, or {OTHER_FOLDER}",
            version=version,
        )
    return int(version)


def _apply(database: Database, number: int, step: Step) -> None:
    with database.transaction() as db:
        ((version,),) = db.execute("PRAGMA user_version")
        if version >= number:  # another process was faster
            return
        step(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number}")


def _create_view(db: sqlite3.Connection, view: str, kind: str, columns: Mapping[str, str]) -> None:
    """A view of one kind: each column is a field of the inputs or, where those lack it, of the value."""
    selected = (
        f"coalesce(json_extract(inputs, '$.{field}'), json_extract(value, '$.{field}')) AS {column}"
        for column, field in columns.items()
    )
    db.execute(
        f"CREATE VIEW {view} AS SELECT id, {', '.join(selected)}, created, elapsed_s, key "
        f"FROM measurements WHERE kind = '{kind}'"
    )


def _same(*fields: str) -> dict[str, str]:
    """Columns that are named as their fields."""
    return dict(zip(fields, fields, strict=True))
