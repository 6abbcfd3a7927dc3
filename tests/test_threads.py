"""The interpreter stays free while the compiled module works, and Ctrl-C is heard."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mqnative.core.model import Model
from mqnative.core.monitor import CancellableMonitor, CancelToken
from mqnative.core.native import core
from mqnative.core.presets import upstream_quantize
from mqnative.core.quantize import dequantize, quantize, row_errors
from mqnative.errors import OperationCancelled
from mqnative.formats.qtypes import qtype

# ---- The GIL ------------------------------------------------------------------------------------------

TICK_S = 0.005
# A call that holds the GIL lets the ticking thread run before and after it, not inside. One that lets go of
# it shortly ten times a second would give about one tick for each 0.1 s; a free interpreter gives many more.
LEAST_TICKS_PER_S = 25
LEAST_WINDOW_S = 0.15  # anything shorter proves nothing


@dataclass
class Ticker:
    """Times at which a Python thread got to run."""

    ticks: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(TICK_S):
            self.ticks.append(time.monotonic())

    def inside(self, start: float, end: float) -> int:
        return sum(start < t < end for t in self.ticks)


@contextmanager
def ticking() -> Iterator[Ticker]:
    ticker = Ticker()
    thread = threading.Thread(target=ticker.run)
    thread.start()
    try:
        yield ticker
    finally:
        ticker.stop.set()
        thread.join()


def assert_python_runs_during(work: Callable[[], object]) -> None:
    """Repeats the work until it has taken long enough to tell, and counts ticks inside single calls."""
    with ticking() as ticker:
        inside, window = 0, 0.0
        while window < LEAST_WINDOW_S:
            start = time.monotonic()
            work()
            end = time.monotonic()
            inside += ticker.inside(start, end)
            window += end - start
    assert inside >= LEAST_TICKS_PER_S * window, f"{inside} ticks in {window:.2f} s"


@pytest.fixture(scope="module")
def noise() -> Any:
    return np.random.default_rng(3).standard_normal((1024, 1024)).astype(np.float32)


def test_the_ticker_notices_a_call_that_holds_the_interpreter(noise: Any) -> None:
    """The test's own test: sorting a list of floats is one call that keeps the GIL."""
    numbers = noise.ravel().tolist()
    with pytest.raises(AssertionError, match="ticks in"):
        assert_python_runs_during(lambda: sorted(numbers))


def test_python_runs_while_a_tensor_is_quantized(noise: Any) -> None:
    weights = np.ones(1024, np.float32)
    assert_python_runs_during(lambda: quantize(noise, "IQ2_XS", weights, n_threads=1))


def test_python_runs_while_blocks_are_decoded(noise: Any) -> None:
    blocks = np.tile(quantize(noise, "Q4_K"), (32, 1))
    assert_python_runs_during(lambda: dequantize(blocks, "Q4_K", n_threads=1))


def test_python_runs_while_errors_are_measured(noise: Any) -> None:
    assert_python_runs_during(
        lambda: row_errors(noise, qtype("F32"), (1, 1024, 1024), ["Q4_K", "Q5_K"], n_threads=1)
    )


def test_python_runs_while_logits_are_scored() -> None:
    logits = np.random.default_rng(4).standard_normal((512, 20_000)).astype(np.float32)
    targets = np.zeros(512, np.int32)
    norms, tops = core().softmax_norms(logits, 2)
    assert_python_runs_during(lambda: core().softmax_norms(logits, 1))
    assert_python_runs_during(lambda: core().score_exact(logits, targets, logits, norms, tops, 1))
    assert_python_runs_during(lambda: core().score_compat(logits, targets, logits, 1))


def test_python_runs_while_a_model_is_evaluated(builtin_model: Path, eval_text: str) -> None:
    with Model(builtin_model, n_threads=1) as model:
        tokens = model.tokenize(eval_text[:20_000])[:1024]
        assert_python_runs_during(lambda: model.logits(tokens))
        assert_python_runs_during(lambda: model.activations(tokens.reshape(4, 256)))
        assert_python_runs_during(lambda: model.tokenize(eval_text * 4))


