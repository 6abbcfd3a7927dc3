"""Scoring whole mixes and single swaps inside the loaded model: chunk by chunk, variant by variant.

The reference's logits of a chunk are computed once and kept as float32 while every variant is run on it, from
the first layer that it changes on. Nothing is written to disk, and memory holds one chunk's logits twice, its
hidden states, and the variants of as many mixes as fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from mqnative.core.model import LoadedTensor, Model, Variant
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import EMBEDDING, HEAD, is_tied, stored_name
from mqnative.measure.corpus import Corpus
from mqnative.measure.restart import Restarts, first_layer, spread
from mqnative.measure.scores import TokenScores
from mqnative.measure.scoring import scoring_for
from mqnative.source.encoded import EncodedTensors, worth_keeping

Importances = Mapping[str, npt.NDArray[np.float32] | None]
Mix = Mapping[str, str]

# Of the memory allowed, what hidden states may take; the rest is for variants.
_STATES_SHARE = 0.25


@dataclass(frozen=True)
class ChunkResult:
    """The scores of one mix on one chunk."""

    mix: str
    chunk: int
    scores: TokenScores


class VariantPool:
    """Encoded tensors by (tensor, type), each made once and shared by every mix that uses it.

    Args:
        model: loaded.
        imatrix: by tensor name.
        cache: of the same model's tensors; they are then also shared with other runs.
    """

    def __init__(self, model: Model, imatrix: Importances, cache: EncodedTensors | None = None) -> None:
        self._model = model
        self._imatrix = imatrix
        self._cache = cache
        self._source = {t.name: t for t in model.tensors}
        self._made: dict[tuple[str, str], Variant] = {}

    def changed(self, types: Mix) -> dict[str, str]:
        """The tensors of a mix that do not keep their type."""
        changed = {name: target for name, target in types.items() if self._of(name).qtype != target}
        if EMBEDDING in changed and HEAD in types and is_tied(self._source):
            # A tied head that keeps its type must not follow the embedding.
            changed[HEAD] = types[HEAD]
        return changed

    def _of(self, name: str) -> LoadedTensor:
        return self._source[stored_name(name, self._source)]

    def size_bytes(self, name: str, target: str) -> int:
        """Memory that a variant takes."""
        return qtype(target).tensor_bytes(self._of(name).shape)

    def variants(self, types: Mix) -> list[Variant]:
        """The variants of a mix; tensors that keep their type need none."""
        return [self._variant(name, target) for name, target in self.changed(types).items()]

    def forget(self) -> None:
        """Free the memory of every variant that is not swapped in."""
        self._made.clear()

    def _variant(self, name: str, target: str) -> Variant:
        key = (name, target)
        if key not in self._made:
            self._made[key] = self._encoded(name, target)
        return self._made[key]

    def _encoded(self, name: str, target: str) -> Variant:
        weights = self._imatrix.get(name)
        if self._cache is None or not worth_keeping(target, weights):
            return self._model.encode(name, target, weights)
        stored = stored_name(name, self._source)
        blocks = self._cache.blocks(stored, target, weights, n_threads=self._model.n_threads)
        return self._model.variant(name, target, blocks)


def tiles(pool: VariantPool, mixes: Mapping[str, Mix], memory_bytes: int | None) -> list[list[str]]:
    """Names of mixes in groups whose variants fit in memory together; one that alone does not is a group."""
    if memory_bytes is None:
        return [list(mixes)]
    groups: list[list[str]] = []
    held: set[tuple[str, str]] = set()
    used = 0
    for name, mix in mixes.items():
        needed = set(pool.changed(mix).items())
        more = sum(pool.size_bytes(*v) for v in needed - held)
        if not groups or (more and used + more > memory_bytes):
            groups.append([])
            held, used, more = set(), 0, sum(pool.size_bytes(*v) for v in needed)
        groups[-1].append(name)
        held |= needed
        used += more
    return groups


def score_mixes(
    model: Model,
    pool: VariantPool,
    corpus: Corpus,
    wanted: Mapping[int, Sequence[str]],
    mixes: Mapping[str, Mix],
    *,
    memory_bytes: int | None = None,
    on_device: bool | None = None,
) -> Iterator[ChunkResult]:
    """Score mixes on chunks against the model's original weights.

    Args:
        model: loaded, nothing swapped.
        pool: makes and keeps the variants.
        corpus: the text.
        wanted: chunk -> names of the mixes still to be scored on it; chunks are taken in this order.
        mixes: name -> {tensor: type}.
        memory_bytes: for variants and hidden states together; with less than all need, the text is run over
            once more for every group of mixes that fits.
        on_device: as for `scoring_for`.

    Yields:
        One result at a time; the caller may stop between them, and the model is restored.

    Raises:
        as `Model.encode`, `Model.logits` and `score_chunk`.
    """
    scorer = _Scorer(model, pool, corpus, mixes, memory_bytes, on_device)
    asked = {name for names in wanted.values() for name in names}
    for_variants = None if memory_bytes is None else int(memory_bytes * (1 - _STATES_SHARE))
    groups = tiles(pool, {name: mix for name, mix in mixes.items() if name in asked}, for_variants)
    for group in groups:
        members = set(group)
        for chunk, names in wanted.items():
            yield from scorer.score(chunk, [name for name in names if name in members])
        if len(groups) > 1:
            pool.forget()


class _Scorer:
    """Runs mixes on chunks, each from the first layer that it changes on."""

    def __init__(
        self,
        model: Model,
        pool: VariantPool,
        corpus: Corpus,
        mixes: Mapping[str, Mix],
        memory_bytes: int | None,
        on_device: bool | None,
    ) -> None:
        self._model, self._pool, self._mixes = model, pool, mixes
        self._scoring = scoring_for(corpus, model, on_device=on_device)
        self._restarts = Restarts()
        self._starts = {
            name: first_layer(pool.changed(mix), model.vocab.n_layer) for name, mix in mixes.items()
        }
        layer_bytes = corpus.n_ctx * model.vocab.n_embd * 4
        allowed = None if memory_bytes is None else int(memory_bytes * _STATES_SHARE) // layer_bytes
        self._n_layers_kept = model.vocab.n_layer if allowed is None else allowed

    def score(self, chunk: int, names: Sequence[str]) -> Iterator[ChunkResult]:
        """Score these mixes on one chunk."""
        if not names:
            return
        model, scoring = self._model, self._scoring
        layers = spread(self._restarts.usable(self._starts[name] for name in names), self._n_layers_kept)
        trace = scoring.take_reference(model, chunk, layers)
        assert trace is not None
        self._restarts.check(trace, partial(scoring.repeats, model, trace))
        for name in names:
            start = self._restarts.start(trace, self._starts[name])
            model.swap(*self._pool.variants(self._mixes[name]))
            try:
                scores = scoring.score(model, chunk, trace, start)
            finally:
                model.restore()
            yield ChunkResult(name, chunk, scores)
