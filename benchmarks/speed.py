"""Predicted against measured generation speed of recipes, and whether an answer to --min-tps holds.

    python benchmarks/speed.py MODEL-bf16.gguf... [--recipes 10] [--threads N] [--rounds 9]

Recipes are random: a level between 2.5 and 8.5 bits per weight, every tensor at a type near it. They are
really built, and timed as `mqnative bench` times files, in turn and several times over; each round predicts
anew, from files that it times itself, so that a machine that is slower for a while is so for both. Of the
many short runs of a file the first quartile counts, and of the rounds the median. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mqnative.build.plan import BuildPlan, model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.info import build_info
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.jobs.candidates import candidate_types, default_targets
from mqnative.jobs.speed_model import speed_model
from mqnative.measure.speed import bench

_SEED = 7
_LEVELS = (2.5, 8.5)
_NEAR = 1.5
_N_GEN, _N_RUNS = 2, 60


def random_recipe(rng: random.Random, types: Mapping[str, tuple[str, ...]], level: float) -> dict[str, str]:
    """Every tensor at a random type near a level of bits per weight."""
    found = {}
    for name, legal in types.items():
        near = [t for t in legal if abs(qtype(t).bpw - level) <= _NEAR]
        found[name] = rng.choice(near or list(legal))
    return found


def rows(
    path: Path, n_recipes: int, n_threads: int | None, n_rounds: int
) -> list[tuple[float, float, float, float]]:
    """(bpw, predicted, measured, predicted / measured) of each recipe; medians of the rounds."""
    rng = random.Random(_SEED)
    with GGUFFile.open(path) as file, tempfile.TemporaryDirectory() as folder:
        tensors = model_tensors(file)
        types = candidate_types(tensors, dict.fromkeys(tensors), default_targets())
        own = {name: t.qtype_name for name, t in tensors.items()}

        def plan(mix: Mapping[str, str]) -> BuildPlan:
            return plan_build(file, Recipe(tensors=own | dict(mix)))

        plans = [plan(random_recipe(rng, types, rng.uniform(*_LEVELS))) for _ in range(n_recipes)]
        files = [Path(folder) / f"{k}.gguf" for k in range(n_recipes)]
        for made, out in zip(plans, files, strict=True):
            build_gguf(file, made, out)
        predicted, measured = np.empty((2, n_rounds, n_recipes))
        for r in range(n_rounds):
            model = speed_model(file, tensors, types, plan, n_threads=n_threads)
            predicted[r] = [model.tps(p.types) for p in plans]
            for k, out in enumerate(files):
                rate = bench(out, n_prompt=0, n_gen=_N_GEN, n_runs=_N_RUNS, n_threads=n_threads).generation
                assert rate is not None
                measured[r, k] = 1.0 / rate.quiet_seconds
        middle = [np.median(v, axis=0) for v in (predicted, measured, predicted / measured)]
        return [(p.bpw, *(float(m[k]) for m in middle)) for k, p in enumerate(plans)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--recipes", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    info = build_info()
    threads = given.threads or info["n_threads"]
    print(f"{threads} threads, llama.cpp {info['upstream_commit']}, {' '.join(info['isa'])}\n")
    print("| model | bpw | predicted tokens/s | measured | error |\n|---|---|---|---|---|")
    for path in given.models:
        errors = []
        for bpw, predicted, measured, ratio in rows(path, given.recipes, given.threads, given.rounds):
            errors.append(ratio - 1)
            print(
                f"| {path.stem} | {bpw:.2f} | {predicted:.1f} | {measured:.1f} | {100 * errors[-1]:+.1f} % |"
            )
        worst = max(errors, key=abs)
        print(f"| {path.stem} | all | | | worst {100 * worst:+.1f} % |")


if __name__ == "__main__":
    main()
