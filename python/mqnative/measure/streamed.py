"""Scoring mixes of a model that is larger than memory: layer by layer, everything through each layer once.

Of a chunk, the hidden states of the reference and of every mix that already differs from it are kept; one
layer after the other is read, and all of them are run through it. A pass over the file serves all mixes, and
memory holds one layer, the states, and the variants of one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mqnative.core.model import Logits, Model, Trace, restart_layers
from mqnative.errors import BackendError
from mqnative.measure.corpus import Corpus
from mqnative.measure.mixes import ChunkResult, Mix, VariantPool
from mqnative.measure.restart import first_layer
from mqnative.measure.scores import Reference, chunk_logits, score_chunk

# Of the memory allowed, what hidden states may take.
_STATES_SHARE = 0.5


@dataclass(frozen=True)
class _Parts:
    """The changed tensors of a mix: by the layer that reads them, and those that any layer may read."""

    by_layer: Mapping[int, dict[str, str]]
    anywhere: dict[str, str]

    def at(self, layer: int) -> dict[str, str]:
        """What must be swapped in for a layer."""
        return {**self.anywhere, **self.by_layer.get(layer, {})}


def can_stream(model: Model) -> bool:
    """Whether passes over the model can start and stop at every layer, by its graph."""
    n_layer = model.vocab.n_layer
    return set(restart_layers(model.path)) >= set(range(1, n_layer + 1))


def score_streamed(
    model: Model,
    pool: VariantPool,
    corpus: Corpus,
    wanted: Mapping[int, Sequence[str]],
    mixes: Mapping[str, Mix],
    *,
    memory_bytes: int,
) -> Iterator[ChunkResult]:
    """As `mqnative.measure.mixes.score_mixes`, with the same bits.

    Args:
        model: loaded, nothing swapped; `can_stream`.
        pool: makes the variants; it is emptied after every layer.
        corpus: the text.
        wanted: chunk -> names of the mixes still to be scored on it.
        mixes: name -> {tensor: type}.
        memory_bytes: for hidden states and variants.

    Raises:
        BackendError: the model cannot be cut exactly; found on the first chunk.
        as `score_mixes`.
    """
    n_layer = model.vocab.n_layer
    parts = {name: _parts_of(pool.changed(mix), n_layer) for name, mix in mixes.items()}
    state = corpus.n_ctx * model.vocab.n_embd * 4
    most = max(1, int(memory_bytes * _STATES_SHARE) // (2 * state) - 1)
    is_checked = False
    for chunk, names in wanted.items():
        for begin in range(0, len(names), most):
            group = {name: parts[name] for name in names[begin : begin + most]}
            results = _chunk(model, pool, corpus, chunk, group, is_checked=is_checked)
            is_checked = True
            yield from results


def _chunk(
    model: Model,
    pool: VariantPool,
    corpus: Corpus,
    chunk: int,
    mixes: Mapping[str, _Parts],
    *,
    is_checked: bool,
) -> Iterator[ChunkResult]:
    """Score mixes on one chunk."""
    n_layer = model.vocab.n_layer
    whole = None if is_checked else chunk_logits(model, corpus, chunk)
    reference = Trace.of(corpus.inputs[chunk], first=corpus.first, last=corpus.n_ctx - 1)
    states: dict[str, Trace] = {}
    for layer in range(n_layer):
        after = model.advance(reference, layer, layer + 1)
        for name, parts in mixes.items():
            swaps = parts.at(layer)
            if not swaps and name not in states:
                continue
            with _swapped(model, pool, swaps):
                states[name] = model.advance(states.get(name, reference), layer, layer + 1)
        reference = after
        pool.forget()
    found = _logits(model, reference, n_layer)
    if whole is not None and not np.array_equal(whole, found):
        raise _inexact(model)
    rows = Reference.of(found, model.n_threads)
    for name, parts in mixes.items():
        with _swapped(model, pool, parts.at(n_layer)):
            logits = _logits(model, states.get(name, reference), n_layer)
        scores = score_chunk(logits, corpus, chunk, rows, n_threads=model.n_threads)
        yield ChunkResult(name, chunk, scores)
    pool.forget()


def _logits(model: Model, state: Trace, n_layer: int) -> Logits:
    found, restarted = model.resume(state, n_layer, is_own=True)
    if not restarted:
        raise _inexact(model)
    return found


def _inexact(model: Model) -> BackendError:
    return BackendError(
        f"{model.path} is larger than memory and cannot be run layer by layer with the same results; measure "
        "it on a machine with more memory"
    )


@contextmanager
def _swapped(model: Model, pool: VariantPool, types: Mapping[str, str]) -> Iterator[None]:
    model.swap(*pool.variants(types))
    try:
        yield
    finally:
        model.restore()


def _parts_of(changed: Mapping[str, str], n_layer: int) -> _Parts:
    by_layer: dict[int, dict[str, str]] = {}
    anywhere: dict[str, str] = {}
    for name, target in changed.items():
        if name.startswith("blk.") or first_layer([name], n_layer) == n_layer:
            by_layer.setdefault(first_layer([name], n_layer), {})[name] = target
        else:
            anywhere[name] = target  # the embedding, which may be the head too
    return _Parts(by_layer, anywhere)
