"""One readable log per job: when each step began and ended, what happened, what it said at the end."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from pathlib import Path

from mqnative.jobs.secrets import redacted
from mqnative.store.job_rows import Step

FOLDER = "jobs"
_PROGRESS_S = 30.0


def log_path(home: Path, job: int) -> Path:
    """Where the log of a job lies."""
    return home / FOLDER / f"{job}.log"


class JobLog:
    """Appends lines to a job's log; a log that cannot be written ends nothing.

    Args:
        path: the file.
        secrets: values to leave out.
    """

    def __init__(self, path: Path, secrets: tuple[str, ...] = ()) -> None:
        self._path = path
        self._secrets = secrets
        self._known: dict[int, str] = {}
        self._shown = 0.0

    def line(self, text: str) -> None:
        """A line with the local time before it."""
        clean = redacted(text, *self._secrets)
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{now}  {clean}\n")

    def step(self, step: Step) -> None:
        """Where a step begins and ends, and every half minute between."""
        before = self._known.get(step.number)
        self._known[step.number] = step.state
        if step.state == "running":
            if before == "running" and time.monotonic() - self._shown < _PROGRESS_S:
                return
            self._shown = time.monotonic()
            left = "" if step.eta_s is None else f", {step.eta_s:.0f} s left"
            self.line(f"{step.name}: {amount(step)}{left}")
        else:
            ending = "" if step.state == "done" else ", stopped"
            self.line(f"{step.name}: {amount(step)} in {step.elapsed_s:.1f} s{ending}")


def amount(step: Step) -> str:
    """``12/40 chunks``; without a total ``12 chunks``."""
    return f"{step.done:,}/{step.total:,} {step.unit}" if step.total else f"{step.done:,} {step.unit}"
