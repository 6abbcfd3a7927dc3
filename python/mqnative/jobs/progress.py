"""How far a job is: what its monitor was told, as steps with a rate and the time left."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from mqnative.store.job_rows import Step

# The rate is that of the last so many seconds: passes from different layers take different times.
_WINDOW_S = 60.0


@dataclass
class _Live:
    """A step under way; pieces of the same name follow each other.

    Attributes:
        step: as it was when its piece began.
        total, done: of this piece.
        since: when the piece began.
        seen: (time, done of the whole step) of the last minute.
    """

    step: Step
    total: int
    done: int
    since: float
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def now(self, at: float, state: str) -> Step:
        done = self.step.done + self.done
        total = self.step.total + self.total if self.total else 0
        rate = self._rate(at, done)
        left = max(0, total - done)
        eta = left / rate if rate and total and state == "running" else None
        elapsed = self.step.elapsed_s + at - self.since
        return replace(
            self.step, total=total, done=done, state=state, elapsed_s=elapsed, rate=rate, eta_s=eta
        )

    def _rate(self, at: float, done: int) -> float | None:
        since, before = self.seen[0] if self.seen else (self.since, self.step.done)
        return (done - before) / (at - since) if at > since and done > before else None


class JobMonitor:
    """A `Monitor` that remembers; another thread asks for what has changed.

    Args:
        attempt: which process of the job this is.
        first: the number of the first step.
        clock: seconds that only grow and stand still while the machine sleeps.
    """

    def __init__(self, attempt: int, first: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempt = attempt
        self._next = first
        self._clock = clock
        self._guard = threading.Lock()
        self._finished: dict[str, Step] = {}
        self._changed: dict[int, Step] = {}
        self._live: _Live | None = None
        self._stale = False

    def start(self, step: str, total: int, unit: str) -> None:
        """A step of ``total`` units begins; a further piece, if it was there in this attempt."""
        with self._guard:
            self._close("done")
            before = self._finished.get(step)
            if before is None or before.unit != unit:
                at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
                before = Step(self._next, self._attempt, step, unit, 0, 0, "running", at, 0.0, None, None)
                self._next += 1
            self._live = _Live(before, max(0, total), 0, self._clock())
            self._stale = True

    def update(self, done: int) -> None:
        """``done`` units of this piece are finished."""
        with self._guard:
            if self._live is not None:
                self._live.done = max(0, done)
                self._stale = True

    def finish(self) -> None:
        """The piece is over."""
        with self._guard:
            if self._live is not None:
                self._live.done = max(self._live.done, self._live.total)
            self._close("done")

    def stop(self) -> None:
        """Nothing more comes; a step under way was stopped."""
        with self._guard:
            self._close("stopped")

    def rest(self, gap_s: float = 0.0) -> None:
        """Time went by in which nothing could be done: the rate is taken anew.

        Args:
            gap_s: how much of it the clock has counted; it is no part of the step's time.
        """
        with self._guard:
            if self._live is not None:
                self._live.since = min(self._clock(), self._live.since + gap_s)
                self._live.seen = deque([(self._clock(), self._live.step.done + self._live.done)])

    def changes(self) -> list[Step]:
        """The steps that have changed since the last call, in order."""
        with self._guard:
            if self._live is not None and self._stale:
                now = self._clock()
                step = self._live.now(now, "running")
                self._changed[step.number] = step
                self._sample(self._live, now, step.done)
            changed = [self._changed[number] for number in sorted(self._changed)]
            self._changed, self._stale = {}, False
            return changed

    @staticmethod
    def _sample(live: _Live, now: float, done: int) -> None:
        live.seen.append((now, done))
        while len(live.seen) > 2 and live.seen[0][0] < now - _WINDOW_S:
            live.seen.popleft()

    def _close(self, state: str) -> None:
        if self._live is None:
            return
        step = self._live.now(self._clock(), state)
        whole = step.done / step.elapsed_s if step.elapsed_s > 0 and step.done else None
        step = replace(step, rate=whole, eta_s=None)
        self._finished[step.name] = self._changed[step.number] = step
        self._live = None
