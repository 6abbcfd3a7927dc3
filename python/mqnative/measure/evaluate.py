"""Perplexity and KL divergence of a model, with intervals: the figures that reports print.

PPL = exp(mean NLL). KLD = D(reference || model), nats per token. Scored positions are upstream's: the
second half of each chunk.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mqnative.core.model import Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.measure import compat_stats
from mqnative.measure.corpus import Corpus
from mqnative.measure.scores import Mode, TokenScores, joined
from mqnative.measure.scoring import score_chunks
from mqnative.measure.uncertainty import Estimate, Resamples, mean_estimate

_PERCENTILES = (90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Evaluation:
    """The figures of one run; those about the reference are None without one.

    Attributes:
        mode: exact or compat.
        n_tokens, n_chunks, n_ctx: what was scored.
        ppl, ppl_se, ppl_ci95: perplexity.
        ppl_ref, ppl_ratio, ppl_ratio_se: the reference's, and PPL / PPL of the reference.
        ln_ppl_ratio, ln_ppl_ratio_se: its logarithm.
        ppl_cor_ln: correlation of ln PPL between model and reference, 0 to 1.
        kld_mean, kld_se, kld_ci95: nats per token.
        kld_median, kld_p90, kld_p95, kld_p99, kld_p99_9, kld_max: of single tokens.
        p_diff_rms, p_diff_mean: change of the text's token's probability.
        top1_agreement, top1_agreement_se: share of tokens where both put the same token first.
    """

    mode: Mode
    n_tokens: int
    n_chunks: int
    n_ctx: int
    ppl: float
    ppl_se: float
    ppl_ci95: tuple[float, float]
    ppl_ref: float | None = None
    ppl_ratio: float | None = None
    ppl_ratio_se: float | None = None
    ln_ppl_ratio: float | None = None
    ln_ppl_ratio_se: float | None = None
    ppl_cor_ln: float | None = None
    kld_mean: float | None = None
    kld_se: float | None = None
    kld_ci95: tuple[float, float] | None = None
    kld_median: float | None = None
    kld_p90: float | None = None
    kld_p95: float | None = None
    kld_p99: float | None = None
    kld_p99_9: float | None = None
    kld_max: float | None = None
    p_diff_mean: float | None = None
    p_diff_rms: float | None = None
    top1_agreement: float | None = None
    top1_agreement_se: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures that were measured, as JSON values."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def evaluate(
    model: Model,
    corpus: Corpus,
    reference: Model | None = None,
    *,
    mode: Mode = "exact",
    monitor: Monitor = NULL_MONITOR,
) -> tuple[Evaluation, TokenScores]:
    """Measure ``model`` on ``corpus``, against ``reference`` where there is one.

    Args:
        model: the model to judge.
        corpus: chunks cut with the same tokenizer.
        reference: the unquantized model.
        mode: exact or compat.
        monitor: told the chunks done.

    Returns:
        The figures, and the scores of single tokens they come from.

    Raises:
        NonFiniteError, ShapeError, BackendError, OperationCancelled: as `score_chunks`.
    """
    monitor.start("evaluate", corpus.n_chunks, "chunks")
    scores = joined(list(score_chunks(model, corpus, reference, mode=mode, monitor=monitor)))
    monitor.finish()
    return summarize(scores, corpus.n_ctx), scores


def summarize(scores: TokenScores, n_ctx: int) -> Evaluation:
    """The figures of scored tokens, in the arithmetic they were scored in."""
    return _compat(scores, n_ctx) if scores.mode == "compat" else _exact(scores, n_ctx)


def _exact(s: TokenScores, n_ctx: int) -> Evaluation:
    resamples = Resamples.of(len(s.nll))
    ppl = exp_estimate(mean_estimate(s.nll, resamples))
    base = Evaluation("exact", s.n_tokens, len(s.nll), n_ctx, ppl.value, ppl.se, ppl.ci95)
    if s.kld is None or s.nll_ref is None or s.p_diff is None or s.same_top is None:
        return base
    kld = mean_estimate(s.kld, resamples)
    ratio = mean_estimate(s.nll - s.nll_ref, resamples)
    same = mean_estimate(s.same_top.astype(np.float64), resamples)
    p90, p95, p99, p999 = np.percentile(s.kld, _PERCENTILES)
    return _with(
        base,
        ppl_ref=float(np.exp(s.nll_ref.mean())),
        ppl_ratio=float(np.exp(ratio.value)),
        ppl_ratio_se=float(np.exp(ratio.value)) * ratio.se,
        ln_ppl_ratio=ratio.value,
        ln_ppl_ratio_se=ratio.se,
        ppl_cor_ln=_correlation(s),
        kld_mean=kld.value,
        kld_se=kld.se,
        kld_ci95=kld.ci95,
        kld_median=float(np.median(s.kld)),
        kld_p90=float(p90),
        kld_p95=float(p95),
        kld_p99=float(p99),
        kld_p99_9=float(p999),
        kld_max=float(s.kld.max()),
        p_diff_mean=float(s.p_diff.mean()),
        p_diff_rms=float(np.sqrt((s.p_diff**2).mean())),
        top1_agreement=same.value,
        top1_agreement_se=same.se,
    )


def exp_estimate(mean: Estimate) -> Estimate:
    """The exponential of a mean: the interval's ends are those of the mean, so that none is below 0."""
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(x)) for x in (mean.value, *mean.ci95))
    return Estimate(value, value * mean.se, (low, high))


