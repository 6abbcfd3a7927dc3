"""Scores of files against the unquantized model, all in one pass over the text, answered from the store.

Every chunk is run once by the reference and once by every file that the store lacks it for; logits are never
written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from mqnative.core.model import Model
from mqnative.formats.gguf import GGUFFile
from mqnative.measure.corpus import Corpus, require_same_vocabulary
from mqnative.measure.mixes import ChunkResult
from mqnative.measure.score_rows import ScoreRows, token_scores
from mqnative.measure.scores import TokenScores
from mqnative.measure.scoring import scoring_for
from mqnative.measure.study import Study, identity_of


def score_files(
    study: Study,
    step: str,
    corpus: Corpus,
    candidates: Mapping[str, Path],
    check: Callable[[Model], None] = lambda _: None,
) -> dict[str, TokenScores]:
    """Token scores of files on every chunk of ``corpus``.

    Args:
        study: the reference and its store.
        step: what the monitor calls it.
        corpus: the text, as the reference reads it.
        candidates: name -> GGUF file with the reference's vocabulary.
        check: called with each file that is loaded; may refuse it.

    Raises:
        ShapeError: another vocabulary.
        GGUFError, ModelLoadError, NonFiniteError, BackendError: a file cannot be measured.
        OperationCancelled: what was measured is kept.
    """
    ids = {}
    for name, path in candidates.items():
        with GGUFFile.open(path) as file:
            ids[name] = f"file {identity_of(study.store, file, study.n_threads).model}"

    def measure(wanted: Mapping[int, Sequence[str]]) -> Iterator[ChunkResult]:
        needed = {name for names in wanted.values() for name in names}
        with ExitStack() as stack:
            loaded = {}
            for name in needed:
                model = stack.enter_context(_load(study, candidates[name]))
                require_same_vocabulary(model, study.model)
                check(model)
                loaded[name] = model
            yield from _score(study.model, loaded, corpus, wanted)

    rows = ScoreRows(study, "evaluation", corpus, ids).results(step, measure, lambda _: {})
    return token_scores(rows, list(candidates), corpus)


def _load(study: Study, path: Path) -> Model:
    compute = study.compute
    return Model(
        path,
        device=compute.device,
        n_gpu_layers=compute.n_gpu_layers,
        n_threads=study.n_threads,
        monitor=study.monitor,
    )


def _score(
    reference: Model, candidates: Mapping[str, Model], corpus: Corpus, wanted: Mapping[int, Sequence[str]]
) -> Iterator[ChunkResult]:
    scoring = scoring_for(corpus, reference, *candidates.values())
    for chunk, names in wanted.items():
        scoring.take_reference(reference, chunk)
        for name in names:
            yield ChunkResult(name, chunk, scoring.score(candidates[name], chunk))
