"""Texts in chunks, scores summed up, and how sure the sums are, each against a slow and obvious version."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.core.model import Model
from mqnative.errors import NonFiniteError, ShapeError, TextError
from mqnative.measure.corpus import Corpus, cut, read_corpus, read_text
from mqnative.measure.evaluate import Evaluation, evaluate, summarize
from mqnative.measure.scores import TokenScores, joined, score_chunk
from mqnative.measure.scoring import score_chunks
from mqnative.measure.uncertainty import Estimate, Resamples, estimate, mean_estimate, verdict
from tiny_models import TinyModels

SEED = 4242
EPS = float(np.finfo(np.float64).eps)
Doubles = npt.NDArray[np.float64]


# ---- A text in chunks -------------------------------------------------------------------------------


@dataclass
class Words:
    """A vocabulary of bytes: token 3 + b stands for byte b."""

    add_bos: bool = True
    add_eos: bool = False
    bos: int = 1
    unknown: tuple[int, ...] = ()
    asked: list[bool] = field(default_factory=list)

    @property
    def vocab(self) -> Words:
        return self

    def tokenize(self, text: str, *, add_special: bool) -> npt.NDArray[np.int32]:
        self.asked.append(add_special)
        raw = text.encode("utf-8", errors="surrogateescape")
        special = [self.bos] if add_special and self.add_bos else []
        return np.array(special + [3 + b for b in raw], np.int32)


def cut_words(words: Words, text: str, n_ctx: int) -> Corpus:
    return cut(cast(Model, words), text, n_ctx=n_ctx, source="t.txt")


@pytest.mark.parametrize("n_ctx", [4, 5, 8, 33])
def test_chunks_follow_each_other_and_a_rest_is_dropped(n_ctx: int) -> None:
    text = "In the beginning God created the heaven and the earth." * 3
    corpus = cut_words(Words(), text, n_ctx)
    tokens = [1] + [3 + b for b in text.encode()]
    n_chunks = len(tokens) // n_ctx
    assert (corpus.n_chunks, corpus.n_ctx) == (n_chunks, n_ctx)
    assert corpus.tokens.ravel().tolist() == tokens[: n_chunks * n_ctx]
    assert corpus.tokens.dtype == corpus.inputs.dtype == np.int32


def test_every_chunk_begins_with_bos_but_is_scored_on_its_own_tokens() -> None:
    corpus = cut_words(Words(), "abcdefghijk", 4)
    assert corpus.inputs[:, 0].tolist() == [1, 1, 1]
    assert np.array_equal(corpus.inputs[:, 1:], corpus.tokens[:, 1:])
    assert corpus.tokens[:, 0].tolist() == [1, 3 + ord("d"), 3 + ord("h")]


def test_a_model_without_bos_sees_the_text_only() -> None:
    corpus = cut_words(Words(add_bos=False), "abcdefgh", 4)
    assert np.array_equal(corpus.inputs, corpus.tokens)


def test_a_model_that_ends_texts_gets_no_special_tokens() -> None:
    """As upstream: the end of the text would stand in the middle of the chunks."""
    words = Words(add_eos=True)
    assert cut_words(words, "abcdefgh", 4).tokens.ravel().tolist() == [3 + ord(c) for c in "abcdefgh"]
    assert words.asked == [False]


@pytest.mark.parametrize("n_ctx", [4, 5, 16, 17, 512])
def test_the_second_half_is_scored_each_token_once(n_ctx: int) -> None:
    corpus = cut_words(Words(), "x" * (2 * n_ctx), n_ctx)
    assert corpus.first == n_ctx // 2
    assert corpus.n_scored == n_ctx - 1 - n_ctx // 2
    targets = corpus.targets(1)
    assert targets.shape == (corpus.n_scored,)
    assert np.array_equal(targets, corpus.tokens[1][corpus.first + 1 :])
    assert targets.flags.c_contiguous


def test_two_chunks_are_enough_and_one_token_less_is_not() -> None:
    assert cut_words(Words(), "x" * 19, 10).n_chunks == 2  # with BOS
    with pytest.raises(TextError) as caught:
        cut_words(Words(), "x" * 18, 10)
    error = caught.value
    assert (error.path, error.n_tokens, error.needed_tokens) == ("t.txt", 19, 20)
    assert "--ctx" in error.message


def test_a_text_of_which_the_model_knows_less_than_half_is_refused() -> None:
    words = Words(unknown=(3 + ord("?"), 0))
    assert cut_words(words, "known??" * 10, 8).n_chunks == 8
    with pytest.raises(TextError, match=r"80 % of the tokens of the text t\.txt are unknown") as caught:
        cut_words(Words(add_bos=False, unknown=words.unknown), "?x???" * 10, 10)
    assert caught.value.n_tokens == 50


@pytest.mark.parametrize("n_ctx", [-1, 0, 1, 3])
def test_chunks_that_are_too_short_to_score_are_refused(n_ctx: int) -> None:
    with pytest.raises(TextError, match="at least 4"):
        cut_words(Words(), "x" * 99, n_ctx)


def test_the_first_chunks_of_a_corpus_are_a_corpus() -> None:
    corpus = cut_words(Words(), "abcdefghijklmnop" * 4, 8)
    part = corpus.head(3)
    assert part.n_chunks == 3
    assert part.source == "t.txt"
    assert np.array_equal(part.inputs, corpus.inputs[:3])
    assert np.array_equal(part.targets(2), corpus.targets(2))
    assert corpus.head(99).n_chunks == corpus.n_chunks


def test_the_hash_is_that_of_what_is_seen_and_scored() -> None:
    def of(text: str, n_ctx: int = 8, **options: Any) -> str:
        return cut_words(Words(**options), text, n_ctx).content_hash()

    text = "abcdefghijklmnopqrstuvwxy" * 3  # 76 tokens with BOS: 9 chunks and a rest of 4
    base = of(text)
    assert base == of(text)
    assert base == of(text + "!")  # in the rest that is dropped
    others = {of(text.replace("q", "Q", 1)), of(text, n_ctx=4), of(text, bos=2), of(text, add_bos=False)}
    assert len(others | {base}) == 5
    corpus = cut_words(Words(), text, 8)
    assert Corpus(corpus.inputs, corpus.tokens, "other.txt").content_hash() == base
    assert corpus.head(2).content_hash() != base


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\nb", "a\nb"),
        (b"a\nb\n", "a\nb"),
        (b"a\nb\n\n", "a\nb\n"),
        (b"a\r\nb\r\n", "a\r\nb\r"),
        ("é日\n".encode(), "é日"),
        (b"a\0b", "a\0b"),
    ],
)
def test_a_text_is_read_without_its_last_newline(raw: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(raw)
    assert read_text(tmp_path / "t.txt") == text


def test_bytes_that_are_no_text_reach_the_tokenizer_unchanged(tmp_path: Path) -> None:
    raw = b"caf\xe9 \xff\xfe " * 9
    (tmp_path / "t.txt").write_bytes(raw)
    corpus = read_corpus(cast(Model, Words(add_bos=False)), tmp_path / "t.txt", n_ctx=4)
    assert bytes(t - 3 for t in corpus.tokens.ravel().tolist()) == raw[: corpus.tokens.size]
    assert corpus.source == "t.txt"


@pytest.mark.parametrize("raw", [b"", b"\n", b" \t\r\n \n"])
def test_an_empty_text_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(raw)
    with pytest.raises(TextError, match="is empty") as caught:
        read_text(tmp_path / "t.txt")
    assert caught.value.path == str(tmp_path / "t.txt")


@pytest.mark.parametrize("name", ["nope.txt", "folder", "a\0b", "n" * 300])
def test_a_text_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(TextError, match="give the path of a text file") as caught:
        read_text(tmp_path / name)
    assert caught.value.path == str(tmp_path / name)


# ---- From scores to figures -------------------------------------------------------------------------


def some_scores(mode: str, n_chunks: int = 7, n_scored: int = 31, seed: int = SEED) -> TokenScores:
    """Scores of a plausible model, in the precision each arithmetic gives them."""
    rng = np.random.default_rng([seed, n_chunks, n_scored])
    shape = (n_chunks, n_scored)
    nll_ref = rng.gamma(1.5, 2.0, shape)
    nll = np.abs(nll_ref + rng.normal(0.05, 0.3, shape))
    kld = rng.gamma(0.5, 0.05, shape)
    p_diff = np.exp(-nll) - np.exp(-nll_ref)
    same_top = rng.random(shape) < 0.9
    if mode == "compat":  # float32, but the divergence, which is summed in double
        nll, nll_ref, p_diff = (x.astype(np.float32).astype(np.float64) for x in (nll, nll_ref, p_diff))
    return TokenScores(nll, nll_ref, kld, p_diff, same_top, mode)  # type: ignore[arg-type]


@dataclass
class Sums:
    """What llama-perplexity adds up, token by token (tools/perplexity/perplexity.cpp, `log_softmax`)."""

    n: int = 0
    nll: float = 0.0
    nll2: float = 0.0
    base: float = 0.0
    base2: float = 0.0
    nll_base: float = 0.0
    kld: float = 0.0
    kld2: float = 0.0
    p_diff: float = 0.0
    p_diff2: float = 0.0
    p_diff4: float = 0.0
    same_top: int = 0

    def add(self, nll: float, base: float, kld: float, p_diff: float, same: bool) -> None:
        a, b, d = np.float32(nll), np.float32(base), np.float32(p_diff)
        self.n += 1
        self.nll += float(a)
        self.nll2 += float(a * a)
        self.base += float(b)
        self.base2 += float(b * b)
        self.nll_base += float(a * b)
        self.kld += kld
        self.kld2 += kld * kld
        self.p_diff += float(d)
        self.p_diff2 += float(d * d)
        self.p_diff4 += float(d * d) * float(d * d)
        self.same_top += same


def slow_sums(s: TokenScores) -> Sums:
    sums = Sums()
    arrays = [a.ravel().tolist() for a in (s.nll, s.nll_ref, s.kld, s.p_diff, s.same_top) if a is not None]
    for values in zip(*arrays, strict=True):
        sums.add(*values)
    return sums


def upstreams_error(total: float, total2: float, n: int) -> float:
    variance = total2 / n - (total / n) ** 2
    return math.sqrt(variance / (n - 1)) if variance > 0 and n > 10 else 0.0


def upstreams_percentile(values: list[np.float32], fraction: float) -> float:
    position = np.float32(fraction) * np.float32(len(values) - 1)
    index = int(position)
    rest = position - np.float32(index)
    return float((np.float32(1) - rest) * values[index] + rest * values[min(index + 1, len(values) - 1)])


def slow_compat(s: TokenScores) -> dict[str, float]:
    """`kl_divergence` of the same source, line by line."""
    assert s.kld is not None
    t = slow_sums(s)
    n = t.n
    ln_ppl, ln_base = t.nll / n, t.base / n
    se, se_base = upstreams_error(t.nll, t.nll2, n), upstreams_error(t.base, t.base2, n)
    cov = (t.nll_base / n - ln_ppl * ln_base) / (n - 1) if n >= 10 else 0.0
    ratio_se = math.sqrt(se * se + se_base * se_base - 2 * cov)
    kld_se = upstreams_error(t.kld, t.kld2, n)
    single = sorted(np.float32(x) for x in s.kld.ravel().tolist())
    middle = single[n // 2] if n % 2 else np.float32(0.5) * (single[n // 2] + single[n // 2 - 1])
    same = t.same_top / n
    ppl = math.exp(ln_ppl)
    return {
        "ppl": ppl,
        "ppl_se": ppl * se,
        "ppl_ref": math.exp(ln_base),
        "ppl_cor_ln": cov / (se * se_base),
        "ln_ppl_ratio": ln_ppl - ln_base,
        "ln_ppl_ratio_se": ratio_se,
        "ppl_ratio": math.exp(ln_ppl - ln_base),
        "ppl_ratio_se": math.exp(ln_ppl - ln_base) * ratio_se,
        "kld_mean": t.kld / n,
        "kld_se": kld_se,
        "kld_median": float(middle),
        "kld_p90": upstreams_percentile(single, 0.9),
        "kld_p95": upstreams_percentile(single, 0.95),
        "kld_p99": upstreams_percentile(single, 0.99),
        "kld_p99_9": upstreams_percentile(single, 0.999),
        "kld_max": float(single[-1]),
        "p_diff_mean": t.p_diff / n,
        "p_diff_rms": math.sqrt(t.p_diff2 / n),
        "top1_agreement": same,
        "top1_agreement_se": math.sqrt(same * (1 - same) / (n - 1)),
    }


# Sums of the same numbers in another order differ by n EPS of the largest partial sum; a standard error is
# the root of a difference of two such sums, which are here at most 100 times it.
SUM_TOLERANCE = 1e3 * EPS
ERROR_TOLERANCE = 1e5 * EPS


@pytest.mark.parametrize(("n_chunks", "n_scored"), [(1, 2), (2, 5), (3, 4), (7, 31), (8, 32), (40, 255)])
def test_compatible_figures_are_llama_perplexitys_formulas(n_chunks: int, n_scored: int) -> None:
    scores = some_scores("compat", n_chunks, n_scored)
    wanted = slow_compat(scores) if n_chunks * n_scored > 10 else {}
    found = summarize(scores, 64)
    assert (found.mode, found.n_tokens, found.n_chunks, found.n_ctx) == (
        *("compat", n_chunks * n_scored),
        *(n_chunks, 64),
    )
    for key, value in wanted.items():
        tolerance = ERROR_TOLERANCE if key.endswith(("_se", "_cor_ln")) else SUM_TOLERANCE
        assert getattr(found, key) == pytest.approx(value, rel=tolerance, abs=1e-300), key
    for estimate_, se in (("ppl", "ppl_se"), ("kld_mean", "kld_se")):
        value, error = getattr(found, estimate_), getattr(found, se)
        interval = found.ppl_ci95 if estimate_ == "ppl" else found.kld_ci95
        assert interval == pytest.approx((value - 1.96 * error, value + 1.96 * error))


def test_few_values_have_no_compatible_uncertainty() -> None:
    """As upstream: none up to ten values, and no covariance below ten."""
    found = summarize(some_scores("compat", 2, 5), 8)
    assert (found.ppl_se, found.kld_se, found.ln_ppl_ratio_se) == (0, 0, 0)
    assert summarize(some_scores("compat", 1, 11), 8).kld_se is not None
    assert (summarize(some_scores("compat", 1, 11), 8).kld_se or 0) > 0


def test_compatible_perplexity_alone_is_llama_perplexitys() -> None:
    nll = some_scores("exact").nll
    found = summarize(TokenScores(nll, mode="compat"), 64)
    values = nll.ravel().tolist()
    mean = sum(values) / len(values)
    error = upstreams_error(sum(values), sum(v * v for v in values), len(values))
    assert found.ppl == pytest.approx(math.exp(mean), rel=SUM_TOLERANCE)
    assert found.ppl_se == pytest.approx(math.exp(mean) * error, rel=ERROR_TOLERANCE)
    assert found.kld_mean is None


def slow_quantile(values: list[float], fraction: float) -> float:
    """Linear between the two neighbours."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize(("n_chunks", "n_scored"), [(1, 2), (2, 5), (7, 31), (40, 255)])
