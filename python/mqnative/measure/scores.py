"""Scores of single tokens: how surprised a model was, and how far from the reference.

Two arithmetics. ``exact``: float32 logits, double sums; for measuring. ``compat``: upstream's, whose
reference is stored in 16 bits and clipped at 16 nats; for numbers that can be put beside llama-perplexity's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mqnative.core.model import Logits, Model
from mqnative.core.native import core
from mqnative.errors import NonFiniteError, ShapeError
from mqnative.measure.corpus import Corpus

Mode = Literal["exact", "compat"]
F64Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference's logits of one chunk, and what every comparison with them needs.

    Attributes:
        logits: float32, shape (n_scored, n_vocab).
        norms: float64, shape (n_scored,): ln sum exp of each row.
        tops: int64, shape (n_scored,): the lowest id among the largest logits.
    """

    logits: Logits
    norms: npt.NDArray[np.float64]
    tops: npt.NDArray[np.int64]

    @classmethod
    def of(cls, logits: Logits, n_threads: int = 1) -> Reference:
        """Take over the logits; they must not change any more."""
        return cls(logits, *core().softmax_norms(logits, n_threads))


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of every scored token; arrays have shape (n_chunks, n_scored).

    Attributes:
        nll: -ln p(token), nats.
        nll_ref: the same under the reference; None without one, as are the next three.
        kld: D(reference || model), nats.
        p_diff: p(token) - p_ref(token).
        same_top: whether both put the same token first.
        mode: the arithmetic.
    """

    nll: F64Matrix
    nll_ref: F64Matrix | None = None
    kld: F64Matrix | None = None
    p_diff: F64Matrix | None = None
    same_top: npt.NDArray[np.bool_] | None = None
    mode: Mode = "exact"

    @property
    def n_tokens(self) -> int:
        """Scored tokens."""
        return int(self.nll.size)


def chunk_logits(
    model: Model, corpus: Corpus, chunk: int, out: Logits | None = None, *, borrow: bool = False
) -> Logits:
    """Logits at the scored positions of a chunk: float32, shape (n_scored, n_vocab); see `Model.logits`."""
    return model.logits(
        corpus.inputs[chunk], first=corpus.first, last=corpus.n_ctx - 1, out=out, borrow=borrow
    )


def score_chunk(
    logits: Logits,
    corpus: Corpus,
    chunk: int,
    reference: Logits | Reference | None = None,
    *,
    mode: Mode = "exact",
    n_threads: int = 1,
) -> TokenScores:
    """Score one chunk's logits, against the reference's logits of the same chunk if given.

    Of a reference that several candidates are compared with, pass `Reference.of` its logits.

    Raises:
        NonFiniteError: a logit is NaN, so that nothing can be said of the model.
        ShapeError: the two models have different vocabularies.
    """
    targets = corpus.targets(chunk)
    rows = reference.logits if isinstance(reference, Reference) else reference
    if rows is not None and rows.shape != logits.shape:
        raise ShapeError(
            f"the reference has a vocabulary of {rows.shape[1]}, the model one of {logits.shape[1]}; "
            "only models with the same tokenizer can be compared",
            expected=str(rows.shape[1]),
            got=str(logits.shape[1]),
        )
    native = core()
    if rows is None:
        if mode == "exact":
            nll = native.score_exact(logits, targets, None, None, None, n_threads)[0]
        else:
            nll = native.score_compat_nll(logits, targets, n_threads)
        return checked(TokenScores(nll[None], mode=mode), chunk)
    if mode == "exact":
        ref = reference if isinstance(reference, Reference) else Reference.of(rows, n_threads)
        nll, nll_ref, kld, p_diff, same = native.score_exact(
            logits, targets, rows, ref.norms, ref.tops, n_threads
        )
    else:
        nll, nll_ref, kld, p_diff, same = native.score_compat(logits, targets, rows, n_threads)
    nll, nll_ref, kld, p_diff = (a.astype(np.float64)[None] for a in (nll, nll_ref, kld, p_diff))
    return checked(TokenScores(nll, nll_ref, kld, p_diff, same.astype(bool)[None], mode), chunk)


def joined(parts: list[TokenScores]) -> TokenScores:
    """The scores of several chunks as one."""

    def together(name: str) -> npt.NDArray[np.float64] | None:
        arrays = [getattr(p, name) for p in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    nll = together("nll")
    assert nll is not None
    same = together("same_top")
    return TokenScores(
        nll,
        together("nll_ref"),
        together("kld"),
        together("p_diff"),
        None if same is None else same.astype(bool),
        parts[0].mode,
    )


def checked(scores: TokenScores, chunk: int) -> TokenScores:
    """The scores, unless one is NaN: then NonFiniteError."""
    bad = ~np.isfinite(scores.nll)
    for figures in (scores.nll_ref, scores.kld):
        if figures is not None:
            bad |= np.isnan(figures)
    if bad.any():
        raise NonFiniteError(
            f"{int(bad.sum())} of {bad.size} scored positions of chunk {chunk} have NaN or infinite logits; "
            "the model cannot be measured",
            row=chunk,
        )
    return scores
