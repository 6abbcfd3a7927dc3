"""Where a pass's logits are scored: in main memory, to the last digit, or on the device that computed them.

A device's logits stay there, since copying them takes longer than computing them. What both give differs by
less than the float32 that logits are, and measurements of the two never meet in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from mqnative.core.logit_scorer import LogitScorer
from mqnative.core.model import Logits, Model, Trace
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.measure.corpus import Corpus
from mqnative.measure.scores import Mode, Reference, TokenScores, checked, chunk_logits, score_chunk


class Scoring(Protocol):
    """Scores passes over a corpus; keeps one chunk of a reference."""

    def take_reference(self, model: Model, chunk: int, layers: Sequence[int] | None = None) -> Trace | None:
        """Run the reference; with ``layers`` also keep the states that enter them."""
        ...

    def repeats(self, model: Model, trace: Trace, layer: int) -> bool:
        """Whether the reference, run again from ``layer`` on, gives the same bits."""
        ...

    def score(
        self, model: Model, chunk: int, trace: Trace | None = None, layer: int | None = None
    ) -> TokenScores:
        """Run what is swapped in now, from ``layer`` of the trace on, and score it.

        Against the reference's chunk, if one was taken.
        """
        ...


class HostScoring:
    """In main memory; double sums, or upstream's arithmetic.

    Args:
        corpus: the text.
        mode: the arithmetic.
        borrows: the reference is a model of its own, whose logits stay where they are.
    """

    def __init__(self, corpus: Corpus, mode: Mode = "exact", *, borrows: bool = False) -> None:
        self._corpus, self._mode, self._borrows = corpus, mode, borrows
        self._rows: Logits | None = None
        self._reference: Reference | Logits | None = None

    def take_reference(self, model: Model, chunk: int, layers: Sequence[int] | None = None) -> Trace | None:
        """See `Scoring`."""
        corpus, trace = self._corpus, None
        if layers is None:
            rows = chunk_logits(model, corpus, chunk, self._rows, borrow=self._borrows)
        else:
            span = {"first": corpus.first, "last": corpus.n_ctx - 1}
            trace, rows = model.trace(corpus.inputs[chunk], layers, out=self._rows, **span)
        self._rows = rows
        self._reference = Reference.of(rows, model.n_threads) if self._mode == "exact" else rows
        return trace

    def repeats(self, model: Model, trace: Trace, layer: int) -> bool:
        """See `Scoring`."""
        assert self._rows is not None
        found, restarted = model.resume(trace, layer, borrow=True)
        return restarted and np.array_equal(found, self._rows)

    def score(
        self, model: Model, chunk: int, trace: Trace | None = None, layer: int | None = None
    ) -> TokenScores:
        """See `Scoring`."""
        if trace is None or layer is None:
            logits = chunk_logits(model, self._corpus, chunk, borrow=True)
        else:
            logits, _ = model.resume(trace, layer, borrow=True)
        return score_chunk(
            logits, self._corpus, chunk, self._reference, mode=self._mode, n_threads=model.n_threads
        )


class DeviceScoring:
    """On the device that computes the logits."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._scorer = LogitScorer()
        self._reference: LogitScorer | None = None

    def take_reference(self, model: Model, chunk: int, layers: Sequence[int] | None = None) -> Trace | None:
        """See `Scoring`."""
        corpus = self._corpus
        if self._reference is None:
            self._reference = LogitScorer(keeps=True)
        self._reference.begin(corpus.targets(chunk))
        tokens, span = corpus.inputs[chunk], {"first": corpus.first, "last": corpus.n_ctx - 1}
        if layers is not None:
            return self._reference.trace(model, tokens, layers, **span)
        self._reference.run(model, tokens, **span)
        return None

    def repeats(self, model: Model, trace: Trace, layer: int) -> bool:
        """See `Scoring`."""
        assert self._reference is not None
        targets = np.zeros(trace.n_rows, np.int32)
        self._scorer.begin(targets, self._reference, compares=True)
        return self._scorer.resume(model, trace, layer) and self._scorer.is_equal

    def score(
        self, model: Model, chunk: int, trace: Trace | None = None, layer: int | None = None
    ) -> TokenScores:
        """See `Scoring`."""
        corpus = self._corpus
        self._scorer.begin(corpus.targets(chunk), self._reference)
        if trace is None or layer is None:
            self._scorer.run(model, corpus.inputs[chunk], first=corpus.first, last=corpus.n_ctx - 1)
        else:
            self._scorer.resume(model, trace, layer)
        found = self._scorer.scores
        if self._reference is None:
            return checked(TokenScores(found.nll[None]), chunk)
        nll, nll_ref, kld, p_diff = (figures[None] for figures in found[:4])
        return checked(TokenScores(nll, nll_ref, kld, p_diff, found.same_top.astype(bool)[None]), chunk)


def scoring_for(
    corpus: Corpus, *models: Model, mode: Mode = "exact", on_device: bool | None = None
) -> Scoring:
    """The way to score passes of these models.

    Args:
        corpus: the text.
        models: every model that will be run.
        mode: compat is main memory's.
        on_device: None: where all of them compute their logits on the same device.
    """
    places = {model.logits_device for model in models}
    wanted = len(places) == 1 and places != {""} if on_device is None else on_device
    if wanted and mode == "exact":
        return DeviceScoring(corpus)
    borrows = 1 < len(models) == len({id(model) for model in models})
    return HostScoring(corpus, mode, borrows=borrows)


def score_chunks(
    model: Model,
    corpus: Corpus,
    reference: Model | None = None,
    *,
    mode: Mode = "exact",
    monitor: Monitor = NULL_MONITOR,
) -> Iterator[TokenScores]:
    """Score chunk after chunk; memory stays at one chunk's logits, nothing is written to disk.

    Yields:
        The scores of one chunk, in order; the caller may stop at any time.

    Raises:
        as `score_chunk` and `Model.logits`.
    """
    models = [model] if reference is None else [model, reference]
    scoring = scoring_for(corpus, *models, mode=mode)
    for chunk in range(corpus.n_chunks):
        if reference is not None:
            scoring.take_reference(reference, chunk)
        yield scoring.score(model, chunk)
        monitor.update(chunk + 1)
