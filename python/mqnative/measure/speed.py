"""How fast a file answers on this machine, measured as llama-bench measures it.

Weights are laid out as users run them (repacked). A run evaluates random tokens from an empty cache; prompts
and generation are timed apart, after a run that warms up.

Source: tools/llama-bench/llama-bench.cpp, test_prompt, test_gen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mqnative.core.loadable import check_loadable
from mqnative.core.memory import CPU_ALONE, Context, Placement
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, forward_log, thread_count
from mqnative.core.quantize import progress
from mqnative.formats.gguf import GGUFFile

N_PROMPT, N_GEN, N_RUNS = 512, 128, 5


@dataclass(frozen=True)
class Rate:
    """Tokens per second over several runs.

    Attributes:
        n_tokens: in each run.
        seconds: of each run.
    """

    n_tokens: int
    seconds: tuple[float, ...]

    @property
    def per_run(self) -> tuple[float, ...]:
        """Tokens per second of each run."""
        return tuple(self.n_tokens / s for s in self.seconds)

    @property
    def mean(self) -> float:
        """Mean of the runs' rates, as llama-bench prints it."""
        return float(np.mean(self.per_run))

    @property
    def sd(self) -> float:
        """Their standard deviation; 0 of a single run."""
        return float(np.std(self.per_run, ddof=1)) if len(self.seconds) > 1 else 0.0

    @property
    def quiet_seconds(self) -> float:
        """Seconds per token of the first quartile of runs: what a machine does that is let alone.

        Of many short runs on a busy machine some are interrupted and some are not.
        """
        return float(np.percentile(self.seconds, 25)) / self.n_tokens

    def values(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "n_tokens": self.n_tokens,
            "tps_mean": self.mean,
            "tps_sd": self.sd,
            "tps_runs": list(self.per_run),
        }


@dataclass(frozen=True)
class Speed:
    """Rates of prompts and of generation; None where it was not measured."""

    prompt: Rate | None
    generation: Rate | None


def bench(
    path: str | Path,
    *,
    placement: Placement = CPU_ALONE,
    context: Context | None = None,
    n_prompt: int = N_PROMPT,
    n_gen: int = N_GEN,
    n_runs: int = N_RUNS,
    n_threads: int | None = None,
    repack: bool = True,
    fill: bool = False,
    monitor: Monitor = NULL_MONITOR,
) -> Speed:
    """Time a file.

    Args:
        path: a GGUF file.
        placement: where its weights go.
        context: cache types and micro-batch; its length is chosen here.
        n_prompt: tokens of a prompt; 0: no prompts.
        n_gen: tokens generated; 0: none.
        n_runs: of each, after warming up.
        n_threads: default all usable processors.
        repack: whether weights are laid out for speed, as stock llama.cpp does.
        fill: put something like weights in place of what the file holds; a header and a hole of the right
            length will do.
        monitor: told the runs done.

    Raises:
        GGUFError, UnsupportedTypeError: the file is damaged, or would abort llama.cpp.
        ModelLoadError, BackendError: llama.cpp refuses it.
        OperationCancelled: the monitor or Ctrl-C stopped it.
    """
    with GGUFFile.open(path) as file:
        check_loadable(file)
        paths = [os.fsencode(p) for p in file.paths]
    monitor.start("bench", 2 * n_runs, "runs")
    names = [placement.device] if placement.device else []
    try:
        prompt, generation = core().bench_model(
            paths,
            placement.n_gpu_layers if placement.device else 0,
            names,
            placement.patterns,
            repack,
            (context or Context()).numbers(),
            n_prompt,
            n_gen,
            n_runs,
            thread_count(n_threads),
            fill,
            progress(monitor),
        )
    finally:
        forward_log()
    monitor.finish()
    return Speed(
        Rate(n_prompt, tuple(prompt)) if prompt else None,
        Rate(n_gen, tuple(generation)) if generation else None,
    )