def test_exact_figures_are_plain_means_and_quantiles(n_chunks: int, n_scored: int) -> None:
    s = some_scores("exact", n_chunks, n_scored)
    assert s.nll_ref is not None
    assert s.kld is not None
    assert s.p_diff is not None
    assert s.same_top is not None
    n = n_chunks * n_scored
    nll, base, kld = (a.ravel().tolist() for a in (s.nll, s.nll_ref, s.kld))
    mean, mean_base = math.fsum(nll) / n, math.fsum(base) / n
    cov = math.fsum((a - mean) * (b - mean_base) for a, b in zip(nll, base, strict=True))
    var = math.fsum((a - mean) ** 2 for a in nll) * math.fsum((b - mean_base) ** 2 for b in base)
    wanted = {
        "ppl": math.exp(mean),
        "ppl_ref": math.exp(mean_base),
        "ln_ppl_ratio": mean - mean_base,
        "ppl_ratio": math.exp(mean - mean_base),
        "ppl_cor_ln": cov / math.sqrt(var),
        "kld_mean": math.fsum(kld) / n,
        "kld_median": slow_quantile(kld, 0.5),
        "kld_p90": slow_quantile(kld, 0.9),
        "kld_p95": slow_quantile(kld, 0.95),
        "kld_p99": slow_quantile(kld, 0.99),
        "kld_p99_9": slow_quantile(kld, 0.999),
        "kld_max": max(kld),
        "p_diff_mean": math.fsum(s.p_diff.ravel().tolist()) / n,
        "p_diff_rms": math.sqrt(math.fsum(x * x for x in s.p_diff.ravel().tolist()) / n),
        "top1_agreement": sum(s.same_top.ravel().tolist()) / n,
    }
    found = summarize(s, 64)
    assert (found.mode, found.n_tokens, found.n_chunks, found.n_ctx) == ("exact", n, n_chunks, 64)
    for key, value in wanted.items():
        assert getattr(found, key) == pytest.approx(value, rel=1e-9, abs=1e-12), key


