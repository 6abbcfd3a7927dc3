"""The predicted speed of a recipe: its products' times, and all else, which does not depend on types.

The rest (attention, norms, starting threads) is what planned files without weights take beyond their products
when they really run. So is how much slower products are in a model than alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mqnative.build.header_only import header_only
from mqnative.build.plan import BuildPlan, ModelTensor
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.candidates import candidate_types
from mqnative.measure.product_times import ProductTimes, Setting, products_of
from mqnative.measure.speed import Rate, bench

# Uniform mixes that are run: fast and slow types, of few bits and many, some of them repacked.
_RUN = ("Q4_0", "Q3_K", "Q6_K", "Q8_0", "IQ3_S")
# Runs so short that on a busy machine, too, some are not interrupted.
_N_GEN, _N_RUNS = 2, 60
# Mixes are run in turn, so that a machine that is slower for a while is so for all.
_ROUNDS = 3

EMBEDDING, HEAD = "token_embd.weight", "output.weight"

Plan = Callable[[Mapping[str, str]], BuildPlan]


@dataclass(frozen=True)
class SpeedModel:
    """Seconds per generated token on the CPU.

    Attributes:
        seconds: (tensor, type) -> of its product.
        other: of everything else.
        n_threads: it was measured with.
    """

    seconds: Mapping[tuple[str, str], float]
    other: float
    n_threads: int

    def products(self, types: Mapping[str, str]) -> float:
        """Of one token's products with these tensors.

        A tied embedding is the head; where a mix unties it, only the head's own weights are multiplied.
        """
        return sum(self.seconds.get(self._product(name, t, types), 0.0) for name, t in types.items())

    def _product(self, name: str, qtype: str, types: Mapping[str, str]) -> tuple[str, str]:
        if name == EMBEDDING and HEAD in types:
            return "", ""
        return (EMBEDDING, qtype) if name == HEAD and (EMBEDDING, qtype) in self.seconds else (name, qtype)

    def token_seconds(self, types: Mapping[str, str]) -> float:
        """Of one token of a mix."""
        return self.other + self.products(types)

    def tps(self, types: Mapping[str, str]) -> float:
        """Tokens per second of generation."""
        return 1.0 / self.token_seconds(types)


def generation_rate(
    plan: BuildPlan, *, n_threads: int | None = None, n_gen: int = _N_GEN, n_runs: int = _N_RUNS
) -> Rate:
    """The speed of a planned file, run without its weights."""
    with header_only(plan) as path:
        found = bench(path, n_prompt=0, n_gen=n_gen, n_runs=n_runs, n_threads=n_threads, fill=True)
        rate = found.generation
    assert rate is not None
    return rate


def speed_model(
    file: GGUFFile,
    tensors: Mapping[str, ModelTensor],
    types: Mapping[str, Sequence[str]],
    plan: Plan,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> SpeedModel:
    """What a model's recipes would take on this machine's CPU.

    Args:
        file: the source.
        tensors: of it.
        types: tensor -> types whose times are wanted, besides its own.
        plan: the file of a mix.
        n_threads: default all usable processors.
        monitor: told the products that are timed.

    Raises:
        BackendError, ModelLoadError: llama.cpp cannot run the model.
    """
    products = products_of(file)
    none = dict.fromkeys(tensors)
    run = [{n: found[0] for n, found in candidate_types(tensors, none, [t]).items() if found} for t in _RUN]
    plans = [plan(mix) for mix in run]
    setting = Setting.of(int(np.mean([p.tensor_bytes for p in plans])), n_threads)
    wanted = {name: {tensors[name].qtype_name, *types.get(name, ())} for name in products}
    for mix in run:
        for name, qtype in mix.items():
            wanted.get(name, set()).add(qtype)
    times = ProductTimes()
    times.measure(
        [(setting, products[n], t) for n, found in wanted.items() for t in sorted(found)], monitor=monitor
    )
    alone = {(n, t): times.seconds(setting, products[n], t) for n, found in wanted.items() for t in found}
    sums = [sum(alone.get(pair, 0.0) for pair in p.types.items()) for p in plans]
    measured = [
        [generation_rate(p, n_threads=n_threads, n_runs=_N_RUNS).quiet_seconds for p in plans]
        for _ in range(_ROUNDS)
    ]
    factor, other = _line(sums, np.median(measured, axis=0).tolist())
    return SpeedModel({pair: factor * s for pair, s in alone.items()}, other, setting.n_threads)


def _line(sums: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Slope and offset of measured over summed times, in relative errors; no rest is negative."""
    x, y = np.array(sums), np.array(measured)
    weights = 1.0 / y
    slope, offset = np.polyfit(x, y, 1, w=weights)
    if offset < 0 or slope <= 0:
        return float((weights**2 * x * y).sum() / (weights**2 * x * x).sum()), 0.0
    return float(slope), float(offset)
