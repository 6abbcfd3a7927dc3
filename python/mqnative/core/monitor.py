"""Progress and cancellation of long calls.

A monitor is told how far a step has come, at most ten times a second. It stops the step by raising; Ctrl-C
does the same by itself.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Protocol

from mqnative.errors import OperationCancelled


class Monitor(Protocol):
    """What a long call reports to."""

    def start(self, step: str, total: int, unit: str) -> None:
        """A step of ``total`` units begins; ``unit`` is a plural noun (``chunks``, ``weights``)."""

    def update(self, done: int) -> None:
        """``done`` units of the step are finished; raising stops it."""

    def finish(self) -> None:
        """The step is over."""


class NullMonitor:
    """Reports nothing."""

    def start(self, step: str, total: int, unit: str) -> None:
        """Nothing."""

    def update(self, done: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


@dataclass
class CancelToken:
    """A flag that another thread raises to stop the work of a monitor that checks it."""

    _event: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    def check(self, done: int = 0, total: int = 0) -> None:
        """Raise OperationCancelled once cancel() was called."""
        if self._event.is_set():
            raise OperationCancelled(f"cancelled after {done} of {total}", done=done, total=total)


@dataclass
class CancellableMonitor:
    """Checks a token at every report and passes the report on."""

    token: CancelToken
    inner: Monitor = field(default_factory=NullMonitor)
    _total: int = 0

    def start(self, step: str, total: int, unit: str) -> None:
        """Pass on."""
        self._total = total
        self.token.check(0, total)
        self.inner.start(step, total, unit)

    def update(self, done: int) -> None:
        """Check, then pass on."""
        self.token.check(done, self._total)
        self.inner.update(done)

    def finish(self) -> None:
        """Pass on."""
        self.inner.finish()


NULL_MONITOR = NullMonitor()
