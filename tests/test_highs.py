"""What native solvers print does not reach standard output."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import numpy as np
import pytest

from mqnative.solve.highs import milp, nothing_printed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the C library has another name")


def test_what_c_code_prints_is_dropped_and_the_rest_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    sys.stdout.write("before\n")
    with nothing_printed():
        libc.puts(b"native")
    libc.puts(b"after")
    libc.fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"


def test_it_ends_with_an_exception_and_in_many_threads(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with pytest.raises(KeyError), nothing_printed():
            raise KeyError

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write("still here\n")
    assert capfd.readouterr().out == "still here\n"


def test_a_closed_output_is_no_obstacle() -> None:
    code = (
        "import os, sys\n"
        "from mqnative.solve.highs import nothing_printed\n"
        "os.close(1)\n"
        "sys.stdout = sys.stderr\n"
        "with nothing_printed():\n"
        "    print('worked', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "worked\n"


def test_the_answer_is_scipys() -> None:
    answer = milp(np.array([-1.0, -2.0]), integrality=np.ones(2), bounds=(0, 1.5))
    assert list(answer.x) == [1.0, 1.0]