def test_exact_intervals_are_those_of_the_resampled_figures() -> None:
    s = some_scores("exact", 25, 31)
    assert s.kld is not None
    assert s.nll_ref is not None
    found = summarize(s, 64)
    counts = Resamples.of(25).counts
    chunk_kld, chunk_nll = s.kld.mean(axis=1), s.nll.mean(axis=1)
    kld = [float((row * chunk_kld).sum() / row.sum()) for row in counts]
    ln_ppl = [float((row * chunk_nll).sum() / row.sum()) for row in counts]
    mean = float(s.kld.mean())
    assert found.kld_se == pytest.approx(float(np.std(kld, ddof=1)), rel=1e-9)
    assert found.ppl_se == pytest.approx(found.ppl * float(np.std(ln_ppl, ddof=1)), rel=1e-9)
    low, high = slow_quantile(kld, 0.025), slow_quantile(kld, 0.975)
    assert found.kld_ci95 == pytest.approx((2 * mean - high, 2 * mean - low), rel=1e-9)


@pytest.mark.parametrize("mode", ["exact", "compat"])
def test_a_model_equal_to_the_reference_has_ratio_and_correlation_one(mode: str) -> None:
    s = some_scores(mode)
    zeros = np.zeros_like(s.nll)
    same = TokenScores(s.nll, s.nll, zeros, zeros, zeros == 0, mode)  # type: ignore[arg-type]
    found = summarize(same, 64)
    assert (found.ppl_ratio, found.ln_ppl_ratio, found.top1_agreement) == (1, 0, 1)
    assert found.ppl_cor_ln == pytest.approx(1)
    assert (found.kld_mean, found.kld_max, found.kld_ci95) == (0, 0, (0, 0))
    assert found.ln_ppl_ratio_se == pytest.approx(0, abs=1e-8)


