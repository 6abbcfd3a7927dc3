"""The KLD of quantized keys and values: the KV cache measured like a tensor.

The reference keeps both as F16. The damage grows with what is looked back upon; it is measured within the
corpus' chunks, and longer contexts may lose more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.errors import BackendError
from mqnative.measure.corpus import Corpus
from mqnative.measure.scoring import scoring_for
from mqnative.measure.study import Study

_VERSION = 1
PLAIN = ("F16", "F16")

# Types of K and V.
CachePair = tuple[str, str]


@dataclass(frozen=True)
class CacheDamage:
    """What a cache costs.

    Attributes:
        pair: types of K and V.
        kld: float64, shape (n_chunks,): mean KLD of each chunk, nats per token.
    """

    pair: CachePair
    kld: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.kld.mean())

    @property
    def se(self) -> float:
        """Standard error of the mean, over chunks."""
        n = len(self.kld)
        return float(self.kld.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


def cache_damages(study: Study, corpus: Corpus, pairs: Iterable[CachePair]) -> dict[CachePair, CacheDamage]:
    """Measure pairs of cache types against F16, with the original weights.

    Args:
        study: the model and its store; what was measured before is not measured again.
        corpus: the text.
        pairs: types of K and V; one that the model cannot have is left out.

    Raises:
        BackendError, NonFiniteError: as `Model.logits` and `score_chunk`.
    """
    wanted = [p for p in dict.fromkeys(pairs) if p != PLAIN]
    found = {PLAIN: CacheDamage(PLAIN, np.zeros(corpus.n_chunks))}
    missing = []
    with study.lock("cache"):
        for pair in wanted:
            row = study.store.get("cache", _inputs(study, corpus, pair))
            if row is None:
                missing.append(pair)
            elif row.value["kld"] is not None:
                found[pair] = CacheDamage(pair, np.array(row.value["kld"], np.float64))
        if missing:
            for pair, kld in _measured(study, corpus, missing).items():
                if kld is not None:
                    found[pair] = CacheDamage(pair, kld)
    return {pair: found[pair] for pair in (PLAIN, *wanted) if pair in found}


def _measured(
    study: Study, corpus: Corpus, pairs: list[CachePair]
) -> Mapping[CachePair, npt.NDArray[np.float64] | None]:
    started = time.monotonic()
    model = study.model
    scoring = scoring_for(corpus, model)
    klds: dict[CachePair, list[float] | None] = {pair: [] for pair in pairs}
    study.monitor.start("KV caches", corpus.n_chunks * len(pairs), "passes")
    done = 0
    try:
        for chunk in range(corpus.n_chunks):
            model.set_cache(*PLAIN)
            scoring.take_reference(model, chunk)
            for pair in pairs:
                rows = klds[pair]
                if rows is None:
                    continue
                try:
                    model.set_cache(*pair)
                    scores = scoring.score(model, chunk)
                except BackendError:
                    if chunk:
                        raise
                    klds[pair] = None  # heads that its blocks do not fill, or no flash attention
                    continue
                assert scores.kld is not None
                rows.append(float(scores.kld.mean()))
                done += 1
                study.monitor.update(done)
    finally:
        model.set_cache(*PLAIN)
    study.monitor.finish()
    elapsed = (time.monotonic() - started) / len(pairs)
    for pair, rows in klds.items():
        study.store.put("cache", _inputs(study, corpus, pair), {"kld": rows}, elapsed_s=elapsed)
    return {pair: None if rows is None else np.array(rows) for pair, rows in klds.items()}


def _inputs(study: Study, corpus: Corpus, pair: CachePair) -> dict[str, object]:
    return {
        "version": _VERSION,
        "model": study.identity.model,
        "corpus": corpus.content_hash(),
        "k": pair[0],
        "v": pair[1],
        "build": study.build,
    }