def _correlation(s: TokenScores) -> float:
    """Correlation of single tokens' NLL, which is that of the two ln PPL (upstream's definition)."""
    assert s.nll_ref is not None
    a, b = s.nll.ravel(), s.nll_ref.ravel()
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 1.0


def _compat(s: TokenScores, n_ctx: int) -> Evaluation:
    if s.kld is None or s.nll_ref is None or s.p_diff is None or s.same_top is None:
        nll = compat_stats.of_values(s.nll.ravel())
        ppl, se = float(np.exp(nll.mean)), float(np.exp(nll.mean)) * nll.se
        return Evaluation("compat", s.n_tokens, len(s.nll), n_ctx, ppl, se, _normal(ppl, se))
    a, b = s.nll.ravel().astype(np.float32), s.nll_ref.ravel().astype(np.float32)
    ln_ppl, ln_ref = compat_stats.of_floats(a), compat_stats.of_floats(b)
    ppl = float(np.exp(ln_ppl.mean))
    cov = compat_stats.covariance(a, b)
    ln_ratio = ln_ppl.mean - ln_ref.mean
    ln_ratio_se = float(np.sqrt(max(0.0, ln_ppl.se**2 + ln_ref.se**2 - 2.0 * cov)))
    kld = compat_stats.of_values(s.kld.ravel())
    single = np.sort(s.kld.ravel().astype(np.float32))
    p_diff = s.p_diff.ravel().astype(np.float32)
    p_squares = compat_stats.of_values((p_diff * p_diff).astype(np.float64))
    same = float(s.same_top.mean())
    both = ln_ppl.se * ln_ref.se
    return _with(
        Evaluation(
            "compat", s.n_tokens, len(s.nll), n_ctx, ppl, ppl * ln_ppl.se, _normal(ppl, ppl * ln_ppl.se)
        ),
        ppl_ref=float(np.exp(ln_ref.mean)),
        ppl_ratio=float(np.exp(ln_ratio)),
        ppl_ratio_se=float(np.exp(ln_ratio)) * ln_ratio_se,
        ln_ppl_ratio=ln_ratio,
        ln_ppl_ratio_se=ln_ratio_se,
        ppl_cor_ln=cov / both if both > 0 else 1.0,
        kld_mean=kld.mean,
        kld_se=kld.se,
        kld_ci95=_normal(kld.mean, kld.se),
        kld_median=compat_stats.median(single),
        kld_p90=compat_stats.percentile(single, 0.9),
        kld_p95=compat_stats.percentile(single, 0.95),
        kld_p99=compat_stats.percentile(single, 0.99),
        kld_p99_9=compat_stats.percentile(single, 0.999),
        kld_max=float(single[-1]),
        p_diff_mean=compat_stats.of_floats(p_diff).mean,
        p_diff_rms=float(np.sqrt(p_squares.mean)),
        top1_agreement=same,
        top1_agreement_se=float(np.sqrt(same * (1.0 - same) / (s.n_tokens - 1))),
    )


def _normal(value: float, se: float) -> tuple[float, float]:
    return value - 1.96 * se, value + 1.96 * se


def _with(base: Evaluation, **figures: Any) -> Evaluation:
    return Evaluation(**{**asdict(base), **figures})