def test_the_interval_of_a_perplexity_holds_no_impossible_value() -> None:
    """A perplexity is at least 1, however few and different the chunks."""
    found = summarize(TokenScores(np.array([[3.0, 5.0], [7.0, 9.0], [4.0, 4.0]])), 8)
    assert 1 <= found.ppl_ci95[0] < found.ppl < found.ppl_ci95[1]


def test_a_model_that_is_lost_has_an_infinite_perplexity_and_no_warning() -> None:
    found = summarize(TokenScores(np.full((3, 4), 800.0) + np.arange(3)[:, None]), 8)
    assert found.ppl == math.inf


@pytest.mark.parametrize("mode", ["exact", "compat"])
def test_figures_become_json_without_those_that_were_not_measured(mode: str) -> None:
    s = some_scores(mode)
    full = summarize(s, 64).to_dict()
    assert set(full) == set(Evaluation.__dataclass_fields__)
    alone = summarize(TokenScores(s.nll, mode=s.mode), 64).to_dict()
    assert set(alone) == {"mode", "n_tokens", "n_chunks", "n_ctx", "ppl", "ppl_se", "ppl_ci95"}
    assert json.loads(json.dumps(full))["kld_mean"] == full["kld_mean"]


# ---- The bootstrap ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 300))
def test_every_resample_draws_as_many_chunks_as_there_are(n_chunks: int) -> None:
    counts = Resamples.of(n_chunks, n_resamples=20).counts
    assert counts.shape == (20, n_chunks)
    assert (counts.sum(axis=1) == n_chunks).all()
    assert ((counts >= 0) & (counts == np.round(counts))).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 120))
