"""HiGHS, by SciPy, without what it prints."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

# Two that turned the same output off and on would leave it off.
_LOCK = threading.Lock()


def milp(*arguments: Any, **options: Any) -> Any:
    """`scipy.optimize.milp`, whose lines for HiGHS' own developers no option turns off."""
    from scipy.optimize import milp as solve  # type: ignore[import-untyped]

    with nothing_printed():
        return solve(*arguments, **options)


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """Drop what native code prints to standard output meanwhile; it would stand among our JSON."""
    with _LOCK:
        sys.stdout.flush()
        try:
            kept = os.dup(1)
        except OSError:  # closed: nothing can be printed
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        _flush()
        os.dup2(nowhere, 1)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, 1)
            os.close(nowhere)
            os.close(kept)


def _flush() -> None:
    """What C code printed is in its own buffer."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no such library on this system
        ctypes.CDLL(None).fflush(None)
