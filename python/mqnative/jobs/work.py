"""What the units of work take: a pass over a token, an encoded weight, a byte.

Numbers of a machine are measured in a few seconds on the built-in model, once; until then they are assumed,
on the safe side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from mqnative.core.model import Model
from mqnative.core.native import core, thread_count
from mqnative.core.quantize import quantize
from mqnative.formats.qtypes import all_types
from mqnative.store import Store

_PASS = "pass"
_ENCODE = "encode "
# Seconds on one thread: for a token and a weight, two operations at 10 GFLOP/s; for a weight to encode.
_ASSUMED_PASS_S = 2e-10
_ASSUMED_ENCODE_S = 3e-8
# Of a disk and a network that are not fast.
_BYTE_S = 1 / 500e6
_NETWORK_BYTE_S = 1 / 30e6
_SAMPLE = (16, 4096)
_TOKENS = 256
# A machine that does something else at the moment is no slower for good.
_TIMES = 3


@dataclass(frozen=True)
class Units:
    """Seconds per unit on a machine.

    Attributes:
        pass_s: for a token and a weight that it meets.
        encode_s: type -> for a weight.
        byte_s: to read or write a byte.
        network_byte_s: to download one.
        calibrated: whether the first two were measured here.
    """

    pass_s: float
    encode_s: Mapping[str, float]
    byte_s: float = _BYTE_S
    network_byte_s: float = _NETWORK_BYTE_S
    calibrated: bool = False

    def encode(self, qtype: str) -> float:
        """Seconds for a weight; a type that is not known takes as long as the slowest."""
        return self.encode_s.get(qtype, max(self.encode_s.values(), default=_ASSUMED_ENCODE_S))


def machine_of(device: str, n_threads: int | None) -> str:
    """The name under which unit costs are kept: what computes."""
    info = core().build_info()
    return f"{info['isa']} {device} {thread_count(n_threads)} threads"


def known_units(costs: Mapping[str, float], n_threads: int | None) -> Units:
    """What is known of a machine; what is not is assumed.

    Args:
        costs: as the store knows them.
        n_threads: None: all.
    """
    if _PASS in costs:
        encode = {n.removeprefix(_ENCODE): cost for n, cost in costs.items() if n.startswith(_ENCODE)}
        return Units(costs[_PASS], encode, calibrated=True)
    threads = thread_count(n_threads)
    assumed = {t.name: _ASSUMED_ENCODE_S / threads for t in all_types().values() if t.is_target}
    return Units(_ASSUMED_PASS_S / threads, assumed)


def calibrate(store: Store, machine: str, device: str, n_threads: int | None) -> None:
    """Measure the units of a machine, unless that was done before: one pass, a few rows at each type."""
    if _PASS in store.unit_costs.of(machine):
        return
    found = {_PASS: _pass_cost(device, n_threads)}
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(_SAMPLE).astype(np.float32)
    importances = np.ones(_SAMPLE[1], np.float32)
    for qtype in all_types().values():
        if qtype.is_target and qtype.is_quantized:
            small = weights[:1, : qtype.block]
            quantize(small, qtype.name, imatrix=importances[: qtype.block])  # makes its tables
            seconds = _least_seconds(
                partial(quantize, weights, qtype.name, imatrix=importances, n_threads=n_threads)
            )
            found[_ENCODE + qtype.name] = (seconds, float(weights.size))
    store.unit_costs.learn(machine, found)


def _pass_cost(device: str, n_threads: int | None) -> tuple[float, float]:
    from mqnative.builtin import CALIB_TEXT, MODEL

    with Model(MODEL, device=device, n_threads=n_threads) as model:
        tokens = model.tokenize(CALIB_TEXT.read_text(encoding="utf-8")[: 8 * _TOKENS])[:_TOKENS]
        model.logits(tokens)
        elapsed = _least_seconds(lambda: model.logits(tokens))
        n_weights = sum(int(np.prod(t.shape)) for t in model.tensors)
    return elapsed, float(len(tokens) * n_weights)


def _least_seconds(work: Callable[[], object]) -> float:
    """How long work takes where other programs leave it alone: the least of a few times."""
    times = []
    for _ in range(_TIMES):
        started = time.monotonic()
        work()
        times.append(time.monotonic() - started)
    return min(times)
