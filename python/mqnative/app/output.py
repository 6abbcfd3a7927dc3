"""What people see: tables on standard output, progress on standard error, or one JSON object."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, cast

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mqnative.app.command_job import command_job
from mqnative.core.monitor import NULL_MONITOR

if TYPE_CHECKING:
    from rich.progress import Progress
    from typing_extensions import Self

    from mqnative.core.monitor import Monitor

_PLAIN_INTERVAL_S = 5.0
# Of what is no terminal: wide enough for any path; tables are no wider than they need.
_PIPE_WIDTH = 500
_TRAILING_BLANKS = re.compile(r" +(?=\n|$)")


class _Trimmed:
    """Standard output without the blanks that pad the lines of a table."""

    def write(self, text: str) -> int:
        sys.stdout.write(_TRAILING_BLANKS.sub("", text))
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


def console() -> Console:
    """Standard output; wide enough not to break numbers when it is not a terminal. Names are no markup."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(
        file=cast(IO[str], _Trimmed()),
        width=_PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=True,
    )


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; NaN and infinity, which JSON does not have, become null."""
    click.echo(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def size_text(n_bytes: float) -> str:
    """Bytes in the unit people read: ``5.34 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.2f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} TB"


def facts_table(title: str, facts: Mapping[str, object]) -> Group:
    """A title, which may be longer than the table is wide, and two columns: a name, what it is."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return Group(Text(title, style="italic"), table)


def with_error(value: float, se: float, digits: int = 4) -> str:
    """``16.6593 ± 0.0312``."""
    return f"{value:.{digits}f} ± {se:.{digits}f}"


class ProgressMonitor:
    """Shows steps on standard error: bars on a terminal, a line now and then elsewhere.

    With the first one of a long command its job begins, and is told the same.

    Args:
        of_job: whether the steps are those of the running command's job.
    """

    def __init__(self, *, of_job: bool = True) -> None:
        self._bars = _bars() if sys.stderr.isatty() else None
        self._command = command_job() if of_job else None
        self._inner: Monitor = NULL_MONITOR
        self._quiet = False
        self._task: Any = None
        self._step = ""
        self._unit = ""
        self._total = 0
        self._done = 0
        self._started = 0.0
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self._command is not None:
            self._inner = self._command.begin()
            self._quiet = self._command.quiet
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, step: str, total: int, unit: str) -> None:
        """A step of ``total`` units begins."""
        self._step, self._unit, self._total, self._done = step, unit, total, 0
        self._started = self._shown = time.monotonic()
        self._inner.start(step, total, unit)
        if self._bars is not None:
            self._task = self._bars.add_task(step, total=total or None, unit=unit)

    def update(self, done: int) -> None:
        """``done`` units are finished."""
        self._done = done
        self._inner.update(done)
        if self._bars is not None:
            self._bars.update(self._task, completed=done)
        elif not self._quiet and time.monotonic() - self._shown >= _PLAIN_INTERVAL_S:
            self._shown = time.monotonic()
            elapsed = self._shown - self._started
            rate = done / elapsed
            left = (self._total - done) / rate if rate else 0.0
            click.echo(
                f"{self._step}: {done}/{self._total} {self._unit}, {rate_text(rate)}/s, {left:.0f} s left",
                err=True,
            )

    def finish(self) -> None:
        """The step is over."""
        elapsed = time.monotonic() - self._started
        self._inner.finish()
        if self._bars is not None:
            self._bars.update(self._task, completed=self._total)
        elif not self._quiet and elapsed >= _PLAIN_INTERVAL_S:
            rate = rate_text(self._total / elapsed)
            click.echo(f"{self._step}: {self._total} {self._unit} in {elapsed:.1f} s, {rate}/s", err=True)


def _bars() -> Progress:
    from mqnative.app.bars import bars

    return bars()


def rate_text(per_second: float) -> str:
    """``12.3k``, to stand before a unit and ``/s``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_second >= limit:
            return f"{per_second / limit:.1f}{unit}"
    return f"{per_second:.1f}"
