"""Writes down twice a second how far a job is, and hears what others ask of it.

It is a thread, so that the work waits neither for the store nor for the log, and a pause is heard where no
progress is reported. What it cannot write now it writes later: nothing here ends a job.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mqnative.errors import StoreError
from mqnative.jobs.joblog import JobLog
from mqnative.jobs.progress import JobMonitor
from mqnative.store import Store
from mqnative.store.job_rows import Step

if TYPE_CHECKING:
    from typing_extensions import Self

INTERVAL_S = 0.5
# Costs are written at least so often where nothing changes.
_QUIET_S = 5.0
# A tick that is so late while the processor had nothing to do: the machine slept, or the process was stopped.
_GAP_S = 10.0
_IDLE_SHARE = 0.05
_BUSY_TIMEOUT_S = 0.05


class Recorder:
    """The thread beside a running job; a context manager.

    Args:
        folder: of the store.
        job: its number.
        monitor: what the job reports to.
        log: its log.
        on_wish: called once with ``pause`` or ``cancel``, from this thread.
    """

    def __init__(
        self, folder: Path, job: int, monitor: JobMonitor, log: JobLog, on_wish: Callable[[str], None]
    ) -> None:
        self._folder, self._job, self._monitor, self._log = folder, job, monitor, log
        self._on_wish = on_wish
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"job {job}", daemon=True)
        self._events: list[tuple[str, str]] = []
        self._kept: dict[int, Step] = {}
        self._told = False
        self._wall = self._cpu = 0.0
        self._ticked, self._cpu_then, self._written = time.monotonic(), _cpu_s(), 0.0
        self._clock_then = time.time()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def note(self, kind: str, text: str) -> None:
        """Remember an event."""
        self._events.append((kind, text))
        self._log.line(text)

    def _run(self) -> None:
        store: Store | None = None
        while True:
            last = self._stop.wait(INTERVAL_S)
            try:
                if store is None:
                    store = Store.open(self._folder, timeout_s=_BUSY_TIMEOUT_S, durable=False)
                self._tick(store, last=last)
            except StoreError:
                pass  # locked or full: at the next tick; the work itself tells what must be told
            if last:
                break
        if store is not None:
            store.close()

    def _tick(self, store: Store, *, last: bool) -> None:
        self._count_time()
        if not self._told and not last and (wish := store.jobs.wished(self._job)):
            self._told = True
            self._on_wish(wish)
        steps = self._monitor.changes()
        for step in steps:
            self._log.step(step)
        self._kept.update((step.number, step) for step in steps)
        events, now = list(self._events), time.monotonic()
        if not (self._kept or events or last or now - self._written >= _QUIET_S):
            return
        kept = list(self._kept.values())
        store.jobs.write(self._job, kept, wall_s=self._wall, cpu_s=self._cpu, events=events)
        self._kept, self._wall, self._cpu, self._written = {}, 0.0, 0.0, now
        del self._events[: len(events)]

    def _count_time(self) -> None:
        now, cpu, clock = time.monotonic(), _cpu_s(), time.time()
        passed, busy = now - self._ticked, cpu - self._cpu_then
        idle = passed > _GAP_S and busy < _IDLE_SHARE * passed
        slept = passed if idle else (clock - self._clock_then) - passed
        if abs(slept) > _GAP_S:
            self._monitor.rest(passed if idle else 0.0)
            what = "the machine slept or the job was stopped" if slept > 0 else "the clock was set back"
            self.note("note", f"{what} for {abs(slept):.0f} s")
        self._wall += 0.0 if idle else passed
        self._cpu += max(0.0, busy)
        self._ticked, self._cpu_then, self._clock_then = now, cpu, clock


def _cpu_s() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
