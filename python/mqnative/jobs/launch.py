"""Processes of their own for jobs: they outlive the one that asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mqnative.errors import JobError
from mqnative.jobs.secrets import TOKEN_VARIABLE


def launch(arguments: Sequence[str], log: Path, folder: str | Path, token: str | None = None) -> int:
    """Start ``mqnative jobs ARGUMENTS`` and let it be; returns its process number. Arguments as `spawn`."""
    process = spawn(arguments, log, folder, token)
    # It is its own master; the interpreter need not warn that nobody waits for it.
    process.returncode = 0
    return process.pid


def spawn(
    arguments: Sequence[str], log: Path, folder: str | Path, token: str | None = None
) -> subprocess.Popen[bytes]:
    """Start ``mqnative jobs ARGUMENTS`` in a session of its own.

    Args:
        arguments: what to do.
        log: takes what it prints.
        folder: to work in.
        token: handed over in the environment, where no list of processes shows it.

    Raises:
        JobError: it cannot be started.
    """
    environment = dict(os.environ)
    if token:
        environment[TOKEN_VARIABLE] = token
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "mqnative", "jobs", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise JobError(f"cannot start in the background in {folder}: {error.strerror}") from error
