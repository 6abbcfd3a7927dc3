"""Scores of logits where they were computed, so that a device's memory is not copied for every token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mqnative.core.model import Logits, Model, Tokens, Trace
from mqnative.core.native import core, forward_log

F64Vector = npt.NDArray[np.float64]


class RowScores(NamedTuple):
    """Scores of rows of logits; arrays of one value a row, empty where there is no reference.

    Attributes:
        nll, nll_ref: -ln p(target) of the model and of the reference, nats.
        kld: D(reference || model), nats.
        p_diff: p(target) - p_reference(target).
        same_top: whether both put the same token first; ties are the device's to break.
    """

    nll: F64Vector
    nll_ref: F64Vector
    kld: F64Vector
    p_diff: F64Vector
    same_top: npt.NDArray[np.uint8]


class LogitScorer:
    """Takes the logits of passes that are run through it, and gives back a few numbers a token.

    Accuracy: sums over the vocabulary are float32 on the device. NLL is good to 2e-6 nats, KLD to 2e-7 nats
    plus a millionth of itself; the difference of the two NLLs is as good as the KLD.

    Args:
        keeps: the logits stay on the device, for others to be scored against; 8 bytes for every one.
    """

    def __init__(self, *, keeps: bool = False) -> None:
        self._handle: Any = core().LogitScorer(keeps)

    def begin(self, targets: Tokens, reference: LogitScorer | None = None, *, compares: bool = False) -> None:
        """Announce the next pass.

        Args:
            targets: int32, the token that follows each row.
            reference: scored against what it keeps.
            compares: also find out whether the logits are the reference's, bit for bit.

        Raises:
            ShapeError: the reference keeps another number of rows.
        """
        kept = None if reference is None else reference._handle
        self._handle.begin(np.ascontiguousarray(targets, np.int32), kept, compares)

    def run(self, model: Model, tokens: Tokens, *, first: int, last: int) -> None:
        """A pass as `Model.logits` makes it.

        Raises:
            ShapeError: tokens or targets outside the vocabulary, or another number of rows than announced.
            BackendError: as `Model.logits`; the reference lies on another device; no memory there.
            OperationCancelled: Ctrl-C.
        """
        ids = np.ascontiguousarray(tokens, np.int32)
        model._handle.logits(ids, first, last, None, None, self._handle)
        forward_log()

    def add_rows(self, rows: Logits, device: str) -> None:
        """Take logits that were computed elsewhere, float32, shape (n_tokens, n_vocab), on a device.

        Raises:
            ShapeError, BackendError: as for `run`.
        """
        self._handle.add_rows(np.ascontiguousarray(rows, np.float32), device)

    def trace(self, model: Model, tokens: Tokens, layers: Iterable[int], *, first: int, last: int) -> Trace:
        """A pass as `Model.trace` makes it; errors as for `run`."""
        ids = np.ascontiguousarray(tokens, np.int32)
        handle = model._handle.trace(ids, first, last, sorted(set(layers)), None, None, self._handle)
        forward_log()
        return Trace(handle, last - first)

    def resume(self, model: Model, trace: Trace, layer: int) -> bool:
        """A pass as `Model.resume` makes it: whether it started at ``layer``; errors as for `run`."""
        restarted: bool = model._handle.resume(trace._handle, layer, None, None, False, self._handle)
        forward_log()
        return restarted

    @property
    def scores(self) -> RowScores:
        """Of the last pass; rows with a NaN or +inf logit are NaN."""
        return RowScores(*self._handle.scores())

    @property
    def is_equal(self) -> bool:
        """Whether the last pass, which ``compares``, gave the reference's very logits."""
        return bool(self._handle.is_equal)

    @property
    def size_bytes(self) -> int:
        """Memory that it takes on the device."""
        return int(self._handle.size_bytes)
