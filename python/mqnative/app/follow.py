"""A job of another process, shown as if it ran here: the same steps, read from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import click

from mqnative.store.job_rows import Job, Step

if TYPE_CHECKING:
    from typing_extensions import Self

    from mqnative.app.output import ProgressMonitor

_LOOK_S = 0.25


class Follower:
    """Shows the steps of a job that another process works on; a context manager."""

    def __init__(self) -> None:
        self._monitor: ProgressMonitor | None = None
        self._step: int | None = None
        self._done = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._monitor is not None:
            self._monitor.__exit__()

    def show(self, job: Job) -> None:
        """Show how far the job is, and rest for a moment."""
        from mqnative.store import Store

        with Store.open() as store:
            steps = store.jobs.steps(job.id)
        self.show_steps(job, steps)
        time.sleep(_LOOK_S)

    def show_steps(self, job: Job, steps: Sequence[Step]) -> None:
        """Bring what is shown up to these steps, of which only those of its latest process count."""
        from mqnative.app.output import ProgressMonitor

        if self._monitor is None:
            click.echo(f"job {job.id} ({job.kind}) is at work in process {job.pid}", err=True)
            self._monitor = ProgressMonitor(of_job=False).__enter__()
        for step in steps:
            if step.attempt != job.attempts or (self._step is not None and step.number < self._step):
                continue
            if step.number != self._step:
                if self._step is not None and self._done >= 0:
                    self._monitor.finish()
                self._monitor.start(step.name, step.total, step.unit)
                self._step, self._done = step.number, 0
            elif self._done < 0 and step.state == "running":  # a further piece of it
                self._monitor.start(step.name, step.total, step.unit)
                self._done = 0
            if step.done != self._done and self._done >= 0:
                self._monitor.update(step.done)
                self._done = step.done
            if step.state == "done" and self._done >= 0:
                self._monitor.finish()
                self._done = -1


def follow_queue() -> Callable[[list[Job]], None]:
    """Follows one job after the other, the first of those at work: a callback of `mqnative.jobs.queue`."""
    following: dict[int, Follower] = {}

    def look(jobs: list[Job]) -> None:
        for gone in set(following) - {job.id for job in jobs}:
            following.pop(gone).__exit__(None, None, None)
        running = [job for job in jobs if job.state == "running"]
        if not following and running:
            following[running[0].id] = Follower()
        for job in running:
            if job.id in following:
                following[job.id].show(job)
                return
        time.sleep(_LOOK_S)

    return look