def test_a_resample_is_made_of_runs_of_neighbouring_chunks(n_chunks: int) -> None:
    """Round the circle, a count changes only where a run begins or ends: at most twice per run."""
    length = max(1, round(n_chunks ** (1 / 3)))
    n_runs = math.ceil(n_chunks / length)
    counts = Resamples.of(n_chunks, n_resamples=30).counts
    jumps = np.abs(counts - np.roll(counts, 1, axis=1)).sum(axis=1)
    assert (jumps <= 2 * n_runs).all()


def test_every_chunk_is_drawn_equally_often() -> None:
    counts = Resamples.of(64).counts
    # A count has a variance of at most the run length (4): five standard errors of its mean.
    tolerance = 5 * math.sqrt(4 / len(counts))
    assert np.abs(counts.mean(axis=0) - 1).max() < tolerance


def test_resamples_are_the_same_every_time_and_differ_by_seed() -> None:
    assert np.array_equal(Resamples.of(17).counts, Resamples.of(17).counts)
    assert not np.array_equal(Resamples.of(17).counts, Resamples.of(17, seed=1).counts)


def test_means_of_resamples_are_means_of_the_chunks_drawn() -> None:
    resamples = Resamples.of(9, n_resamples=50)
    values = np.random.default_rng(SEED).normal(size=9)
    for row, mean in zip(resamples.counts, resamples.means(values), strict=True):
        drawn = [v for v, count in zip(values, row, strict=True) for _ in range(int(count))]
        assert mean == pytest.approx(sum(drawn) / 9)


