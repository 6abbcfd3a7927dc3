"""Scoring whole mixes and single swaps inside the loaded model: chunk by chunk, variant by variant.

The reference's logits of a chunk are computed once and kept as float32 while every variant is run on it.
Nothing is written to disk, and memory holds one chunk's logits twice besides the variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mqnative.core.model import Logits, Model, Variant
from mqnative.measure.corpus import Corpus
from mqnative.measure.scores import TokenScores, chunk_logits, score_chunk

Importances = Mapping[str, npt.NDArray[np.float32] | None]


@dataclass(frozen=True)
class ChunkResult:
    """The scores of one mix on one chunk."""

    mix: str
    chunk: int
    scores: TokenScores


class VariantPool:
    """Encoded tensors by (tensor, type), each made once and shared by every mix that uses it."""

    def __init__(self, model: Model, imatrix: Importances) -> None:
        self._model = model
        self._imatrix = imatrix
        self._source = {t.name: t.qtype for t in model.tensors}
        self._made: dict[tuple[str, str], Variant] = {}

    def variants(self, types: Mapping[str, str]) -> list[Variant]:
        """The variants of a mix; tensors that keep their type need none."""
        changed = [(name, target) for name, target in types.items() if self._source[name] != target]
        return [self._variant(name, target) for name, target in changed]

    def forget(self) -> None:
        """Free the memory of every variant that is not swapped in."""
        self._made.clear()

    def _variant(self, name: str, target: str) -> Variant:
        key = (name, target)
        if key not in self._made:
            self._made[key] = self._model.encode(name, target, self._imatrix.get(name))
        return self._made[key]


def score_mixes(
    model: Model,
    pool: VariantPool,
    corpus: Corpus,
    wanted: Mapping[int, Sequence[str]],
    mixes: Mapping[str, Mapping[str, str]],
) -> Iterator[ChunkResult]:
    """Score mixes on chunks against the model's original weights.

    Args:
        model: loaded, nothing swapped.
        pool: makes and keeps the variants.
        corpus: the text.
        wanted: chunk -> names of the mixes still to be scored on it; chunks are taken in this order.
        mixes: name -> {tensor: type}.

    Yields:
        One result at a time; the caller may stop between them, and the model is restored.

    Raises:
        as `Model.encode`, `Model.logits` and `score_chunk`.
    """
    shape = (corpus.n_scored, model.vocab.n_vocab)
    reference: Logits = np.empty(shape, np.float32)
    logits: Logits = np.empty(shape, np.float32)
    for chunk, names in wanted.items():
        if not names:
            continue
        chunk_logits(model, corpus, chunk, reference)
        for name in names:
            model.swap(*pool.variants(mixes[name]))
            try:
                chunk_logits(model, corpus, chunk, logits)
            finally:
                model.restore()
            scores = score_chunk(logits, corpus, chunk, reference, n_threads=model.n_threads)
            yield ChunkResult(name, chunk, scores)
