"""Candidates times chunks: which scores the store has, and the measuring of the rest.

A row is one candidate on one chunk. Of probes the store keeps the chunk's means, of candidates that are to be
compared with each other every token's scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mqnative.measure.corpus import Corpus
from mqnative.measure.mixes import ChunkResult
from mqnative.measure.packed_scores import pack_scores, unpack_scores
from mqnative.measure.parts import chunk_hashes
from mqnative.measure.scores import TokenScores, joined
from mqnative.measure.study import Study

# Bumped when the arithmetic of token scores changes; older rows are then not used any more.
SCORE_VERSION = 2
# Rows are committed at least this often.
_COMMIT_INTERVAL_S = 1.0

# Chunk -> names of the candidates to score on it.
Measure = Callable[[Mapping[int, Sequence[str]]], Iterator[ChunkResult]]


class ScoreRow(NamedTuple):
    """What the store keeps of one candidate on one chunk."""

    value: Mapping[str, Any]
    data: bytes | None


class ScoreRows:
    """Rows of one kind.

    Args:
        study: the reference and its store.
        kind: probe, mix, or evaluation, which keeps every token.
        corpus: the text.
        candidates: name -> what decides its scores, hashed.
    """

    def __init__(self, study: Study, kind: str, corpus: Corpus, candidates: Mapping[str, str]) -> None:
        self._study, self._kind = study, kind
        hashes = chunk_hashes(corpus)
        self._keys = {
            (name, chunk): {
                "model": study.identity.model,
                "mix": candidate,
                "chunk": hashes[chunk],
                "n_ctx": corpus.n_ctx,
                "metric_version": SCORE_VERSION,
                "build": study.build,
            }
            for name, candidate in candidates.items()
            for chunk in range(corpus.n_chunks)
        }

    def missing(self) -> list[tuple[str, int]]:
        """The rows that the store lacks."""
        found = self._stored()
        return [key for key in self._keys if key not in found]

    def results(
        self, step: str, measure: Measure, describe: Callable[[str], Mapping[str, Any]]
    ) -> dict[tuple[str, int], ScoreRow]:
        """Every row, from the store or measured now; another process on this model is waited for first.

        Args:
            step: what the monitor calls it.
            measure: scores what is missing.
            describe: what else a candidate's rows say.
        """
        found = self._stored()
        if len(found) < len(self._keys):
            with self._study.lock(self._kind):
                found = self._stored()
                missing = [key for key in self._keys if key not in found]
                found.update(self._measured(step, measure, describe, missing))
        return found

    def _stored(self) -> dict[tuple[str, int], ScoreRow]:
        rows = self._study.store.get_many(self._kind, list(self._keys.values()))
        return {
            key: ScoreRow(row.value, row.data)
            for key, row in zip(self._keys, rows, strict=True)
            if row is not None
        }

    def _measured(
        self,
        step: str,
        measure: Measure,
        describe: Callable[[str], Mapping[str, Any]],
        missing: Sequence[tuple[str, int]],
    ) -> Iterator[tuple[tuple[str, int], ScoreRow]]:
        if not missing:
            return
        study = self._study
        wanted: dict[int, list[str]] = {}
        for name, chunk in missing:
            wanted.setdefault(chunk, []).append(name)
        batch: list[tuple[dict[str, Any], Mapping[str, Any], bytes | None]] = []
        committed = time.monotonic()
        study.monitor.start(step, len(missing), "passes")
        try:
            for done, result in enumerate(measure(wanted), 1):
                key = (result.mix, result.chunk)
                keep = pack_scores(result.scores) if self._kind == "evaluation" else None
                row = ScoreRow({**_means(result.scores), **describe(result.mix)}, keep)
                batch.append((self._keys[key], row.value, row.data))
                if time.monotonic() - committed > _COMMIT_INTERVAL_S:
                    study.store.put_many(self._kind, batch)
                    batch, committed = [], time.monotonic()
                study.monitor.update(done)
                yield key, row
        finally:
            # Also when the user stops it: what is measured is kept.
            study.store.put_many(self._kind, batch)
        study.monitor.finish()


def token_scores(
    rows: Mapping[tuple[str, int], ScoreRow], names: Sequence[str], corpus: Corpus
) -> dict[str, TokenScores]:
    """The scores of every token of ``corpus``, by candidate."""
    return {
        name: joined([unpack_scores(rows[name, c].data or b"") for c in range(corpus.n_chunks)])
        for name in names
    }


def _means(s: TokenScores) -> dict[str, Any]:
    assert s.kld is not None
    assert s.nll_ref is not None
    return {
        "n_tokens": s.n_tokens,
        "nll_mean": float(s.nll.mean()),
        "nll_ref_mean": float(s.nll_ref.mean()),
        "kld_mean": float(s.kld.mean()),
    }