def test_one_chunk_says_nothing_about_its_spread() -> None:
    found = mean_estimate(np.array([[1.0, 2.0, 6.0]]), Resamples.of(1))
    assert (found.value, found.se, found.ci95, found.relative_half_width) == (3, 0, (3, 3), 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.floats(-5, 5), st.floats(0.01, 100), st.integers(0, 2**31))
def test_intervals_move_and_stretch_with_the_values(n: int, shift: float, scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(1.0, 1.0, (n, 3))
    resamples = Resamples.of(n, n_resamples=200)
    plain, moved = mean_estimate(values, resamples), mean_estimate(scale * values + shift, resamples)
    close = {"rel": 1e-9, "abs": 1e-9 * (scale + abs(shift))}
    assert moved.value == pytest.approx(scale * plain.value + shift, **close)
    assert moved.se == pytest.approx(scale * plain.se, **close)
    assert moved.ci95 == pytest.approx([scale * edge + shift for edge in plain.ci95], **close)
    assert moved.ci95[0] <= moved.ci95[1]


def noise(rng: np.random.Generator, n: int, memory: float) -> Doubles:
    """n chunk means whose neighbours resemble each other."""
    values = rng.normal(size=n)
    for i in range(1, n):
        values[i] = memory * values[i - 1] + math.sqrt(1 - memory**2) * values[i]
    return values


def coverage(memory: float, length: int | None = None, n: int = 100, repetitions: int = 400) -> float:
    """Share of samples whose 95 % interval holds the true mean, 0."""
    rng = np.random.default_rng([SEED, int(10 * memory)])
    resamples = Resamples.of(n, n_resamples=400)
    if length == 1:
        drawn = np.random.default_rng(SEED).integers(0, n, (400, n))
        resamples = Resamples(np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64))
    hits = 0
    for _ in range(repetitions):
        low, high = mean_estimate(noise(rng, n, memory)[:, None], resamples).ci95
        hits += low <= 0 <= high
    return hits / repetitions


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    # 400 repetitions: three standard errors are 0.033; the bootstrap of 100 values is a little too narrow.
    assert 0.95 - 0.06 < coverage(memory=0.0) < 0.95 + 0.033


