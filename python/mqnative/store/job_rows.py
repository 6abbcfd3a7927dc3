"""A job, its steps and its events, as they are read from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_JSON_COLUMNS = ("argv", "options", "inputs", "versions", "estimate", "error")


@dataclass(frozen=True)
class Job:
    """A long command, from its start to its end over any number of processes.

    Attributes:
        id: its number.
        key: hash of everything that decides its outcome.
        kind: the command's name.
        argv: its arguments as given, without secrets.
        options: the same as typed values, without secrets.
        folder: where it was given, which relative paths start from.
        inputs: parameter -> ``path``, ``size_bytes`` and ``sha256`` of what it reads.
        versions: of the package, upstream and the machine.
        device: what computes.
        state: see `mqnative.store.job_tables`.
        wish: ``pause`` or ``cancel``, which its process has not heard of yet.
        pid: of the process that works or worked on it last.
        attempts: how many processes have worked on it.
        created, started, ended: UTC, ISO 8601.
        wall_s, cpu_s: what it has cost until now, over all attempts.
        estimate: what was expected, see `mqnative.jobs.estimate`.
        error: why it failed, as `MQNativeError.to_dict` says.
    """

    id: int
    key: str
    kind: str
    argv: tuple[str, ...]
    options: Mapping[str, Any]
    folder: str
    inputs: Mapping[str, Any]
    versions: Mapping[str, Any]
    device: str
    state: str
    wish: str | None
    pid: int | None
    attempts: int
    created: str
    started: str | None
    ended: str | None
    wall_s: float
    cpu_s: float
    estimate: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True)
class Step:
    """A step of a job; in one attempt, steps of the same name are one.

    Attributes:
        number: in the order of their beginning.
        attempt: which process.
        name, unit, total, done: as a `Monitor` is told; a total of 0 is not known.
        state: ``running``, ``done``, or ``stopped`` before its end.
        started: UTC, ISO 8601.
        elapsed_s: time spent.
        rate: units per second, lately.
        eta_s: seconds to its end at this rate.
    """

    number: int
    attempt: int
    name: str
    unit: str
    total: int
    done: int
    state: str
    started: str
    elapsed_s: float
    rate: float | None
    eta_s: float | None


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        id: grows with time.
        at: UTC, ISO 8601.
        kind: ``state``, ``note``, ``warning`` or ``error``.
        text: what happened; of ``state`` the new state.
    """

    id: int
    at: str
    kind: str
    text: str


def json_text(value: Any) -> str:
    """A value as a column holds it."""
    # ASCII: names of files may hold bytes that are no UTF-8, which sqlite cannot bind.
    return json.dumps(value, sort_keys=True, allow_nan=False)


def job_of(row: Sequence[Any]) -> Job:
    """The job of a row, its columns in the order of the fields."""
    values = dict(zip(Job.__dataclass_fields__, row, strict=True))
    for name in _JSON_COLUMNS:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    values["argv"] = tuple(values["argv"])
    return Job(**values)
