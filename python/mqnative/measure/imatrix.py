"""Collecting an importance matrix: one pass over a text."""

from __future__ import annotations

import numpy as np

from mqnative.core.model import Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.formats.imatrix import Imatrix, ImatrixEntry
from mqnative.measure.corpus import Corpus


def collect_imatrix(
    model: Model,
    corpus: Corpus,
    *,
    process_output: bool = True,
    monitor: Monitor = NULL_MONITOR,
) -> Imatrix:
    """The importance matrix of ``model`` on ``corpus``, equal to llama-imatrix's.

    Args:
        model: the unquantized model.
        corpus: chunks of the calibration text.
        process_output: also measure the output head (for a tied embedding, under token_embd.weight), which
            llama-imatrix does on request only. It lets the head use the types that need importances.
        monitor: told the chunks done.

    Returns:
        Sums and counts per tensor, with signed sums. An expert that no token reached has count 0.

    Raises:
        NonFiniteError: an activation is NaN or infinite.
        BackendError, OperationCancelled: as `Model.logits`.

    Accuracy: the sums of squares are llama-imatrix's to the bit on the CPU.
    """
    sums = model.activations(corpus.inputs, process_output=process_output, monitor=monitor)
    entries = {
        name: ImatrixEntry(a.sum_squares, a.counts.astype(np.float32), a.sums.astype(np.float32))
        for name, a in sorted(sums.items())
    }
    return Imatrix(
        entries,
        datasets=(corpus.source,) if corpus.source else (),
        chunk_count=corpus.n_chunks,
        chunk_size=corpus.n_ctx,
    )
