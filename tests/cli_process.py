"""The installed command line as people run it: a process with arguments, two streams and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "mqnative"]
# Ends what hangs; a busy machine may take minutes for what takes seconds.
TIMEOUT_S = 500.0

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Finished:
    """A run of the command: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one strict JSON document: NaN and Infinity are not JSON."""
        return json.loads(self.out, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def environment(**extra: str) -> dict[str, str]:
    """The caller's environment without what changes how output looks."""
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    return kept | {"TERM": "xterm-256color"} | extra


def mqnative(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
) -> Finished:
    """Run ``mqnative ARGUMENTS`` to its end."""
    done = subprocess.run(
        [*command, *map(_argument, arguments)],
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Finished(done.returncode, _text(done.stdout), _text(done.stderr))


def succeed(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """Run a command that must end well."""
    done = mqnative(*arguments, cwd=cwd, env=env)
    assert done.code == DONE, done.err
    return done


def _argument(value: object) -> str | bytes:
    return value if isinstance(value, bytes) else str(value)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="surrogateescape")


class Running:
    """A command at work, its standard error a terminal, its standard output a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.shown = ""

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds; what is shown on the terminal meanwhile goes to ``shown``."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, f"ended early with {self.process.returncode}: {self.shown}"
            assert time.monotonic() < deadline, self.shown
            self.read()
            time.sleep(0.005)

    def read(self) -> None:
        """Take what the terminal has."""
        try:
            while chunk := os.read(self._terminal, 65536):
                self.shown += chunk.decode("utf-8", errors="replace")
        except BlockingIOError:
            return  # nothing now
        except OSError:
            return  # the other end is closed

    def send(self, number: signal.Signals) -> Finished:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> Finished:
        """Wait for the end."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self.read()  # a full terminal would block the command
            time.sleep(0.005)
        self.read()
        return Finished(self.process.returncode, _text(self.process.stdout.read()), self.shown)


@contextmanager
def started(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start ``mqnative ARGUMENTS`` with a terminal for its progress."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    # A shell's background job has SIGINT ignored, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, *map(_argument, arguments)],
        cwd=cwd,
        env=environment(COLUMNS="100", **(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    try:
        yield Running(process, ours)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        os.close(ours)
