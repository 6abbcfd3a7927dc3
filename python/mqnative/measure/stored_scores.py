"""Scores of swapped tensors and whole mixes, answered from the store where they can be.

A probe is a mix of one changed tensor. Of probes the store keeps a chunk's mean KLD, of mixes that are to be
compared with each other every token's scores.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mqnative.measure.corpus import Corpus
from mqnative.measure.mixes import VariantPool, score_mixes
from mqnative.measure.packed_scores import pack_scores, unpack_scores
from mqnative.measure.parts import chunk_hashes
from mqnative.measure.scores import TokenScores, joined
from mqnative.measure.study import Study, weights_hash

Importances = Mapping[str, npt.NDArray[np.float32] | None]
Mix = Mapping[str, str]

# A tensor and the type it is swapped to.
Pair = tuple[str, str]

# Bumped when the arithmetic of token scores changes; older rows are then not used any more.
SCORE_VERSION = 2
# Rows are committed at least this often.
_COMMIT_INTERVAL_S = 1.0


def probe(
    study: Study, corpus: Corpus, qtypes: Mapping[str, str], importances: Importances
) -> dict[str, npt.NDArray[np.float64]]:
    """The KLD of swapping one tensor at a time.

    Args:
        study: the model and its store.
        corpus: the probe text.
        qtypes: tensor -> the type it is swapped to.
        importances: by tensor name.

    Returns:
        tensor -> float64, shape (n_chunks,): mean KLD of each chunk, nats per token.

    Raises:
        as `score_mixes`.
    """
    found = probe_pairs(study, corpus, list(qtypes.items()), importances)
    return {name: means.kld for (name, _), means in found.items()}


def probe_pairs(
    study: Study, corpus: Corpus, pairs: Sequence[Pair], importances: Importances
) -> dict[Pair, ChunkMeans]:
    """The scores of swapping one tensor at a time, for any number of types of each.

    Args:
        study: the model and its store.
        corpus: the probe text.
        pairs: (tensor, type).
        importances: by tensor name.

    Raises:
        as `score_mixes`.
    """
    mixes = {_pair_name(pair): {pair[0]: pair[1]} for pair in pairs}
    rows = _Run(study, "probe", corpus, mixes, importances).results("probe")
    return {pair: _chunk_means([rows[_pair_name(pair), c] for c in range(corpus.n_chunks)]) for pair in pairs}


def unmeasured(
    study: Study, corpus: Corpus, pairs: Sequence[Pair], importances: Importances
) -> dict[Pair, int]:
    """How many chunks of each pair the store lacks."""
    mixes = {_pair_name(pair): {pair[0]: pair[1]} for pair in pairs}
    missing = Counter(name for name, _ in _Run(study, "probe", corpus, mixes, importances).missing())
    return {pair: missing[_pair_name(pair)] for pair in pairs}


def _pair_name(pair: Pair) -> str:
    return f"{pair[0]}={pair[1]}"


def _chunk_means(rows: Sequence[_Row]) -> ChunkMeans:
    figures = ("kld_mean", "nll_mean", "nll_ref_mean")
    return ChunkMeans(*(np.array([row.value[f] for row in rows], np.float64) for f in figures))


def score(
    study: Study, step: str, corpus: Corpus, mixes: Mapping[str, Mix], importances: Importances
) -> dict[str, TokenScores]:
    """Token scores of whole mixes against the unquantized model, all on every chunk of ``corpus``.

    Args:
        study: the model and its store.
        step: what the monitor calls it.
        corpus: the text.
        mixes: name -> {tensor: type}; tensors not named keep their weights.
        importances: by tensor name, as the mixes are encoded with.

    Raises:
        as `score_mixes`.
    """
    rows = _Run(study, "evaluation", corpus, mixes, importances).results(step)
    return {
        name: joined([unpack_scores(rows[name, c].data or b"") for c in range(corpus.n_chunks)])
        for name in mixes
    }


class ChunkMeans(NamedTuple):
    """Means of single chunks: float64, shape (n_chunks,), nats per token.

    Attributes:
        kld: D(reference || model).
        nll, nll_ref: -ln p(token) of the model and of the reference.
    """

    kld: npt.NDArray[np.float64]
    nll: npt.NDArray[np.float64]
    nll_ref: npt.NDArray[np.float64]


class _Row(NamedTuple):
    """What the store keeps of one mix on one chunk."""

    value: Mapping[str, Any]
    data: bytes | None


@dataclass
class _Run:
    """Mixes times chunks: which of them the store has, and the measuring of the rest."""

    study: Study
    kind: str
    corpus: Corpus
    mixes: Mapping[str, Mix]
    importances: Importances

    def __post_init__(self) -> None:
        hashes = chunk_hashes(self.corpus)
        weights = {name: weights_hash(w) for name, w in self.importances.items()}
        mixes = {name: self._mix_hash(mix, weights) for name, mix in self.mixes.items()}
        self.keys = {
            (name, chunk): {
                "model": self.study.identity.model,
                "mix": mixes[name],
                "chunk": hashes[chunk],
                "n_ctx": self.corpus.n_ctx,
                "metric_version": SCORE_VERSION,
                "build": self.study.build,
            }
            for name in self.mixes
            for chunk in range(self.corpus.n_chunks)
        }

    def results(self, step: str) -> dict[tuple[str, int], _Row]:
        """Every row, from the store or measured now; another process on this model is waited for first."""
        found = self._stored()
        if len(found) < len(self.keys):
            with self.study.lock(self.kind):
                found = self._stored()
                found.update(self._measure(step, [key for key in self.keys if key not in found]))
        return found

    def missing(self) -> list[tuple[str, int]]:
        """The rows that the store lacks."""
        found = self._stored()
        return [key for key in self.keys if key not in found]

    def _stored(self) -> dict[tuple[str, int], _Row]:
        rows = self.study.store.get_many(self.kind, list(self.keys.values()))
        return {
            key: _Row(row.value, row.data)
            for key, row in zip(self.keys, rows, strict=True)
            if row is not None
        }

    def _measure(self, step: str, missing: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], _Row]]:
        if not missing:
            return
        study = self.study
        wanted: dict[int, list[str]] = {}
        for name, chunk in missing:
            wanted.setdefault(chunk, []).append(name)
        pool = VariantPool(study.model, self.importances, study.cache)
        batch: list[tuple[dict[str, Any], Mapping[str, Any], bytes | None]] = []
        committed = time.monotonic()
        study.monitor.start(step, len(missing), "passes")
        try:
            results = score_mixes(
                study.model, pool, self.corpus, wanted, self.mixes, memory_bytes=study.memory_bytes
            )
            for done, result in enumerate(results, 1):
                key = (result.mix, result.chunk)
                row = _Row(_summary(result.scores, self.mixes[result.mix]), self._data(result.scores))
                batch.append((self.keys[key], row.value, row.data))
                if time.monotonic() - committed > _COMMIT_INTERVAL_S:
                    study.store.put_many(self.kind, batch)
                    batch, committed = [], time.monotonic()
                study.monitor.update(done)
                yield key, row
        finally:
            # Also when the user stops it: what is measured is kept.
            study.store.put_many(self.kind, batch)
        study.monitor.finish()

    def _data(self, scores: TokenScores) -> bytes | None:
        return pack_scores(scores) if self.kind == "evaluation" else None

    def _mix_hash(self, mix: Mix, weights: Mapping[str, str]) -> str:
        """SHA-256 over the tensors that change, their types and the importances they are encoded with."""
        tensors = self.study.file.tensors
        lines = [
            f"{name}={mix[name]} {weights.get(name, 'none')}"
            for name in sorted(mix)
            if mix[name] != tensors[name].qtype.name
        ]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _summary(s: TokenScores, mix: Mix) -> dict[str, Any]:
    assert s.kld is not None
    assert s.nll_ref is not None
    value: dict[str, Any] = {
        "n_tokens": s.n_tokens,
        "nll_mean": float(s.nll.mean()),
        "nll_ref_mean": float(s.nll_ref.mean()),
        "kld_mean": float(s.kld.mean()),
    }
    if len(mix) == 1:
        value["tensor"], value["qtype"] = next(iter(mix.items()))
    return value
