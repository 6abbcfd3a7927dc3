"""Models known by sight: the identity of files that have not changed since they were hashed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mqnative.store.connection import Database


def file_stamp(paths: Sequence[Path]) -> str | None:
    """What changes when a file does: where it really lies, size, times, inode and device, as JSON.

    Returns:
        None if a file is missing.
    """
    try:
        return json.dumps([_facts(path) for path in paths])
    except OSError:
        return None


def remember(database: Database, paths: Sequence[Path], identity: str, stamp: str | None) -> None:
    """Remember the identity of a model whose files are ``paths``; see `Store.remember_identity`."""
    now = file_stamp(paths)
    if now is None or (stamp is not None and stamp != now):
        return
    # JSON may hold lone surrogates, which sqlite cannot bind; escaped they are the same JSON.
    text = identity.encode("utf-8", "backslashreplace").decode("utf-8")
    with database.transaction() as db:
        db.execute(
            "INSERT INTO remembered_models (path, stamp, identity) VALUES (?, ?, ?) "
            "ON CONFLICT (path) DO UPDATE "
            "SET stamp = excluded.stamp, identity = excluded.identity, created = excluded.created",
            (_name(paths[0]), now, text),
        )


def recall(database: Database, path: Path) -> str | None:
    """The identity remembered for the model at ``path``, if none of its files has changed."""
    found = database.execute("SELECT stamp, identity FROM remembered_models WHERE path = ?", (_name(path),))
    for stamp, identity in found:
        if file_stamp([Path(facts[0]) for facts in json.loads(stamp)]) == stamp:
            return str(identity)
    return None


def _facts(path: Path) -> list[str | int]:
    s = path.stat()
    where = [str(path.absolute()), os.path.realpath(path)]
    return [*where, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev]


def _name(path: Path) -> bytes:
    # Links are not resolved here: the other files of a split model are found beside the link, and two
    # revisions in a hub cache may share their first file only.
    return os.fsencode(path.absolute())
