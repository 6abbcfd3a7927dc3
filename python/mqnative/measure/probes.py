"""How much text a probe takes: chunks are added where the interval is still too wide to decide by.

A tensor matters to a mix by its damage in nats, so that the width that counts is relative to the tensor's own
KLD or to that of an average tensor, whichever is larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mqnative.measure.corpus import Corpus
from mqnative.measure.restart import first_layer
from mqnative.measure.steady import Chunks, steady
from mqnative.measure.stored_scores import ChunkMeans, Importances, Pair, probe_pairs, unmeasured
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import student_t95

MIN_CHUNKS = 6
_GROWTH = 1.5


@dataclass(frozen=True)
class ProbeCost:
    """What probes would cost.

    Attributes:
        n_passes: passes that the store lacks.
        n_full_passes: the same in whole passes: one from layer L on costs the share of the layers behind it.
    """

    n_passes: int
    n_full_passes: float


def cost(study: Study, corpus: Corpus, pairs: Sequence[Pair], importances: Importances) -> ProbeCost:
    """What `probe_until` costs at most for these pairs, all of ``corpus`` used."""
    n_layer = study.model.vocab.n_layer
    missing = unmeasured(study, corpus, pairs, importances)
    shares = {pair: 1.0 - first_layer([pair[0]], n_layer) / (n_layer + 1) for pair in pairs}
    n_chunks = max(missing.values(), default=0)
    whole = sum(n * shares[pair] for pair, n in missing.items()) + n_chunks
    return ProbeCost(sum(missing.values()), whole)


def probe_until(
    study: Study,
    corpus: Corpus,
    pairs: Sequence[Pair],
    importances: Importances,
    *,
    precision: float,
    min_chunks: int = MIN_CHUNKS,
) -> dict[Pair, ChunkMeans]:
    """Probe pairs, each on as many chunks as its precision takes.

    Args:
        study: the model and its store.
        corpus: the probe text, its chunks in the order of use.
        pairs: (tensor, type).
        importances: by tensor name.
        precision: half-width of the 95 % interval, as a share of the larger of the pair's own KLD and the
            mean KLD of its type's pairs; 0 uses all of ``corpus``.
        min_chunks: every pair gets these.

    Returns:
        Means of the chunks used, which differ in number; all begin with the same chunks.

    Raises:
        as `score_mixes`.
    """
    n = corpus.n_chunks if precision <= 0 else min(min_chunks, corpus.n_chunks)
    found = probe_pairs(study, corpus.head(n), pairs, importances)
    while n < corpus.n_chunks:
        wide = too_wide(found, precision)
        if not wide:
            break
        n = min(corpus.n_chunks, int(np.ceil(n * _GROWTH)))
        found.update(probe_pairs(study, corpus.head(n), wide, importances))
    return found


def too_wide(found: Mapping[Pair, ChunkMeans], precision: float) -> list[Pair]:
    """The pairs whose interval is wider than it may be, outlying chunks drawn in."""
    klds = steady({pair: means.kld for pair, means in found.items()})
    by_type: dict[str, list[float]] = {}
    for (_, qtype), chunks in klds.items():
        by_type.setdefault(qtype, []).append(float(chunks.mean()))
    typical = {qtype: float(np.mean(means)) for qtype, means in by_type.items()}
    return [
        pair
        for pair, chunks in klds.items()
        if half_width(chunks) > precision * max(float(chunks.mean()), typical[pair[1]])
    ]


def half_width(klds: Chunks) -> float:
    """Half of the 95 % interval of the mean KLD; chunks are dealt at random, so that they are independent."""
    n = len(klds)
    return student_t95(n - 1) * float(klds.std(ddof=1)) / n**0.5 if n > 1 else np.inf
