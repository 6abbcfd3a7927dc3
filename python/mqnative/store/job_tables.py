"""The tables of jobs, and what they refuse: a state that does not follow from the one before."""

from __future__ import annotations

import sqlite3

QUEUED, RUNNING, PAUSED = "queued", "running", "paused"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, PAUSED, DONE, FAILED, CANCELLED)

# What a job may become. What is done stays done: the same command is a new job then.
NEXT_STATES = {
    # Failed: its command refused its arguments, or could not be started.
    QUEUED: (RUNNING, PAUSED, FAILED, CANCELLED),
    RUNNING: (PAUSED, DONE, FAILED, CANCELLED),
    PAUSED: (QUEUED, RUNNING, CANCELLED),
    FAILED: (QUEUED, RUNNING, CANCELLED),
    CANCELLED: (QUEUED, RUNNING),
    DONE: (),
}

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


def m004_jobs(db: sqlite3.Connection) -> None:
    """Jobs, their steps and what happened to them; what a unit of work costs on a machine."""
    # Written out here, since a step that was released must not change with the code around it.
    db.execute(
        f"""
        CREATE TABLE jobs (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          key TEXT NOT NULL CHECK (length(key) = 64),
          kind TEXT NOT NULL,
          argv TEXT NOT NULL CHECK (json_valid(argv)),
          options TEXT NOT NULL CHECK (json_valid(options)),
          folder TEXT NOT NULL,
          inputs TEXT NOT NULL DEFAULT '{{}}' CHECK (json_valid(inputs)),
          versions TEXT NOT NULL DEFAULT '{{}}' CHECK (json_valid(versions)),
          device TEXT NOT NULL DEFAULT 'cpu',
          state TEXT NOT NULL
            CHECK (state IN ('queued', 'running', 'paused', 'done', 'failed', 'cancelled')),
          wish TEXT CHECK (wish IN ('pause', 'cancel')),
          pid INTEGER,
          attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
          created TEXT NOT NULL DEFAULT ({_NOW}),
          started TEXT,
          ended TEXT,
          wall_s REAL NOT NULL DEFAULT 0 CHECK (wall_s >= 0),
          cpu_s REAL NOT NULL DEFAULT 0 CHECK (cpu_s >= 0),
          estimate TEXT CHECK (estimate IS NULL OR json_valid(estimate)),
          error TEXT CHECK (error IS NULL OR json_valid(error))
        )
        """
    )
    # A command that is not done yet is one job, however often it is given.
    db.execute("CREATE UNIQUE INDEX live_jobs_by_key ON jobs (key) WHERE state <> 'done'")
    db.execute("CREATE INDEX jobs_by_state ON jobs (state)")
    db.execute(
        """
        CREATE TABLE steps (
          job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
          number INTEGER NOT NULL,
          attempt INTEGER NOT NULL,
          name TEXT NOT NULL,
          unit TEXT NOT NULL,
          total INTEGER NOT NULL CHECK (total >= 0),
          done INTEGER NOT NULL CHECK (done >= 0),
          state TEXT NOT NULL CHECK (state IN ('running', 'done', 'stopped')),
          started TEXT NOT NULL,
          elapsed_s REAL NOT NULL CHECK (elapsed_s >= 0),
          rate REAL,
          eta_s REAL,
          PRIMARY KEY (job, number)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        f"""
        CREATE TABLE events (
          id INTEGER PRIMARY KEY,
          job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
          at TEXT NOT NULL DEFAULT ({_NOW}),
          kind TEXT NOT NULL CHECK (kind IN ('state', 'note', 'warning', 'error')),
          text TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX events_by_job ON events (job)")
    db.execute(
        f"""
        CREATE TABLE unit_costs (
          machine TEXT NOT NULL,
          name TEXT NOT NULL,
          seconds REAL NOT NULL CHECK (seconds >= 0),
          work REAL NOT NULL CHECK (work > 0),
          updated TEXT NOT NULL DEFAULT ({_NOW}),
          PRIMARY KEY (machine, name)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TRIGGER jobs_begin BEFORE INSERT ON jobs WHEN NEW.state NOT IN ('queued', 'running')
        BEGIN SELECT RAISE(ABORT, 'a job begins queued or running'); END
        """
    )
    db.execute(
        """
        CREATE TRIGGER jobs_follow BEFORE UPDATE OF state ON jobs
        WHEN OLD.state <> NEW.state AND OLD.state || ' ' || NEW.state NOT IN (
          'queued running', 'queued paused', 'queued failed', 'queued cancelled',
          'running paused', 'running done', 'running failed', 'running cancelled',
          'paused queued', 'paused running', 'paused cancelled',
          'failed queued', 'failed running', 'failed cancelled',
          'cancelled queued', 'cancelled running')
        BEGIN SELECT RAISE(ABORT, 'this state of a job does not follow from the one before'); END
        """
    )
    for name, when, condition in (
        ("jobs_tell_begin", "INSERT", ""),
        ("jobs_tell", "UPDATE OF state", "WHEN OLD.state <> NEW.state"),
    ):
        db.execute(
            f"CREATE TRIGGER {name} AFTER {when} ON jobs {condition} "
            "BEGIN INSERT INTO events (job, kind, text) VALUES (NEW.id, 'state', NEW.state); END"
        )
