"""Looking at jobs and steering them, from any process: for the command line and for user interfaces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from mqnative.errors import JobStateError
from mqnative.jobs.joblog import log_path
from mqnative.jobs.launch import launch
from mqnative.jobs.look import look_after, settle
from mqnative.store import Store
from mqnative.store.job_rows import Event, Job, Step
from mqnative.store.job_tables import CANCELLED, DONE, QUEUED, RUNNING

_LOOK_S = 0.25
# How long a job may take to hear that it shall stop: a pass of a large model, at the most.
_STOP_S = 60.0


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    Attributes:
        job: the job.
        steps: its steps, in order, of all attempts.
        events: what happened to it, all or since the snapshot before.
    """

    job: Job
    steps: tuple[Step, ...]
    events: tuple[Event, ...]

    @property
    def step(self) -> Step | None:
        """The step it is at, or was at last."""
        return self.steps[-1] if self.steps else None


def list_jobs(states: Sequence[str] = ()) -> list[Job]:
    """Jobs, oldest first, each with the state it really is in.

    Args:
        states: only these; see `mqnative.store.job_tables.STATES`.

    Raises:
        StoreError: the store cannot be used; so do all functions here.
    """
    with Store.open() as store:
        look_after(store)
        return store.jobs.all(states)


def show(job: int) -> Snapshot:
    """A job with its steps and events.

    Raises:
        JobNotFoundError: there is none of this number; so do all functions here that take one.
    """
    with Store.open() as store:
        return _snapshot(store, job, 0)


def events(job: int, after: int = 0) -> list[Event]:
    """What happened to a job since event ``after``."""
    with Store.open() as store:
        store.jobs.get(job)
        return store.jobs.events(job, after)


def watch(job: int, *, interval_s: float = _LOOK_S) -> Iterator[Snapshot]:
    """Snapshots of a job whenever it has changed, the first at once, until no process works on it.

    A job that was just started is waited for; one that waits in the queue is watched until it is over.
    """
    with Store.open() as store:
        seen: Snapshot | None = None
        after = 0
        while True:
            now = _snapshot(store, job, after)
            if seen is None or now.events or (now.job, now.steps) != (seen.job, seen.steps):
                yield now
            seen, after = now, now.events[-1].id if now.events else after
            if now.job.state not in (RUNNING, QUEUED):
                return
            time.sleep(interval_s)


def pause(job: int, *, wait_s: float = _STOP_S) -> Job:
    """Stop a job so that it can go on later.

    Args:
        job: its number.
        wait_s: how long to wait until it has stopped; 0 only asks.

    Returns:
        The job as it is then.

    Raises:
        JobStateError: it is over.
    """
    return _stop(job, "pause", wait_s)


def cancel(job: int, *, wait_s: float = _STOP_S) -> Job:
    """End a job for good; what it measured is kept, and its command given again takes it up.

    Arguments and errors as `pause`.
    """
    return _stop(job, "cancel", wait_s)


def enqueue(job: int) -> Job:
    """Put a job that is paused, failed or cancelled into the queue.

    Raises:
        JobStateError: it is running, or done.
    """
    with Store.open() as store:
        settle(store, store.jobs.get(job))
        store.jobs.move(job, QUEUED)
        return store.jobs.get(job)


def resume(job: int, *, token: str | None = None) -> Job:
    """Let a job go on in a process of its own, which outlives this one.

    Args:
        job: its number.
        token: for the hub; never stored.

    Raises:
        JobStateError: it is running, or done.
    """
    with Store.open() as store:
        found = _resumable(store, job)
        if found.state != QUEUED:
            store.jobs.move(job, QUEUED)
        launch(["resume", str(job), "--logged"], log_path(store.folder, job), found.folder, token)
        return store.jobs.get(job)


def resumable(job: int) -> Job:
    """A job that can go on.

    Raises:
        JobStateError: it is running, or done.
    """
    with Store.open() as store:
        return _resumable(store, job)


def prune(
    jobs: Sequence[int] = (),
    *,
    states: Sequence[str] = (DONE, CANCELLED),
    older_than: timedelta = timedelta(0),
    dry_run: bool = False,
) -> list[Job]:
    """Forget jobs and their logs; measurements and output files stay.

    Args:
        jobs: these, whatever their state; none: all of ``states``.
        states: which.
        older_than: how long ago they ended at least.
        dry_run: forget nothing.

    Returns:
        The jobs that are forgotten.

    Raises:
        JobStateError: one of ``jobs`` is running.
    """
    latest = (datetime.now(timezone.utc) - older_than).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    with Store.open() as store:
        look_after(store)
        if jobs:
            found = [store.jobs.get(job) for job in jobs]
        else:
            found = [j for j in store.jobs.all(states) if (j.ended or j.created) <= latest]
        if not dry_run:
            store.jobs.remove([job.id for job in found])
            for job in found:
                log_path(store.folder, job.id).unlink(missing_ok=True)
    return found


def _snapshot(store: Store, job: int, after: int) -> Snapshot:
    found = settle(store, store.jobs.get(job))
    return Snapshot(found, tuple(store.jobs.steps(job)), tuple(store.jobs.events(job, after)))


def _resumable(store: Store, job: int) -> Job:
    found = settle(store, store.jobs.get(job))
    if found.state in (RUNNING, DONE):
        way = f"running already; follow it with `mqnative jobs attach {job}`"
        why = way if found.state == RUNNING else "done; give its command again for a new job"
        raise JobStateError(f"job {job} is {why}", job=job, state=found.state)
    return found


def _stop(job: int, wish: str, wait_s: float) -> Job:
    with Store.open() as store:
        settle(store, store.jobs.get(job))
        found = store.jobs.wish(job, wish)
        deadline = time.monotonic() + wait_s
        while found.state == RUNNING and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            found = settle(store, store.jobs.get(job))
        if wish == "cancel" and found.state != CANCELLED and found.state not in (RUNNING, DONE):
            # It died, failed or paused before it heard.
            found = store.jobs.wish(job, wish)
        return found
