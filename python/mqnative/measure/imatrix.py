"""Collecting an importance matrix: one pass over each text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqnative.core.model import ActivationSums, Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.formats.imatrix import Imatrix, ImatrixEntry
from mqnative.measure.blend import add_up, require_weights, weighted_mean
from mqnative.measure.corpus import Corpus
from mqnative.measure.partial_sums import PartialSums


def collect_imatrix(
    model: Model,
    corpus: Corpus,
    *,
    process_output: bool = True,
    partial: PartialSums | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> Imatrix:
    """The importance matrix of ``model`` on ``corpus``, equal to llama-imatrix's.

    Args:
        model: the unquantized model.
        corpus: chunks of the calibration text.
        process_output: also measure the output head (for a tied embedding, under token_embd.weight), which
            llama-imatrix does on request only. It lets the head use the types that need importances.
        partial: where a killed run goes on from; the caller removes it when the result is kept.
        monitor: told the chunks done.

    Returns:
        Sums and counts per tensor, with signed sums. An expert that no token reached has count 0.

    Raises:
        NonFiniteError: an activation is NaN or infinite.
        BackendError, OperationCancelled: as `Model.logits`.

    Accuracy: the sums of squares are llama-imatrix's to the bit on the CPU.
    """
    if partial is None:
        sums = model.activations(corpus.inputs, process_output=process_output, monitor=monitor)
    else:
        sums = _in_pieces(model, corpus, partial, process_output, monitor)
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


def _in_pieces(
    model: Model, corpus: Corpus, partial: PartialSums, process_output: bool, monitor: Monitor
) -> dict[str, ActivationSums]:
    """The same sums, written down now and then."""
    sums, first = partial.read()
    done, seconds = first, partial.every_s
    if done >= corpus.n_chunks:
        return sums
    monitor.start("imatrix", corpus.n_chunks - first, "chunks")
    while done < corpus.n_chunks:
        sums, done = model.activations_until(
            corpus.inputs,
            done,
            seconds,
            sums,
            process_output=process_output,
            monitor=_From(first, monitor),
        )
        seconds = partial.write(sums, done)
    monitor.finish()
    return sums


class _From:
    """Counts from what was there already, so that the rate is that of this run."""

    def __init__(self, first: int, monitor: Monitor) -> None:
        self._first, self._monitor = first, monitor

    def start(self, step: str, total: int, unit: str) -> None:
        """Pieces are parts of one step."""

    def update(self, done: int) -> None:
        self._monitor.update(max(0, done - self._first))

    def finish(self) -> None:
        """Pieces are parts of one step."""


def collect_texts(
    model: Model,
    texts: Sequence[tuple[Corpus, float | None]],
    *,
    process_output: bool = True,
    partials: Sequence[PartialSums | None] | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> Imatrix:
    """The importance matrix of ``model`` on several texts.

    Args:
        model: the unquantized model.
        texts: chunks of each text and its weight. Without any weight the texts are added up, so that
            each counts by its length; with one, each counts by its weight alone, 1 where it is None.
        process_output: as `collect_imatrix`.
        partials: for each text as `collect_imatrix`.
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
        collect_imatrix(model, corpus, process_output=process_output, partial=partial, monitor=monitor)
        for (corpus, _), partial in zip(texts, partials or [None] * len(texts), strict=True)
    ]
    if all(weight is None for weight in weights):
        return add_up(found)
    return weighted_mean(list(zip(found, weighted, strict=True)))
