"""The error sweep of many tensors: small ones side by side, each on a thread; large ones on all threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

import numpy as np
import numpy.typing as npt

from mqnative.formats.gguf import GGUFFile
from mqnative.measure.sweep import TOLERANCE, Progress, sweep_tensor
from mqnative.measure.weight_error import TensorSweep

# Weights of a tensor that one thread measures alone, beside other tensors.
_SMALL = 4 * 1024 * 1024


def sweep_model(
    file: GGUFFile,
    targets: Mapping[str, Sequence[str]],
    importances: Mapping[str, npt.NDArray[np.float32] | None],
    seeds: Mapping[str, int],
    *,
    tolerance: float = TOLERANCE,
    n_threads: int,
    progress: Callable[[str, float], None],
) -> Iterator[tuple[str, TensorSweep, float]]:
    """Sweep the tensors in ``targets``.

    Args:
        file: the model.
        targets: tensor -> its legal types.
        importances: by tensor name.
        seeds: by tensor name; see `sweep_tensor`.
        tolerance: as for `sweep_tensor`.
        n_threads: figures do not depend on it.
        progress: told a large tensor's name and the share of it that is done.

    Yields:
        A tensor, its errors, and the seconds that they took; in the order in which they are done.

    Raises:
        as `sweep_tensor`.
    """

    def run(name: str, threads: int, report: Progress | None = None) -> tuple[str, TensorSweep, float]:
        info = file.tensors[name]
        started = time.monotonic()
        found = sweep_tensor(
            file.data(name),
            info.qtype,
            info.matrix_shape,
            targets[name],
            importances.get(name),
            seed=seeds[name],
            tolerance=tolerance,
            n_threads=threads,
            progress=report,
        )
        return name, found, time.monotonic() - started

    small = [name for name in targets if file.tensors[name].n_weights <= _SMALL]
    # The longest first, so that none is left to run alone at the end.
    small.sort(key=lambda name: -file.tensors[name].n_weights)
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(run, name, 1) for name in small]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
    for name in targets:
        if name not in small:
            yield run(name, n_threads, partial(progress, name))
