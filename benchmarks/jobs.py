"""What jobs cost: looking at them in a large store, and writing down how far one is while it works.

    python benchmarks/jobs.py

The store holds 10,000 measurements and 100 jobs of 8 steps. Work is processor time, so that a busy machine
does not count; the time of processes includes the interpreter's start. Overhead is the processor time of the
thread beside a job, as a share of the time that the job takes, at a hundred reports a second.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mqnative.jobs import control
from mqnative.jobs.recorder import Recorder
from mqnative.jobs.runner import Asked, Runner
from mqnative.store import Store
from mqnative.store.job_rows import Step

N_MEASUREMENTS, N_JOBS, N_STEPS = 10_000, 100, 8
_REPORTS_PER_S = 100


def fill(store: Store) -> None:
    """Measurements and jobs."""
    same = {"model": "ab" * 32, "qtype": "Q3_K", "metric_version": 1}
    means = {"kld_mean": 0.1 / 7, "nll_mean": 1 / 3, "nll_ref_mean": 1 / 5, "n_tokens": 255}
    inputs = (same | {"tensor": f"blk.{n % 32}.attn_q.weight", "chunk": n} for n in range(N_MEASUREMENTS))
    store.put_many("probe", ((one, means, None) for one in inputs))
    for n in range(N_JOBS):
        key = hashlib.sha256(str(n).encode()).hexdigest()
        options = {"model": "m.gguf", "bpw": 4.5, "calib": "calib.txt", "output": f"out{n}"}
        job = store.jobs.add(key, "auto", ["m.gguf", "--bpw", "4.5"], options, "/")
        store.jobs.begin(job.id, 1)
        first = Step(1, 1, "step", "passes", 100, 100, "done", "2026-01-01T00:00:00.000Z", 1.0, 100.0, None)
        steps = [replace(first, number=i + 1, name=f"step {i}") for i in range(N_STEPS)]
        store.jobs.write(job.id, steps, wall_s=8.0, cpu_s=16.0)
        store.jobs.end(job.id, "done" if n % 3 else "paused")


def best_work(call: Callable[[], object], n: int = 5) -> float:
    """The least processor time of a call, seconds."""
    times = []
    for _ in range(n):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def process(*words: str) -> float:
    """Processor time of a command from its start to its end, seconds."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "mqnative", *words], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def overhead(seconds: float) -> float:
    """The share of a job's time that its recorder takes."""
    spent: list[float] = []
    run = Recorder._run

    def timed(self: Recorder) -> None:
        run(self)
        spent.append(time.thread_time())

    Recorder._run = timed  # type: ignore[method-assign]
    asked = Asked("0" * 64, "auto", (), {}, "/", {}, {})
    with Runner(asked) as runner:
        runner.monitor.start("probe", int(seconds * _REPORTS_PER_S), "passes")
        for n in range(int(seconds * _REPORTS_PER_S)):
            runner.monitor.update(n)
            threading.Event().wait(1 / _REPORTS_PER_S)
    return spent[0] / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="How long the job works whose cost is measured."
    )
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MQNATIVE_HOME"] = folder
        with Store.open() as store:
            fill(store)
        rows = {
            "list_jobs()": best_work(control.list_jobs),
            "show(job)": best_work(lambda: control.show(50)),
            "`mqnative jobs list`, whole process": process("jobs", "list"),
            "`mqnative jobs show`, whole process": process("jobs", "show", "50"),
            "`mqnative --version`, for comparison": process("--version"),
        }
        size = (Path(folder) / "mqnative.db").stat().st_size
        print(
            f"{N_MEASUREMENTS} measurements, {N_JOBS} jobs, {size / 1e6:.1f} MB\n\n| | work, ms |\n|---|---|"
        )
        for name, spent in rows.items():
            print(f"| {name} | {1000 * spent:.1f} |")
        print(f"\nstore overhead of a running job: {100 * overhead(seconds):.3f} %")


if __name__ == "__main__":
    main()
