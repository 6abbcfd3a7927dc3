"""Several texts at once: one pass over all, figures for each, and their mean in which each counts alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mqnative.core.model import Model
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.evaluate import Evaluation, summarize
from mqnative.measure.scores import TokenScores


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts as one corpus.

    Attributes:
        corpus: their chunks, one text after the other.
        names: of the files.
        n_chunks: of each text.
    """

    corpus: Corpus
    names: tuple[str, ...]
    n_chunks: tuple[int, ...]


def read_texts(model: Model, paths: Sequence[Path], *, n_ctx: int = 512, chunks: int | None = None) -> Texts:
    """Read texts for ``model``, at most ``chunks`` chunks of each; raises as `read_corpus`."""
    corpora = [read_corpus(model, path, n_ctx=n_ctx) for path in paths]
    if chunks is not None:
        corpora = [corpus.head(chunks) for corpus in corpora]
    whole = Corpus(
        np.concatenate([c.inputs for c in corpora]),
        np.concatenate([c.tokens for c in corpora]),
        ", ".join(c.source for c in corpora),
    )
    return Texts(whole, tuple(c.source for c in corpora), tuple(c.n_chunks for c in corpora))


def of_each_text(scores: TokenScores, texts: Texts) -> dict[str, TokenScores]:
    """The scores of each text, by its file's name; texts of one name are numbered."""
    ends = np.cumsum(texts.n_chunks)
    parts = {}
    for i, (name, end, n) in enumerate(zip(texts.names, ends, texts.n_chunks, strict=True)):
        rows = slice(end - n, end)
        parts[name if texts.names.count(name) == 1 else f"{name} ({i + 1})"] = TokenScores(
            scores.nll[rows],
            None if scores.nll_ref is None else scores.nll_ref[rows],
            None if scores.kld is None else scores.kld[rows],
            None if scores.p_diff is None else scores.p_diff[rows],
            None if scores.same_top is None else scores.same_top[rows],
            scores.mode,
        )
    return parts


def by_text(scores: TokenScores, texts: Texts) -> dict[str, Any]:
    """Figures of each text and their macro means, as JSON values; empty for one text."""
    if len(texts.names) < 2:
        return {}
    each = {name: summarize(s, texts.corpus.n_ctx) for name, s in of_each_text(scores, texts).items()}
    figures = [{"text": name} | e.to_dict() for name, e in each.items()]
    return {"texts": figures, "macro": macro(list(each.values()))}


def macro(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Means over texts, each counting alike whatever its length; PPL's is that of its logarithm."""
    n = len(evaluations)
    found: dict[str, Any] = {"ppl": float(np.exp(np.mean([np.log(e.ppl) for e in evaluations])))}
    klds = [(e.kld_mean, e.kld_se) for e in evaluations if e.kld_mean is not None and e.kld_se is not None]
    if len(klds) == n:
        mean, se = float(np.mean([k for k, _ in klds])), float(np.sqrt(sum(s * s for _, s in klds))) / n
        found |= {"kld_mean": mean, "kld_se": se, "kld_ci95": (mean - 1.96 * se, mean + 1.96 * se)}
        found["top1_agreement"] = float(np.mean([e.top1_agreement or 0.0 for e in evaluations]))
    return found
