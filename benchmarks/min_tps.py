"""Whether an answer to --min-tps holds when it is measured, and how well its gain was predicted.

    python benchmarks/min_tps.py MODEL-bf16.gguf TEXT [--bpw 4.5 6] [--gains 1.05 1.1 1.2] [--rounds 15]

Solves for a size as users do, once freely and once for each demand, a gain over the speed that the free
file has at that moment; builds the files and times them as `mqnative bench` does. A shared machine changes
its speed between minutes: the free file is timed right before and after each demand is solved, which says
what the demand was in its terms, and then both files alternately in short rounds, each with a prediction of
its own. Of a file's many short runs the first quartile counts; of the rounds' ratios the geometric mean, with
a bootstrap interval over rounds. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.build.plan import BuildPlan, model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.info import build_info
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix
from mqnative.formats.recipe import Recipe, read_recipe
from mqnative.jobs.speed_model import speed_model
from mqnative.measure.speed import bench

_N_GEN, _N_RUNS, _TRIES = 2, 60, 5
_N_RESAMPLES, _SEED = 10_000, 7
_INFEASIBLE = 3

F64Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What `mqnative solve` said, and the file that was built from it."""

    said: dict[str, Any]
    plan: BuildPlan
    path: Path


class Bench:
    """One model, its text, and a folder for what is made."""

    def __init__(self, model: Path, text: Path, file: GGUFFile, folder: Path, n_threads: int | None) -> None:
        self.model, self.text, self.file, self.folder = model, text, file, folder
        self.n_threads = n_threads

    def solve(self, bpw: float, min_tps: float | None) -> Answer | str:
        """The answer to a size and a speed, built; or why there is none."""
        recipe, imatrix = self.folder / "recipe.yaml", self.folder / "imatrix.gguf"
        command = [
            sys.executable, "-m", "mqnative", "solve", self.model, "-f", self.text, "--bpw", bpw,
            "-o", recipe, "--save-imatrix", imatrix, "--force", "--json",
        ]  # fmt: skip
        if min_tps is not None:
            command += ["--min-tps", min_tps]
        if self.n_threads is not None:
            command += ["-t", self.n_threads]
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, check=False)
        said = json.loads(done.stdout)
        if done.returncode == _INFEASIBLE:
            return str(said["message"])
        if done.returncode:
            raise SystemExit(f"solve ended with {done.returncode}: {said.get('message')}")
        plan = plan_build(self.file, read_recipe(recipe), read_imatrix(imatrix))
        path = self.folder / f"{bpw}-{min_tps}.gguf"
        build_gguf(self.file, plan, path)
        return Answer(said, plan, path)

    def tps(self, path: Path) -> float:
        """Tokens per second of generation, now."""
        rate = bench(path, n_prompt=0, n_gen=_N_GEN, n_runs=_N_RUNS, n_threads=self.n_threads).generation
        assert rate is not None
        return 1.0 / rate.quiet_seconds

    def best_tps(self, path: Path) -> float:
        """The same of the best of a few tries."""
        return max(self.tps(path) for _ in range(_TRIES))

    def rounds(self, free: Answer, fast: Answer, n_rounds: int) -> tuple[F64Vector, F64Vector, F64Vector]:
        """(predicted ratio, measured ratio, speed of the fast file) of each round."""
        tensors = model_tensors(self.file)
        types = {n: (free.plan.types[n], fast.plan.types[n]) for n in tensors}
        plain = {n: t.qtype_name for n, t in tensors.items()}

        def plan(mix: Mapping[str, str]) -> BuildPlan:
            return plan_build(self.file, Recipe(tensors=plain | dict(mix)))

        predicted, measured, speed = np.empty((3, n_rounds))
        for r in range(n_rounds):
            model = speed_model(self.file, tensors, types, plan, n_threads=self.n_threads)
            predicted[r] = model.tps(fast.plan.types) / model.tps(free.plan.types)
            order = (free, fast, fast, free) if r % 2 else (fast, free, free, fast)
            found = [(a is fast, self.tps(a.path)) for a in order]
            ours, others = ([math.log(v) for is_fast, v in found if is_fast is k] for k in (True, False))
            measured[r] = math.exp(np.mean(ours) - np.mean(others))
            speed[r] = math.exp(np.mean(ours))
        return predicted, measured, speed


def interval(ratios: F64Vector) -> tuple[float, float, float]:
    """Geometric mean of the rounds, and its 95 % bootstrap interval."""
    logs = np.log(ratios)
    rng = np.random.default_rng(_SEED)
    means = logs[rng.integers(0, len(logs), (_N_RESAMPLES, len(logs)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def verdict(demanded: float, low: float, high: float) -> str:
    """Whether the demand was met."""
    if low >= demanded:
        return "yes"
    return "NO" if high < demanded else "undecided"


def line(bench_: Bench, bpw: float, gain: float, free: Answer, n_rounds: int) -> str:
    """One demand, as a row of the table."""
    before = bench_.best_tps(free.path)
    demand = gain * before
    fast = bench_.solve(bpw, demand)
    cells = f"| {bench_.model.stem} | {bpw:g} | {before:.0f} | {demand:.0f} "
    if isinstance(fast, str):
        return f"{cells}| refused: {fast} | | | | | |"
    # In terms of the free file's speed while it was solved.
    demanded = demand / math.sqrt(before * bench_.best_tps(free.path))
    predicted, measured, speed = bench_.rounds(free, fast, n_rounds)
    middle, low, high = interval(measured)
    klds = f"{free.said['predicted_kld']:.6f} to {fast.said['predicted_kld']:.6f}"
    return (
        f"{cells}| {demanded:.3f} | {np.median(predicted):.3f} | {middle:.3f} ({low:.3f} to {high:.3f}) | "
        f"{fast.said['measured_tps']:.0f}, {np.median(speed):.0f} | {klds} | {verdict(demanded, low, high)} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bpw", type=float, nargs="+", default=[4.5, 6.0])
    parser.add_argument("--gains", type=float, nargs="+", default=[1.05, 1.1, 1.2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    info = build_info()
    threads = given.threads or info["n_threads"]
    print(f"{threads} threads, llama.cpp {info['upstream_commit']}, {' '.join(info['isa'])}\n")
    print(
        "| model | bpw | free, tokens/s | demand | as ratio | predicted | measured | by solve, in the rounds "
        "| predicted KLD | holds |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    with GGUFFile.open(given.model) as file, tempfile.TemporaryDirectory() as folder:
        found = Bench(given.model, given.text, file, Path(folder), given.threads)
        for bpw in given.bpw:
            free = found.solve(bpw, None)
            if isinstance(free, str):
                raise SystemExit(free)
            for gain in given.gains:
                print(line(found, bpw, gain, free, given.rounds), flush=True)


if __name__ == "__main__":
    main()
