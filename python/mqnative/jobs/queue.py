"""The queue: jobs in order, one at a time on each device, each in a process of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mqnative.jobs.joblog import FOLDER, log_path
from mqnative.jobs.launch import launch, spawn
from mqnative.jobs.look import look_after
from mqnative.store import Store
from mqnative.store.job_rows import Job
from mqnative.store.job_tables import QUEUED, RUNNING

_LOG = "queue.log"
_LOOK_S = 0.25


def run_in_background(device: str | None = None) -> Path:
    """Work the queue off in a process of its own; returns its log."""
    with Store.open() as store:
        folder = store.folder
    log = folder / FOLDER / _LOG
    launch(["run", *(() if device is None else ("--device", device))], log, folder)
    return log


def run_queue(device: str | None = None, on_look: Callable[[list[Job]], None] | None = None) -> Iterator[Job]:
    """Run the queued jobs until none is left; an interruption pauses those at work.

    A device where any job runs is busy, whoever started that one.

    Args:
        device: only jobs of this one.
        on_look: called again and again with the jobs at work; returns after a short time.

    Yields:
        Each job when it has ended, whatever its state.
    """
    with Store.open() as store:
        queue = _Queue(store, device)
        try:
            while queue.start_what_can() or queue.at_work:
                (on_look or _rest)([store.jobs.get(job) for job in queue.at_work])
                yield from queue.ended()
        finally:
            queue.close()


def _rest(_jobs: list[Job]) -> None:
    time.sleep(_LOOK_S)


@dataclass
class _Queue:
    """The jobs that this process has started.

    Attributes:
        at_work: job -> its process.
    """

    store: Store
    device: str | None
    at_work: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _held: dict[int, ExitStack] = field(default_factory=dict)

    def start_what_can(self) -> bool:
        """Start the first job of every device that is idle; whether any job still waits."""
        look_after(self.store)
        waiting = [j for j in self.store.jobs.all([QUEUED], device=self.device) if j.id not in self.at_work]
        busy = {j.device for j in self.store.jobs.all([RUNNING])}
        busy |= {self.store.jobs.get(job).device for job in self.at_work}
        for job in waiting:
            if job.device not in busy:
                busy.add(job.device)
                self._start(job)
        return bool(waiting)

    def ended(self) -> Iterator[Job]:
        """The jobs whose process has ended since the last call."""
        for job, process in list(self.at_work.items()):
            if process.poll() is not None:
                del self.at_work[job]
                self._held.pop(job).close()
                look_after(self.store)
                if self.store.jobs.get(job).state == QUEUED:
                    message = "it could not be started; its log says why"
                    self.store.jobs.end(job, "failed", {"error": "JobError", "message": message})
                yield self.store.jobs.get(job)

    def close(self) -> None:
        """Pause what is at work."""
        for process in self.at_work.values():
            process.terminate()  # which a job hears as a pause
        for job, process in self.at_work.items():
            process.wait()
            self._held.pop(job).close()
        self.at_work.clear()

    def _start(self, job: Job) -> None:
        with ExitStack() as held:
            # Another process that works the queue off has the device while its job runs.
            if held.enter_context(self.store.try_lock(f"queue {job.device}")):
                arguments = ["resume", str(job.id), "--logged"]
                log = log_path(self.store.folder, job.id)
                self.at_work[job.id] = spawn(arguments, log, job.folder)
                self._held[job.id] = held.pop_all()
