"""Collecting an importance matrix: one pass over each text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqnative.core.model import Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.formats.imatrix import Imatrix, ImatrixEntry
from mqnative.measure.blend import add_up, require_weights, weighted_mean
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


def collect_texts(
    model: Model,
    texts: Sequence[tuple[Corpus, float | None]],
    *,
    process_output: bool = True,
    monitor: Monitor = NULL_MONITOR,
) -> Imatrix:
    """The importance matrix of ``model`` on several texts.

    Args:
        model: the unquantized model.
        texts: chunks of each text and its weight. Without any weight the texts are added up, so that
            each counts by its length; with one, each counts by its weight alone, 1 where it is None.
        process_output: as `collect_imatrix`.
        monitor: told the chunks done; each text is a step of its own.

    Returns:
        As `add_up` or `weighted_mean`. Of one text it is `collect_imatrix`'s to the bit, weight or not.

    Raises:
        ShapeError: no text is given.
        ImatrixError: a weight is not positive and finite.
        NonFiniteError, BackendError, OperationCancelled: as `collect_imatrix`.

    Accuracy: added up, the sums are to the bit those of llama-imatrix run on each text, the files then
    combined with ``--in-file``.
    """
    weights = [weight for _, weight in texts]
    weighted = [1.0 if weight is None else weight for weight in weights]
    require_weights(weighted)
    found = [
        collect_imatrix(model, corpus, process_output=process_output, monitor=monitor) for corpus, _ in texts
    ]
    if all(weight is None for weight in weights):
        return add_up(found)
    return weighted_mean(list(zip(found, weighted, strict=True)))
