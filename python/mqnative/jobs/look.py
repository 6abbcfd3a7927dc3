"""Who works on a job: its lock tells, also of a process that died without a word."""

from __future__ import annotations

from mqnative.store import Store
from mqnative.store.job_rows import Job
from mqnative.store.job_tables import RUNNING


def lock_name(key: str) -> str:
    """The lock that the process working on a job holds."""
    return f"job {key}"


def look_after(store: Store) -> None:
    """Find the running jobs whose process has died, and say that they are paused."""
    for job in store.jobs.all([RUNNING]):
        settle(store, job)


def settle(store: Store, job: Job) -> Job:
    """The job as it is: one whose process died is paused."""
    if job.state != RUNNING:
        return job
    with store.try_lock(lock_name(job.key)) as free:
        if free:
            store.jobs.interrupted(job.id)
    return store.jobs.get(job.id)