def test_python_runs_while_upstream_quantizes(builtin_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert_python_runs_during(lambda: upstream_quantize(builtin_model, out, "Q4_K_M", n_threads=1))


def test_two_threads_quantize_at_the_same_time(noise: Any) -> None:
    """Calls overlap in time, and each gets its own bytes."""
    windows: dict[str, tuple[float, float]] = {}
    results: dict[str, Any] = {}
    ready = threading.Barrier(2)

    def work(target: str) -> None:
        ready.wait()
        start = time.monotonic()
        results[target] = quantize(noise, target, n_threads=1)
        windows[target] = (start, time.monotonic())

    threads = [threading.Thread(target=work, args=(t,)) for t in ("IQ4_XS", "IQ4_NL")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (a_start, a_end), (b_start, b_end) = windows.values()
    assert max(a_start, b_start) < min(a_end, b_end)
    for target, blocks in results.items():
        assert np.array_equal(blocks, quantize(noise, target, n_threads=2))


def test_tables_of_the_codebook_types_may_be_first_used_by_several_threads_at_once() -> None:
    """In a process of its own, since the tables are built once."""
    script = """
import threading
import numpy as np
from mqnative.core.quantize import quantize

x = np.random.default_rng(1).standard_normal((8, 512)).astype(np.float32)
weights = np.ones(512, np.float32)
targets = ["IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS"]
results = [None] * len(targets)
ready = threading.Barrier(len(targets))

def work(i):
    ready.wait()
    results[i] = quantize(x, targets[i], weights, n_threads=2)

threads = [threading.Thread(target=work, args=(i,)) for i in range(len(targets))]
[t.start() for t in threads]
[t.join() for t in threads]
assert all(np.array_equal(r, quantize(x, t, weights)) for r, t in zip(results, targets))
print("same bytes")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same bytes", done.stderr


# ---- Cancelling from another thread ---------------------------------------------------------------------

# Progress is polled every 0.1 s; a task of 16 384 weights takes at most 0.01 s more.
CANCEL_LIMIT_S = 1.0


def test_a_token_cancelled_by_another_thread_stops_the_work(noise: Any) -> None:
    token = CancelToken()
    big = np.tile(noise, (8, 1))  # 4 s of IQ2_XS
    times: list[float] = []

    def cancel() -> None:
        times.append(time.monotonic())
        token.cancel()

    timer = threading.Timer(0.3, cancel)
    timer.start()
    with pytest.raises(OperationCancelled) as caught:
        quantize(big, "IQ2_XS", np.ones(1024, np.float32), n_threads=1, monitor=CancellableMonitor(token))
    late = time.monotonic() - times[0]
    assert 0 <= late < CANCEL_LIMIT_S
    assert caught.value.total == big.size
    assert 0 < caught.value.done < big.size


# ---- Ctrl-C ---------------------------------------------------------------------------------------------

START = """
import sys, time
import numpy as np
from mqnative.core.model import Model
from mqnative.core.presets import upstream_quantize
from mqnative.core.quantize import quantize, row_errors
from mqnative.formats.qtypes import qtype

model, folder = sys.argv[1:]
x = np.random.default_rng(1).standard_normal((8192, 1024)).astype(np.float32)
weights = np.ones(1024, np.float32)
quantize(x[:1], "IQ2_XS", weights)  # builds the table
"""
WORK = {
    "quantize": "quantize(x, 'IQ2_XS', weights, n_threads=1)",
    "row errors": "row_errors(x, qtype('F32'), (1, *x.shape), ['Q4_K', 'IQ4_XS', 'Q5_K'], n_threads=1)",
    "imatrix": "loaded.activations(chunks)",
    "logits": "[loaded.logits(chunks[0]) for _ in range(1000)]",
    "encode": "[loaded.encode('output.weight', 'IQ4_XS') for _ in range(1000)]",
    "upstream": "upstream_quantize(model, folder + '/out.gguf', 'IQ4_XS', n_threads=1)",
}
NEEDS_MODEL = """
loaded = Model(model, n_threads=1)
chunks = np.random.default_rng(1).integers(3, 4000, (400, 2048)).astype(np.int32)
"""
RUN = """
print("ready", flush=True)
try:
    {work}
    print("finished", flush=True)
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("what", WORK)
def test_ctrl_c_ends_long_work_within_a_second(what: str, builtin_model: Path, tmp_path: Path) -> None:
    script = START + (NEEDS_MODEL if "loaded" in WORK[what] else "") + RUN.format(work=WORK[what])
    with subprocess.Popen(
        [sys.executable, "-c", script, str(builtin_model), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        time.sleep(0.25)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        said, errors = child.communicate(timeout=60)
    assert said.split()[:1] == ["interrupted"], said + errors
    # The monotonic clock is the same in every process of a machine.
    assert float(said.split()[1]) - sent < CANCEL_LIMIT_S
    assert child.returncode == 0
