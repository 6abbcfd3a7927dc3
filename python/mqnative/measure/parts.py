"""Dealing a text's chunks to the jobs they serve: imatrix, probe, select, held-out.

A number that is reported must not have been used to choose. Chunks are dealt by a hash of their tokens, so
that each part holds every domain of the text and the same text is always dealt the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mqnative.errors import TextError
from mqnative.measure.corpus import Corpus

# Shares of the calibration text; with a text of its own for the report, nothing is held out of it.
SHARES_ALONE = {"imatrix": 0.45, "probe": 0.15, "select": 0.15, "held_out": 0.25}
SHARES_WITH_EVAL = {"imatrix": 0.60, "probe": 0.20, "select": 0.20}
# Fewer chunks cannot give an interval.
MIN_CHUNKS_PER_PART = 2


@dataclass(frozen=True, eq=False)
class Parts:
    """The four parts of the texts, each with its chunks in the order in which they are to be used."""

    imatrix: Corpus
    probe: Corpus
    select: Corpus
    held_out: Corpus


def chunk_hashes(corpus: Corpus) -> list[str]:
    """SHA-256, in hex, of each chunk as the model sees it and as it is scored."""
    pairs = zip(corpus.inputs, corpus.tokens, strict=True)
    return [
        hashlib.sha256(a.astype("<i4").tobytes() + b.astype("<i4").tobytes()).hexdigest() for a, b in pairs
    ]


def shuffled(corpus: Corpus) -> Corpus:
    """The chunks in the order of their hashes, so that the first few are a fair sample of the text."""
    hashes = chunk_hashes(corpus)
    order = sorted(range(corpus.n_chunks), key=lambda i: (hashes[i], i))
    return Corpus(corpus.inputs[order], corpus.tokens[order], corpus.source)


def deal(corpus: Corpus, shares: Mapping[str, float]) -> dict[str, Corpus]:
    """Deal the chunks of ``corpus`` in these shares.

    Raises:
        TextError: a part would get fewer than two chunks.
    """
    mixed = shuffled(corpus)
    names = list(shares)
    ends = np.round(np.cumsum([shares[n] for n in names]) * mixed.n_chunks).astype(int)
    starts = [0, *ends[:-1]]
    smallest = int((ends - starts).min())
    if smallest < MIN_CHUNKS_PER_PART:
        needed = int(np.ceil((MIN_CHUNKS_PER_PART + 0.5) / min(shares.values()))) * corpus.n_ctx
        raise TextError(
            f"the text {corpus.source or 'given'} has {corpus.n_chunks} chunks of {corpus.n_ctx} tokens, "
            f"too few for {', '.join(names)}; give at least {needed} tokens",
            path=corpus.source or None,
            n_tokens=corpus.n_chunks * corpus.n_ctx,
            needed_tokens=needed,
        )
    return {
        name: Corpus(mixed.inputs[a:b], mixed.tokens[a:b], corpus.source)
        for name, a, b in zip(names, starts, ends, strict=True)
    }


def deal_parts(calib: Corpus, evaluation: Corpus | None = None) -> Parts:
    """The four parts: of ``calib`` alone, or with ``evaluation`` as the held-out one.

    Raises:
        TextError: too little text.
    """
    if evaluation is None:
        return Parts(**deal(calib, SHARES_ALONE))
    return Parts(**deal(calib, SHARES_WITH_EVAL), held_out=shuffled(evaluation))
