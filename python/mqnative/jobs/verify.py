"""Proving a mix: the same held-out tokens for the result and for what others would have used.

All mixes are swapped into the loaded model, with the same imatrix, and scored on the same chunks, so that
differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mqnative.measure.corpus import Corpus
from mqnative.measure.domains import Texts, macro, of_each_text
from mqnative.measure.evaluate import Evaluation, summarize
from mqnative.measure.scores import TokenScores
from mqnative.measure.stored_files import score_files
from mqnative.measure.stored_scores import Importances, Mix, score
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import Estimate, Resamples, Verdict, mean_estimate, verdict
from mqnative.report.summary import MEAN_OF_TEXTS, TextRow

# DESIGN: held-out chunks are dealt until the relative 95 % half-width of the KLD is this small.
PRECISION = 0.03
MIN_CHUNKS = 20
_CHUNKS_PER_ROUND = 10


@dataclass(frozen=True)
class Judged:
    """One mix on the held-out text.

    Attributes:
        figures: its own.
        difference: its mean KLD minus the result's, paired; None for the result.
        verdict: of the result against this mix; None for the result.
    """

    figures: Evaluation
    difference: Estimate | None
    verdict: Verdict | None


def held_out_scores(
    study: Study,
    corpus: Corpus,
    mixes: Mapping[str, Mix],
    importances: Importances,
    *,
    result: str,
    n_chunks: int | None,
    precision: float = PRECISION,
    apart: Mapping[str, Importances] | None = None,
    files: Mapping[str, Path] | None = None,
) -> dict[str, TokenScores]:
    """Score every mix on the same chunks: a fixed number, or until the result's KLD is known well enough.

    Args:
        study: the model and its store.
        corpus: the held-out text, its chunks in the order of use.
        mixes: name -> types.
        importances: by tensor name.
        result: the mix whose precision decides.
        n_chunks: a fixed number of chunks; None means as many as ``precision`` takes, at least 20.
        precision: relative half-width of the 95 % interval.
        apart: as for `scores_of`.
        files: likewise.
    """
    if n_chunks is not None:
        return scores_of(study, "verify", corpus.head(n_chunks), mixes, importances, apart, files)
    used = min(MIN_CHUNKS, corpus.n_chunks)
    while True:
        scores = scores_of(study, "verify", corpus.head(used), mixes, importances, apart, files)
        if used == corpus.n_chunks or _kld(scores[result]).relative_half_width <= precision:
            return scores
        used = min(used + _CHUNKS_PER_ROUND, corpus.n_chunks)


def scores_of(
    study: Study,
    kind: str,
    corpus: Corpus,
    mixes: Mapping[str, Mix],
    importances: Importances,
    apart: Mapping[str, Importances] | None = None,
    files: Mapping[str, Path] | None = None,
) -> dict[str, TokenScores]:
    """Score mixes that need not all be encoded with the same importances.

    Args:
        study: the model and its store.
        kind: of the lock, as for `score`.
        corpus: the text.
        mixes: name -> types.
        importances: of all mixes, by tensor name.
        apart: name -> importances of a mix that has others.
        files: name -> a file to score in the mix' place.
    """
    found = score_files(study, kind, corpus, files) if files else {}
    for name, own in (apart or {}).items():
        if name not in found:
            found |= score(study, kind, corpus, {name: mixes[name]}, own)
    rest = {name: mix for name, mix in mixes.items() if name not in found}
    found |= score(study, kind, corpus, rest, importances) if rest else {}
    return {name: found[name] for name in mixes}


def judge(scores: Mapping[str, TokenScores], result: str, n_ctx: int) -> dict[str, Judged]:
    """Figures of every mix, and the paired comparison with the result."""
    own = scores[result]
    resamples = Resamples.of(len(own.nll))
    judged = {}
    for name, s in scores.items():
        figures = summarize(s, n_ctx)
        if name == result:
            judged[name] = Judged(figures, None, None)
            continue
        difference = mean_estimate(_tokens(s) - _tokens(own), resamples)
        judged[name] = Judged(figures, difference, _reverse(verdict(difference)))
    return judged


def text_rows(scores: Mapping[str, TokenScores], texts: Texts) -> tuple[TextRow, ...]:
    """Figures of every mix on each text, then on their mean.

    Args:
        scores: name of a mix -> its scores on all texts, against the reference.
        texts: what was scored.
    """
    rows: list[TextRow] = []
    means: list[TextRow] = []
    for mix, found in scores.items():
        each = {name: summarize(s, texts.corpus.n_ctx) for name, s in of_each_text(found, texts).items()}
        for text, e in each.items():
            kld, top1 = e.kld_mean or 0.0, e.top1_agreement or 0.0
            rows.append(TextRow(text, mix, e.n_tokens, kld, e.kld_ci95 or (kld, kld), e.ppl, top1))
        mean = macro(list(each.values()))
        figures = [mean[key] for key in ("kld_mean", "kld_ci95", "ppl", "top1_agreement")]
        means.append(TextRow(MEAN_OF_TEXTS, mix, sum(e.n_tokens for e in each.values()), *figures))
    return (*rows, *means)


def _reverse(of_other: Verdict) -> Verdict:
    """What a mix being better or worse than the result says of the result."""
    return {"better": "worse", "worse": "better", "tie": "tie"}[of_other]  # type: ignore[return-value]


def _kld(scores: TokenScores) -> Estimate:
    return mean_estimate(_tokens(scores), Resamples.of(len(scores.nll)))


def _tokens(scores: TokenScores) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert scores.kld is not None
    return scores.kld