def test_resampling_runs_keeps_intervals_honest_where_neighbours_resemble_each_other() -> None:
    """Single chunks would promise 95 % and hold the truth far less often."""
    single, runs = coverage(memory=0.5, length=1), coverage(memory=0.5)
    assert single < 0.80
    assert runs > single + 0.05


def test_a_paired_difference_forgets_what_the_text_shares() -> None:
    rng = np.random.default_rng(SEED)
    text = rng.normal(5, 3, (50, 1))  # some chunks are harder for every model
    first, second = text + rng.normal(0.02, 0.01, (50, 20)), text + rng.normal(0.0, 0.01, (50, 20))
    resamples = Resamples.of(50)
    apart = mean_estimate(first, resamples)
    difference = mean_estimate(first - second, resamples)
    assert difference.se < apart.se / 100
    assert verdict(difference) == "worse"
    assert verdict(mean_estimate(second - first, resamples)) == "better"


@pytest.mark.parametrize(
    ("ci95", "said"),
    [((-2, -1), "better"), ((1, 2), "worse"), ((-1, 1), "tie"), ((0, 1), "tie"), ((-1, 0), "tie")],
)
def test_a_difference_counts_only_if_zero_is_outside(ci95: tuple[float, float], said: str) -> None:
    assert verdict(Estimate(sum(ci95) / 2, 0.1, ci95)) == said


def test_the_relative_half_width_is_that_of_the_interval() -> None:
    assert Estimate(-4.0, 1.0, (-5.0, -3.0)).relative_half_width == 0.25
    assert Estimate(0.0, 1.0, (-1.0, 1.0)).relative_half_width == math.inf
    resampled = np.array([1.0, 2.0, 3.0])
    assert estimate(2.0, resampled).ci95 == pytest.approx((1.05, 2.95))


