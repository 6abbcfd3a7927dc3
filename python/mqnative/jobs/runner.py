"""One runner per job: whoever holds its lock works on it, and writes down how that ended."""

from __future__ import annotations

import _thread
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mqnative.errors import JobStateError, MQNativeError, OperationCancelled, StoreError
from mqnative.jobs.estimate import Plan, corrections
from mqnative.jobs.inputs import hashed
from mqnative.jobs.joblog import JobLog, log_path
from mqnative.jobs.look import lock_name
from mqnative.jobs.progress import JobMonitor
from mqnative.jobs.recorder import Recorder
from mqnative.jobs.secrets import redacted, redacted_values
from mqnative.store import Store
from mqnative.store.job_rows import Job
from mqnative.store.job_tables import CANCELLED, DONE, FAILED, PAUSED

if TYPE_CHECKING:
    from typing_extensions import Self


_PAUSE_S = 0.05
_LOOKS = 3


@dataclass(frozen=True)
class Asked:
    """A command as a job.

    Attributes:
        key: hash of everything that decides its outcome.
        kind, argv, options, folder, inputs, versions, device: as of `Job`.
        secrets: values that must not be written.
    """

    key: str
    kind: str
    argv: tuple[str, ...]
    options: Mapping[str, Any]
    folder: str
    inputs: Mapping[str, Any]
    versions: Mapping[str, Any]
    device: str = "cpu"
    secrets: tuple[str, ...] = ()

    def job(self, store: Store) -> Job:
        """The live job of this command; a new one is queued."""
        return store.jobs.add(
            self.key,
            self.kind,
            self.argv,
            self.options,
            self.folder,
            inputs=self.inputs,
            versions=self.versions,
            device=self.device,
        )


class Runner:
    """Works on a job: takes its lock, records it, and says how it ended; a context manager.

    Leaving the block decides the state: its end is ``done``, an interruption ``paused`` (``cancelled`` where
    that was wished), anything else ``failed``. A process that dies leaves ``running`` behind, which the next
    look finds to be untrue.

    Args:
        asked: the command.
        folder: of the store; None: the usual one.
        only: the number of the job to work on; None: the live one of this command, or a new one.
        on_wait: called with the job while another process works on it, again and again; returns after a
            short time.

    Attributes:
        job: the job, once entered.
        monitor: what its work reports to.
    """

    def __init__(
        self,
        asked: Asked,
        folder: Path | None = None,
        *,
        only: int | None = None,
        on_wait: Callable[[Job], None] | None = None,
    ) -> None:
        self._asked = asked
        self._folder = folder
        self._only = only
        self._on_wait = on_wait
        self._stack = ExitStack()
        self._wish: str | None = None
        self._plan: Plan | None = None
        self._machine = ""
        self._inputs: dict[str, Any] = dict(asked.inputs)
        self.job: Job
        self.monitor: JobMonitor

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            store = stack.enter_context(Store.open(self._folder))
            self._store = store
            self._take_lock(stack)
            job = self._asked.job(store) if self._only is None else store.jobs.get(self._only)
            self.job = store.jobs.begin(job.id, os.getpid())
            self.log = JobLog(log_path(store.folder, job.id), self._asked.secrets)
            self.log.line(f"job {job.id}, attempt {self.job.attempts}: mqnative {' '.join(_words(job))}")
            steps = store.jobs.steps(job.id)
            self.monitor = JobMonitor(self.job.attempts, max((s.number for s in steps), default=0) + 1)
            self._recorder = Recorder(store.folder, job.id, self.monitor, self.log, self._wished)
            self._stack = stack.pop_all()
        self._recorder.__enter__()
        return self

    @property
    def plan(self) -> Plan | None:
        """What is expected of the job."""
        return self._plan

    def hash_inputs(self) -> None:
        """Write down what the job reads, by hash: models are read once, and remembered."""
        with suppress(StoreError):
            self._inputs = hashed(self._store, self._inputs, self.monitor)
            self._store.jobs.describe(self.job.id, inputs=self._inputs)

    def add_input(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write down what the job reads besides, such as a model that its command has fetched.

        Args:
            name: the parameter that led to it.
            facts: as `mqnative.jobs.inputs` finds them.
        """
        self._inputs = {**self._inputs, name: [*self._inputs.get(name, ()), facts]}
        self.hash_inputs()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self.monitor.stop()
            self._recorder.__exit__()
            state, told = self._ending(error)
            if state == DONE:
                self._learn()
            # On a full disk the next look finds that nobody works on it; what went wrong must not be hidden.
            with suppress(JobStateError, StoreError):
                self._store.jobs.end(self.job.id, state, told)
            self.log.line(state if told is None else f"{state}: {told['message']}")

    def expect(self, plan: Plan, machine: str) -> None:
        """Keep what is expected of the job, and learn from how it ends."""
        self._plan, self._machine = plan, machine
        with suppress(StoreError):
            self._store.jobs.describe(self.job.id, estimate=plan.to_dict())

    def _learn(self) -> None:
        if self._plan is not None:
            with suppress(StoreError):
                measured = corrections(self._plan, self._store.jobs.steps(self.job.id))
                self._store.unit_costs.learn(self._machine, measured)

    def note(self, kind: str, text: str) -> None:
        """An event of the job."""
        self._recorder.note(kind, redacted(text, *self._asked.secrets))

    def _take_lock(self, stack: ExitStack) -> None:
        name, waited = lock_name(self._asked.key), None
        for tries in itertools.count():
            with ExitStack() as attempt:
                if attempt.enter_context(self._store.try_lock(name)):
                    stack.push(attempt.pop_all())
                    break
            # One who only looks whether the job's process lives holds the lock for a moment.
            if tries >= _LOOKS:
                waited = self._store.jobs.live(self._asked.key) or waited
                if waited is not None and self._on_wait is not None:
                    self._on_wait(waited)
            time.sleep(_PAUSE_S)
        now = None if waited is None else self._store.jobs.get(waited.id)
        if now is None or now.state not in (PAUSED, CANCELLED) or self._store.jobs.was_interrupted(now.id):
            return
        # It was stopped by somebody's word, which means this command too.
        raise OperationCancelled(f"job {now.id} was {now.state} elsewhere")

    def _wished(self, wish: str) -> None:
        self._wish = wish
        interrupt_main_thread()

    def _ending(self, error: BaseException | None) -> tuple[str, dict[str, Any] | None]:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            return DONE, None
        if isinstance(error, (KeyboardInterrupt, OperationCancelled)):
            return (CANCELLED if self._wish == "cancel" else PAUSED), None
        if isinstance(error, MQNativeError):
            return FAILED, redacted_values(error.to_dict(), *self._asked.secrets)
        text = getattr(error, "message", None) or str(error)
        told = {"error": type(error).__name__, "message": text}
        return FAILED, redacted_values(told, *self._asked.secrets)


def interrupt_main_thread() -> None:
    """Raise KeyboardInterrupt in the main thread, also where it waits for the system."""
    handled = (n for n in (signal.SIGTERM, signal.SIGINT) if callable(signal.getsignal(n)))
    number = next(handled, signal.SIGINT)
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None or not callable(signal.getsignal(number)):
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(main, number)


def _words(job: Job) -> tuple[str, ...]:
    return job.kind, *job.argv
