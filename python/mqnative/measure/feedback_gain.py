"""What error feedback leaves of a tensor's loss at each type, from a few rows and another part of the text.

The loss of a row is e H e', with H the second moments of its input. H of one part of the text decides the
rounding, H of another judges it, so that what was only fitted to the text does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.core.feedback import Factors, Moments, factors_of, round_with_feedback, takes_feedback
from mqnative.core.model import Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.quantize import dequantize, quantize_blocks
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import stored_name
from mqnative.measure.corpus import Corpus

Importances = Mapping[str, npt.NDArray[np.float32] | None]

# Of a tensor; some rows lose far more than most.
_ROWS = 96
_SLICES = 4


@dataclass(frozen=True, eq=False)
class FeedbackGains:
    """What feedback is worth.

    Attributes:
        left: (tensor, type) -> loss with feedback / loss without; pairs that take none are left out.
        factors: by tensor of the source, to round with.
    """

    left: dict[tuple[str, str], float]
    factors: dict[str, Factors]


def feedback_gains(
    model: Model,
    file: GGUFFile,
    types: Mapping[str, Collection[str]],
    importances: Importances,
    corpus: Corpus,
    other: Corpus,
    *,
    monitor: Monitor = NULL_MONITOR,
) -> FeedbackGains:
    """Try feedback on rows of every tensor at every type that takes it.

    Args:
        model: loaded, nothing swapped.
        file: the same model.
        types: tensor -> the types it may get; tensors that enter no product are left out.
        importances: by tensor, that they are encoded with.
        corpus: the chunks that feedback is collected on.
        other: chunks that judge it.
        monitor: told the chunks done.

    Raises:
        NonFiniteError, BackendError, OperationCancelled: as `Model.second_moments`.
    """
    stored = {name: stored_name(name, file.tensors) for name in types}
    moments = model.second_moments(corpus.inputs, set(stored.values()), monitor=monitor)
    judges = model.second_moments(other.inputs, set(stored.values()), monitor=monitor)
    made: dict[int, Factors] = {}
    for one in moments.values():
        if id(one) not in made:
            made[id(one)] = factors_of(one, n_threads=model.n_threads)
    factors = {name: made[id(one)] for name, one in moments.items()}
    left = {}
    for name, targets in types.items():
        if stored[name] not in factors:
            continue
        rows = _Rows(file, stored[name], importances.get(name), factors[stored[name]], judges[stored[name]])
        for target in targets:
            if takes_feedback(qtype(target)):
                left[name, target] = rows.left(target, model.n_threads)
    return FeedbackGains(left, factors)


class _Rows:
    """Sampled rows of one tensor, by slice, with what rounds and what judges them."""

    def __init__(
        self,
        file: GGUFFile,
        name: str,
        weights: npt.NDArray[np.float32] | None,
        factors: Factors,
        judge: Moments,
    ) -> None:
        info = file.tensors[name]
        n_slices, n_rows, self._n = info.matrix_shape
        stored = file.data(name).reshape(n_slices, n_rows, -1)
        chosen = np.unique(np.linspace(0, n_slices - 1, min(_SLICES, n_slices)).round().astype(int))
        per_slice = max(1, _ROWS // len(chosen))
        rows = np.unique(np.linspace(0, n_rows - 1, min(per_slice, n_rows)).round().astype(int))
        importances = None if weights is None else np.asarray(weights, np.float32).reshape(-1, self._n)
        self._parts = [
            (
                np.ascontiguousarray(dequantize(np.ascontiguousarray(stored[s, rows]), info.qtype.name)),
                None if importances is None else importances[s if len(importances) > 1 else 0],
                factors.of_slice(int(s)),
                judge.sums[s if len(judge.sums) > 1 else 0],
            )
            for s in chosen
        ]
        self._columns = judge.columns

    def left(self, target: str, n_threads: int) -> float:
        """Loss with feedback / loss without; 1 where nothing is lost or nothing entered."""
        usual = fed = 0.0
        for rows, importances, factors, judge in self._parts:
            shape, to = (1, len(rows), self._n), qtype(target)
            flat = None if importances is None else np.ascontiguousarray(importances)
            blocks = quantize_blocks(rows, qtype("F32"), shape, to, flat, n_threads=n_threads)
            usual += self._loss(rows, blocks, target, judge)
            round_with_feedback(rows, qtype("F32"), shape, to, blocks, factors, n_threads=n_threads)
            fed += self._loss(rows, blocks, target, judge)
        return fed / usual if usual > 0 else 1.0

    def _loss(
        self,
        rows: npt.NDArray[np.float32],
        blocks: npt.NDArray[np.uint8],
        target: str,
        judge: npt.NDArray[np.float32],
    ) -> float:
        lost = dequantize(blocks.reshape(len(rows), -1), target) - rows
        total, start = 0.0, 0
        for first in range(0, self._n, self._columns):
            part = lost[:, first : first + self._columns]
            width = part.shape[1]
            upper = judge[start : start + width * width].reshape(width, width)
            start += width * width
            # The triangle counts what is off the diagonal once.
            products = np.einsum("ij,ij->", part @ upper, part, dtype=np.float64)
            total += 2 * float(products) - float(
                np.einsum("ij,j->", part**2, np.diag(upper), dtype=np.float64)
            )
        return total