# ---- With a model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(builtin_model: Path) -> Iterator[Model]:
    with Model(builtin_model, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def random_weights(tiny_models: TinyModels) -> Iterator[Model]:
    """Another model with the same vocabulary."""
    with Model(tiny_models.dense, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def corpus(trained: Model, eval_text: str) -> Corpus:
    return cut(trained, eval_text[:3000], n_ctx=32).head(4)


def log_softmax(logits: npt.NDArray[np.float32]) -> Doubles:
    x = logits.astype(np.float64)
    top = x.max(axis=1, keepdims=True)
    found: Doubles = x - top - np.log(np.exp(x - top).sum(axis=1, keepdims=True))
    return found


def test_an_evaluation_is_the_obvious_sum_over_chunks(
    trained: Model, random_weights: Model, corpus: Corpus, recording_monitor: Any
) -> None:
    nll, base, kld, agree = [], [], [], []
    for inputs, tokens in zip(corpus.inputs, corpus.tokens, strict=True):
        log_q, log_p = log_softmax(random_weights.logits(inputs)), log_softmax(trained.logits(inputs))
        for position in range(16, 31):  # the second half; each position predicts the next token
            q, p, token = log_q[position], log_p[position], tokens[position + 1]
            nll.append(-q[token])
            base.append(-p[token])
            kld.append(float((np.exp(p) * (p - q)).sum()))
            agree.append(q.argmax() == p.argmax())
    found, scores = evaluate(random_weights, corpus, trained, monitor=recording_monitor)
    assert found.n_tokens == scores.n_tokens == len(nll) == 60
    assert found.ppl == pytest.approx(math.exp(np.mean(nll)), rel=1e-9)
    assert found.ppl_ref == pytest.approx(math.exp(np.mean(base)), rel=1e-9)
    assert found.kld_mean == pytest.approx(np.mean(kld), rel=1e-9)
    assert found.top1_agreement == np.mean(agree)
    np.testing.assert_allclose(scores.kld, np.reshape(kld, (4, 15)), rtol=1e-9)
    assert recording_monitor.started == [("evaluate", 4, "chunks")]
    assert recording_monitor.updates == [1, 2, 3, 4]
    assert recording_monitor.finished == 1


def test_the_reference_does_not_change_the_models_own_figures(
    trained: Model, random_weights: Model, corpus: Corpus
) -> None:
    with_reference, _ = evaluate(random_weights, corpus, trained)
    alone, scores = evaluate(random_weights, corpus)
    assert (alone.ppl, alone.ppl_se) == (with_reference.ppl, with_reference.ppl_se)
    assert scores.kld is None


def test_both_arithmetics_agree_to_the_precision_of_upstreams(
    trained: Model, random_weights: Model, corpus: Corpus
) -> None:
    exact, _ = evaluate(random_weights, corpus, trained)
    compat, _ = evaluate(random_weights, corpus, trained, mode="compat")
    assert compat.ppl == pytest.approx(exact.ppl, rel=1e-5)
    # The reference's log-probabilities lie on a grid of 65536 steps over at most 16 nats, cut off below.
    assert compat.kld_mean == pytest.approx(exact.kld_mean, rel=1e-3)
    assert compat.kld_mean != exact.kld_mean


def test_scoring_may_stop_after_any_chunk(trained: Model, corpus: Corpus) -> None:
    whole = list(score_chunks(trained, corpus))
    some = score_chunks(trained, corpus)
    first = next(some)
    some.close()
    assert np.array_equal(first.nll, whole[0].nll)
    together = joined(whole)
    assert together.nll.shape == (4, 15)
    assert np.array_equal(together.nll[2], whole[2].nll[0])


def test_a_reference_with_another_vocabulary_is_refused(corpus: Corpus) -> None:
    logits, reference = np.zeros((15, 4096), np.float32), np.zeros((15, 4000), np.float32)
    with pytest.raises(ShapeError, match="same tokenizer") as caught:
        score_chunk(logits, corpus, 0, reference)
    assert (caught.value.expected, caught.value.got) == ("4000", "4096")


@pytest.mark.parametrize(
    ("whose", "mode"),
    [("model", "exact"), ("model", "compat"), ("reference", "exact"), ("reference", "compat")],
)
def test_logits_that_are_not_finite_are_refused_with_their_chunk(
    whose: str, mode: Any, corpus: Corpus
) -> None:
    good, bad = np.zeros((15, 4096), np.float32), np.zeros((15, 4096), np.float32)
    bad[[3, 7], 99] = np.nan
    logits, reference = (bad, good) if whose == "model" else (good, bad)
    with pytest.raises(NonFiniteError, match="2 of 15") as caught:
        score_chunk(logits, corpus, 2, reference, mode=mode)
    assert caught.value.row == 2
