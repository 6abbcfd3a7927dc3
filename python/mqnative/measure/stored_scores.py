"""Scores of swapped tensors and whole mixes, answered from the store where they can be.

A probe is a mix of one changed tensor. Of probes the store keeps a chunk's mean KLD, of mixes that are to be
compared with each other every token's scores.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mqnative.formats.tied import EMBEDDING, stored_name
from mqnative.measure.corpus import Corpus
from mqnative.measure.mixes import ChunkResult, VariantPool, score_mixes
from mqnative.measure.score_rows import SCORE_VERSION, ScoreRow, ScoreRows, token_scores
from mqnative.measure.scores import TokenScores
from mqnative.measure.streamed import can_stream, score_streamed
from mqnative.measure.study import Study
from mqnative.source.encoded import weights_hash
from mqnative.store import Store

Importances = Mapping[str, npt.NDArray[np.float32] | None]
Mix = Mapping[str, str]

# A tensor and the type it is swapped to.
Pair = tuple[str, str]


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
    rows = _results(study, "probe", "probe", corpus, mixes, importances)
    return {pair: _chunk_means([rows[_pair_name(pair), c] for c in range(corpus.n_chunks)]) for pair in pairs}


def mix_means(
    study: Study, step: str, corpus: Corpus, mixes: Mapping[str, Mix], importances: Importances
) -> dict[str, ChunkMeans]:
    """Chunk means of whole mixes, where single tokens are not needed; arguments as for `score`."""
    rows = _results(study, "mix", step, corpus, mixes, importances)
    return {name: _chunk_means([rows[name, c] for c in range(corpus.n_chunks)]) for name in mixes}


def unmeasured(
    study: Study, corpus: Corpus, pairs: Sequence[Pair], importances: Importances
) -> dict[Pair, int]:
    """How many chunks of each pair the store lacks."""
    mixes = {_pair_name(pair): {pair[0]: pair[1]} for pair in pairs}
    missing = Counter(name for name, _ in _rows(study, "probe", corpus, mixes, importances).missing())
    return {pair: missing[_pair_name(pair)] for pair in pairs}


def stored_probes(
    store: Store, model: str, types: Mapping[str, str], importances: Importances
) -> dict[Pair, npt.NDArray[np.float64]]:
    """Every probe of a model that the store has; nothing is measured.

    Args:
        store: where numbers are kept.
        model: the model's hash.
        types: tensor -> the type it is stored at.
        importances: by tensor name; probes with others are left out.

    Returns:
        (tensor, type) -> mean KLD of each chunk, in no particular order.
    """
    weights = {name: weights_hash(w) for name, w in importances.items()}
    rows = [r for r in store.all_of("probe", model=model) if r.inputs.get("metric_version") == SCORE_VERSION]
    if not rows:
        return {}
    # Figures of another build, or of chunks of another length, do not mix with the newest ones.
    newest = (rows[-1].inputs["build"], rows[-1].inputs["n_ctx"])
    found: dict[Pair, list[float]] = {}
    hashes: dict[Pair, str] = {}
    for row in rows:
        if (row.inputs["build"], row.inputs["n_ctx"]) != newest or "tensor" not in row.value:
            continue
        pair = (row.value["tensor"], row.value["qtype"])
        if pair not in hashes:
            hashes[pair] = _hash_of(types, {pair[0]: pair[1]}, weights) if pair[0] in types else ""
        if row.inputs["mix"] == hashes[pair]:
            found.setdefault(pair, []).append(row.value["kld_mean"])
    return {pair: np.array(klds, np.float64) for pair, klds in found.items()}


def _pair_name(pair: Pair) -> str:
    return f"{pair[0]}={pair[1]}"


def _chunk_means(rows: Sequence[ScoreRow]) -> ChunkMeans:
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
    rows = _results(study, "evaluation", step, corpus, mixes, importances)
    return token_scores(rows, list(mixes), corpus)


class ChunkMeans(NamedTuple):
    """Means of single chunks: float64, shape (n_chunks,), nats per token.

    Attributes:
        kld: D(reference || model).
        nll, nll_ref: -ln p(token) of the model and of the reference.
    """

    kld: npt.NDArray[np.float64]
    nll: npt.NDArray[np.float64]
    nll_ref: npt.NDArray[np.float64]


def _rows(
    study: Study, kind: str, corpus: Corpus, mixes: Mapping[str, Mix], importances: Importances
) -> ScoreRows:
    weights = {name: weights_hash(w) for name, w in importances.items()}
    return ScoreRows(
        study, kind, corpus, {name: _mix_hash(study, mix, weights) for name, mix in mixes.items()}
    )


def _results(
    study: Study, kind: str, step: str, corpus: Corpus, mixes: Mapping[str, Mix], importances: Importances
) -> dict[tuple[str, int], ScoreRow]:
    def measure(wanted: Mapping[int, Sequence[str]]) -> Iterator[ChunkResult]:
        pool = VariantPool(study.model, importances, study.cache)
        if study.streams and can_stream(study.model):
            return score_streamed(study.model, pool, corpus, wanted, mixes, memory_bytes=study.memory_bytes)
        return score_mixes(study.model, pool, corpus, wanted, mixes, memory_bytes=study.memory_bytes)

    def describe(name: str) -> dict[str, Any]:
        if len(mixes[name]) != 1:
            return {}
        ((tensor, target),) = mixes[name].items()
        return {"tensor": tensor, "qtype": target}

    return _rows(study, kind, corpus, mixes, importances).results(step, measure, describe)


def _mix_hash(study: Study, mix: Mix, weights: Mapping[str, str]) -> str:
    """SHA-256 over the tensors that change, their types and the importances they are encoded with."""
    return _hash_of({name: t.qtype.name for name, t in study.file.tensors.items()}, mix, weights)


def _hash_of(types: Mapping[str, str], mix: Mix, weights: Mapping[str, str]) -> str:
    """The hash, given the types that all tensors are stored at."""

    def is_own(name: str) -> bool:
        return mix[name] == types[stored_name(name, types)]

    # A tied head that has its own type does not follow an embedding that changes.
    follows = EMBEDDING in mix and not is_own(EMBEDDING)
    lines = [
        f"{name}={mix[name]} {weights.get(name, 'none')}"
        for name in sorted(mix)
        if not is_own(name) or (follows and name not in types)
    ]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
