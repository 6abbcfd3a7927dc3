"""Work is started as a command in a process of its own: the page only asks, and reads what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mqnative.errors import JobError

_PLAN_TIMEOUT_S = 120.0


async def plan(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """What a command will cost; nothing of it is run.

    Args:
        arguments: kind first, then options; see `mqnative.app.views.job_forms.arguments`.
        folder: to work in.

    Raises:
        JobError: the command is wrong, or cannot be planned; what it said is the message.
    """
    return await _command([arguments[0], "--plan", "--json", *arguments[1:]], folder)


async def start(arguments: Sequence[str], folder: Path, *, queue: bool = False) -> int:
    """Start a command as a job of its own process, which outlives this one; returns its number.

    Raises:
        JobError: as `plan`.
    """
    how = "--queue" if queue else "--detach"
    found = await _command([arguments[0], how, "--json", *arguments[1:]], folder)
    return int(found["job"])


async def dry_fetch(model: str, folder: Path) -> dict[str, Any]:
    """What downloading a repository of the hub would fetch.

    Raises:
        JobError: as `plan`.
    """
    return await _command(["fetch", "--dry-run", "--json", "--", model], folder)


async def fetched(model: str, folder: Path) -> Path:
    """Where a repository that was downloaded lies; the network is not asked.

    Raises:
        JobError: as `plan`.
    """
    found = await _command(["fetch", "--offline", "--json", "--", model], folder)
    return Path(str(found["path"]))


async def _command(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mqnative", *arguments, cwd=folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), _PLAN_TIMEOUT_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        raise JobError("the command did not answer within two minutes; try it in a terminal") from None
    try:
        found = json.loads(out.decode("utf-8", "replace"))
    except ValueError:
        found = {}
    if process.returncode == 0 and isinstance(found, dict):
        return found
    message = found.get("message") if isinstance(found, dict) else None
    raise JobError(str(message or _last_line(err) or "the command failed without a word"))


def _last_line(err: bytes) -> str:
    lines = err.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("error: ").removeprefix("Error: ") if lines else ""
