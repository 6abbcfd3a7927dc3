"""Log-probabilities and divergences: exact ones against float64 NumPy, compatible ones against the same
float32 steps in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.core.native import core
from mqnative.errors import ShapeError

SEED = 77
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# csrc/fast_exp.hpp promises 1e-15 relative; the sums of n positive terms add n EPS in the worst order. The
# logarithm of such a sum is off by that much absolutely, and a logit less its norm rounds once more.
EPS = float(np.finfo(np.float64).eps)
EXP_ERROR = 1e-15
EPS32 = float(np.finfo(np.float32).eps)


def absolute_tolerance(n_vocab: int, largest: float) -> float:
    return n_vocab * EPS + EXP_ERROR + 4 * EPS * largest


def log_softmax(logits: Floats) -> Doubles:
    """The obvious one, in float64."""
    x = logits.astype(np.float64)
    top = x.max(axis=-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def pick(rows: npt.NDArray[Any], targets: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    return rows[np.arange(len(rows)), targets]


def slow_kld(reference: Floats, candidate: Floats) -> Doubles:
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        return np.where(p > 0, p * (log_p - log_q), 0.0).sum(axis=-1)


def some_logits(n_rows: int, n_vocab: int, scale: float = 3.0, seed: int = SEED) -> Floats:
    rng = np.random.default_rng([seed, n_rows, n_vocab])
    return (rng.standard_t(5, (n_rows, n_vocab)) * scale).astype(np.float32)


def some_targets(n_rows: int, n_vocab: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng([SEED, n_rows]).integers(0, n_vocab, n_rows).astype(np.int32)


def exact(candidate: Floats, targets: npt.NDArray[np.int32], reference: Floats | None = None) -> Any:
    """NLL, KLD, difference of probabilities, same top; the reference's own NLL is checked here."""
    norms = (None, None) if reference is None else core().softmax_norms(reference, 1)
    nll, nll_ref, *others = core().score_exact(candidate, targets, reference, *norms, 1)
    alone = np.zeros(0) if reference is None else exact(reference, targets)[0]
    assert np.array_equal(nll_ref, alone, equal_nan=True)
    return nll, *others


# ---- Exact ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [1, 2, 7, 8, 9, 15, 16, 17, 1000, 32_003])
@pytest.mark.parametrize("scale", [0.01, 3.0, 100.0])
def test_exact_scores_are_those_of_float64_numpy(n_vocab: int, scale: float) -> None:
    """Lengths below, at and above the width of the vector loop."""
    reference, noise = some_logits(9, n_vocab, scale), some_logits(9, n_vocab, 0.1, seed=1)
    candidate = (reference + noise).astype(np.float32)
    targets = some_targets(9, n_vocab)
    nll, kld, p_diff, same_top = exact(candidate, targets, reference)
    tolerance = absolute_tolerance(n_vocab, float(np.abs(reference).max()))
    log_q, log_p = log_softmax(candidate), log_softmax(reference)
    np.testing.assert_allclose(nll, -pick(log_q, targets), rtol=0, atol=tolerance)
    # Each term of the divergence carries the error of two logarithms, weighted by numbers that sum to 1.
    np.testing.assert_allclose(kld, slow_kld(reference, candidate), rtol=4 * tolerance, atol=4 * tolerance)
    wanted = np.exp(pick(log_q, targets)) - np.exp(pick(log_p, targets))
    np.testing.assert_allclose(p_diff, wanted, rtol=0, atol=4 * tolerance)
    assert np.array_equal(same_top, candidate.argmax(axis=1) == reference.argmax(axis=1))


def test_without_a_reference_only_the_nll_is_given() -> None:
    x, targets = some_logits(5, 100), some_targets(5, 100)
    nll, kld, p_diff, same_top = exact(x, targets)
    assert np.array_equal(nll, exact(x, targets, some_logits(5, 100, seed=2))[0])
    assert kld.shape == p_diff.shape == same_top.shape == (0,)


@pytest.mark.parametrize("offset", [1e4, -1e4, 1e6, -1e6])
def test_logits_far_from_zero_give_the_same_probabilities(offset: float) -> None:
    x = np.full((2, 50), offset, np.float32)
    x[1, 3] += 80
    nll, kld, _, _ = exact(x, np.array([3, 4], np.int32), x)
    assert nll == pytest.approx([np.log(50), 80], abs=absolute_tolerance(50, abs(offset)))
    assert kld.tolist() == [0.0, 0.0]


def test_the_largest_and_smallest_floats_are_logits_like_others() -> None:
    huge = float(np.finfo(np.float32).max)
    x = np.zeros((2, 50), np.float32)
    x[:, 3], x[:, 4] = huge, -huge
    nll, kld, _, same_top = exact(x, np.array([3, 4], np.int32), x)
    assert nll.tolist() == [0.0, 2 * huge]
    assert kld.tolist() == [0.0, 0.0]
    assert same_top.tolist() == [1, 1]


def test_a_sure_reference_costs_the_candidates_nll() -> None:
    """With all probability on one token, the divergence is what the candidate pays for that token."""
    reference = np.full((1, 100), -1e4, np.float32)
    reference[0, 17] = 0.0
    candidate = some_logits(1, 100)
    nll, kld, _, _ = exact(candidate, np.array([17], np.int32), reference)
    assert kld[0] == pytest.approx(nll[0], abs=2 * absolute_tolerance(100, 1e4))


def test_tokens_the_reference_rules_out_count_nothing() -> None:
    reference, candidate = some_logits(3, 64), some_logits(3, 64, seed=5)
    targets = some_targets(3, 60)
    reference[:, 60:] = -np.inf
    _, kld, _, _ = exact(candidate, targets, reference)
    candidate_without = candidate.copy()
    candidate_without[:, 60:] = -np.inf
    _, without, _, _ = exact(candidate_without, targets, reference)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(kld, slow_kld(reference, candidate), rtol=0, atol=1e-12)
        np.testing.assert_allclose(without, slow_kld(reference, candidate_without), rtol=0, atol=1e-12)
    assert np.isfinite(without).all()


def test_a_token_only_the_candidate_rules_out_costs_infinitely_much() -> None:
    reference, candidate = some_logits(1, 64), some_logits(1, 64)
    candidate[0, 5] = -np.inf
    nll, kld, p_diff, _ = exact(candidate, np.array([5], np.int32), reference)
    assert nll[0] == np.inf
    assert kld[0] == np.inf
    assert p_diff[0] == pytest.approx(-np.exp(log_softmax(reference)[0, 5]), abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 3, 8, 63, 66])
def test_a_row_with_nan_or_plus_infinity_gives_nan_and_no_other_row_does(bad: float, where: int) -> None:
    """In the vector part, and in the tail."""
    clean, targets = some_logits(3, 67), np.array([1, 1, 1], np.int32)
    broken = clean.copy()
    broken[1, where] = bad
    nll, kld, p_diff, _ = exact(broken, targets, clean)
    for result in (nll, kld, p_diff):
        assert np.isnan(result).tolist() == [False, True, False]
    nll, kld, p_diff, _ = exact(clean, targets, broken)
    assert np.isfinite(nll).all()  # the candidate's own figure needs no reference
    for result in (kld, p_diff):
        assert np.isnan(result).tolist() == [False, True, False]


def test_a_row_of_nothing_but_minus_infinity_gives_nan() -> None:
    x = np.full((1, 20), -np.inf, np.float32)
    nll, kld, p_diff, _ = exact(x, np.array([0], np.int32), x)
    assert np.isnan([nll[0], kld[0], p_diff[0]]).all()


def test_ties_for_the_top_go_to_the_lowest_id() -> None:
    reference = np.zeros((1, 40), np.float32)
    reference[0, [9, 21]] = 1.0
    for top, same in ((9, 1), (21, 0)):
        candidate = np.zeros((1, 40), np.float32)
        candidate[0, top] = 2.0
        assert exact(candidate, np.array([0], np.int32), reference)[3].tolist() == [same]


EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
finite_rows = st.tuples(
    st.integers(1, 4), st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1, 10, 1e3])
)


@EXAMPLES
@given(finite_rows)
def test_divergence_from_itself_is_exactly_zero(parts: tuple[int, int, int, float]) -> None:
    n_rows, n_vocab, seed, scale = parts
    x = some_logits(n_rows, n_vocab, scale, seed)
    x[:, ::7] = -np.inf if n_vocab > 1 else 0.0
    x[:, -1] = 1.0
    _, kld, p_diff, same_top = exact(x, some_targets(n_rows, n_vocab), x)
    assert kld.tolist() == [0.0] * n_rows
    assert p_diff.tolist() == [0.0] * n_rows
    assert same_top.all()


@EXAMPLES
@given(finite_rows, st.sampled_from([1e-6, 1e-3, 1.0]))
def test_divergence_is_not_negative(parts: tuple[int, int, int, float], noise: float) -> None:
    n_rows, n_vocab, seed, scale = parts
    reference = some_logits(n_rows, n_vocab, scale, seed)
    candidate = (reference + some_logits(n_rows, n_vocab, noise, seed + 1)).astype(np.float32)
    _, kld, p_diff, _ = exact(candidate, some_targets(n_rows, n_vocab), reference)
    assert (kld >= -1e-12).all()
    assert (np.abs(p_diff) <= 1).all()


@EXAMPLES
@given(finite_rows, st.floats(-100, 100, width=16))
def test_a_constant_added_to_all_logits_changes_nothing(
    parts: tuple[int, int, int, float], shift: float
) -> None:
    n_rows, n_vocab, seed, _ = parts
    # Small integers: adding the constant is exact in float32.
    x = np.random.default_rng(seed).integers(-30, 30, (n_rows, n_vocab)).astype(np.float32)
    shift32 = np.float32(np.round(shift))
    targets = some_targets(n_rows, n_vocab)
    tolerance = absolute_tolerance(n_vocab, 130.0)
    np.testing.assert_allclose(exact(x + shift32, targets)[0], exact(x, targets)[0], atol=tolerance, rtol=0)
    assert np.abs(exact(x + shift32, targets, x)[1]).max() <= 4 * tolerance


@pytest.mark.parametrize("function", ["score_exact", "score_compat"])
def test_scores_do_not_depend_on_the_number_of_threads(function: str) -> None:
    reference, candidate = some_logits(51, 333), some_logits(51, 333, seed=3)
    targets = some_targets(51, 333)
    score = getattr(core(), function)

    def scores(n_threads: int) -> list[Any]:
        norms = core().softmax_norms(reference, n_threads)
        given = norms if function == "score_exact" else ()
        return [*norms, *score(candidate, targets, reference, *given, n_threads)]

    one = scores(1)
    for n_threads in (2, 7):
        for a, b in zip(one, scores(n_threads), strict=True):
            assert np.array_equal(a, b)


# ---- Compatible with llama-perplexity -----------------------------------------------------------------
# The formulas are those of tools/perplexity/perplexity.cpp, step by step in float32. NumPy's float32 exp and
# log need not round as the C library's do (each is good to a few units in the last place); sums of n terms
# are in float64 in both.

EXP32_ERROR = 4 * EPS32


def packed(x: Floats) -> tuple[np.float32, np.float32, npt.NDArray[np.uint16]]:
    """A reference row as the base file keeps it: scale, least log-probability, 16-bit steps."""
    top = x.max()
    low = np.maximum(x.min(), top - np.float32(16))
    log_sum = np.float32(np.log(np.exp(x - top).astype(np.float64).sum()))
    scale = (top - low) / np.float32(65535)
    q = np.zeros(len(x), np.uint16)
    if scale != 0:
        steps = np.rint((np.float32(1) / scale) * (x - low)).astype(np.int64)
        q = np.where(x > low, steps, 0).astype(np.uint16)
    return scale, low - top - log_sum, q


def slow_compat(x: Floats, target: int, reference: Floats) -> tuple[float, float, float, float, bool]:
    scale, least, q = packed(reference)
    log_base = scale * q.astype(np.float32) + least
    top = x.max()
    log_sum = np.float32(np.log(np.exp(x - top).astype(np.float64).sum()))
    nll = top + log_sum - x[target]
    nll_base = -(scale * np.float32(q[target]) + least)
    counted = log_base > np.float32(-16)
    terms = np.exp(log_base) * (log_base - x + (top + log_sum))
    kld = terms[counted].astype(np.float64).sum()
    p_diff = np.exp(-nll) - np.exp(-nll_base)
    same_top = int(x.argmax()) == int(log_base.argmax())
    return float(nll), float(nll_base), float(kld), float(p_diff), same_top


@pytest.mark.parametrize("n_vocab", [2, 33, 1000, 32_001])
@pytest.mark.parametrize("scale", [0.5, 4.0, 30.0])
def test_compatible_scores_are_those_of_the_same_steps_in_numpy(n_vocab: int, scale: float) -> None:
    reference = some_logits(6, n_vocab, scale)
    candidate = (reference + some_logits(6, n_vocab, 0.3, seed=4)).astype(np.float32)
    targets = some_targets(6, n_vocab)
    nll, nll_base, kld, p_diff, same_top = core().score_compat(candidate, targets, reference, 1)
    assert (nll.dtype, nll_base.dtype, kld.dtype, p_diff.dtype) == (*[np.float32] * 2, np.float64, np.float32)
    for row in range(6):
        wanted = slow_compat(candidate[row], int(targets[row]), reference[row])
        # One unit of the largest float32 that entered: the logits, not their difference.
        unit = EPS32 * max(1.0, float(np.abs(candidate[row]).max()), float(np.abs(reference[row]).max()))
        assert nll[row] == pytest.approx(wanted[0], abs=4 * unit)
        assert nll_base[row] == pytest.approx(wanted[1], abs=4 * unit)
        # Probabilities sum to about 1, and a factor is at most about the spread of the logits.
        spread = float(np.ptp(candidate[row])) + 16
        assert kld[row] == pytest.approx(wanted[2], abs=8 * unit + 2 * EXP32_ERROR * spread)
        assert p_diff[row] == pytest.approx(wanted[3], abs=4 * unit + 2 * EXP32_ERROR)
        assert same_top[row] == wanted[4]


def test_the_packed_reference_has_65536_steps_below_its_top_and_is_clipped_at_16() -> None:
    """Seen through nll_base: a logit comes back to half a step, and none is further than 16 below the top."""
    n = 400
    reference = np.linspace(0.0, -39.9, n, dtype=np.float32)[None].repeat(n, axis=0)
    targets = np.arange(n, dtype=np.int32)
    nll_base = core().score_compat(reference, targets, reference, 1)[1]
    true = -pick(log_softmax(reference), targets)
    half_step = 0.5 * 16 / 65535
    kept = -reference[0] < 16
    assert np.abs(nll_base[kept] - true[kept]).max() <= half_step + 32 * EPS32
    clipped = nll_base[~kept] - nll_base[0]
    np.testing.assert_allclose(clipped, 16.0, atol=64 * EPS32)


def test_a_flat_reference_is_kept_exactly() -> None:
    flat = np.full((1, 64), 2.5, np.float32)
    nll, nll_base, kld, p_diff, same_top = core().score_compat(flat, np.array([7], np.int32), flat, 1)
    assert nll[0] == nll_base[0] == np.float32(np.log(64))
    assert (kld[0], p_diff[0], same_top[0]) == (0.0, 0.0, 1)


def test_compatible_and_exact_divergence_agree_to_the_step_of_the_packing() -> None:
    reference = some_logits(20, 500, 2.0)
    candidate = (reference + some_logits(20, 500, 0.5, seed=8)).astype(np.float32)
    targets = some_targets(20, 500)
    rounded = core().score_compat(candidate, targets, reference, 1)[2]
    kld = exact(candidate, targets, reference)[1]
    # A log-probability is off by up to half a step: that much in each factor, and relatively in each weight.
    half_step = 0.5 * 16 / 65535
    largest_factor = np.abs(log_softmax(reference) - log_softmax(candidate)).max()
    assert np.abs(rounded - kld).max() <= 2 * half_step * (1 + largest_factor)
    assert not np.array_equal(rounded, kld)


@pytest.mark.parametrize("n_vocab", [2, 33, 32_001])
def test_plain_perplexity_sums_in_float64(n_vocab: int) -> None:
    x, targets = some_logits(7, n_vocab), some_targets(7, n_vocab)
    nll = core().score_compat_nll(x, targets, 2)
    assert nll.dtype == np.float64
    for row in range(7):
        top = x[row].max()
        log_sum = np.log(np.exp(x[row] - top).astype(np.float64).sum())
        wanted = -(float(x[row, targets[row]] - top) - log_sum)
        assert nll[row] == pytest.approx(wanted, abs=EXP32_ERROR)


# ---- What is refused ----------------------------------------------------------------------------------


def some_norms(logits: Any) -> tuple[Any, Any]:
    return np.zeros(len(logits)), np.zeros(len(logits), np.int64)


def calls(candidate: Any, targets: Any, reference: Any) -> dict[str, Any]:
    return {
        "exact": lambda: core().score_exact(candidate, targets, reference, *some_norms(candidate), 1),
        "compat": lambda: core().score_compat(candidate, targets, reference, 1),
        "nll": lambda: core().score_compat_nll(candidate, targets, 1),
    }


@pytest.mark.parametrize("name", ["exact", "compat", "nll"])
@pytest.mark.parametrize("target", [-1, 64, 2**31 - 1])
def test_a_target_outside_the_vocabulary_is_refused(name: str, target: int) -> None:
    x = some_logits(2, 64)
    with pytest.raises(ShapeError, match=f"target {target} "):
        calls(x, np.array([0, target], np.int32), x)[name]()


@pytest.mark.parametrize("name", ["exact", "compat", "nll"])
@pytest.mark.parametrize(
    ("shape", "n_targets"), [((2, 64), 1), ((2, 64), 3), ((128,), 2), ((2, 0), 2), ((1, 2, 64), 1)], ids=str
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], n_targets: int) -> None:
    x = np.zeros(shape, np.float32)
    with pytest.raises(ShapeError):
        calls(x, np.zeros(n_targets, np.int32), x)[name]()


@pytest.mark.parametrize("name", ["exact", "compat"])
def test_a_reference_of_another_size_or_dtype_is_refused(name: str) -> None:
    x, targets = some_logits(2, 64), some_targets(2, 64)
    for reference in (some_logits(2, 63), some_logits(3, 64), x.astype(np.float64), x[:, ::2]):
        with pytest.raises(ShapeError):
            calls(x, targets, reference)[name]()


def test_compatible_scores_need_a_reference() -> None:
    x, targets = some_logits(2, 64), some_targets(2, 64)
    with pytest.raises(ShapeError, match="reference"):
        core().score_compat(x, targets, None, 1)


@pytest.mark.parametrize("name", ["exact", "compat", "nll"])
def test_no_rows_give_empty_results(name: str) -> None:
    x = np.empty((0, 64), np.float32)
    results = calls(x, np.empty(0, np.int32), x)[name]()
    for result in results if isinstance(results, tuple) else (results,):
        assert result.shape == (0,)


@pytest.mark.parametrize("name", ["exact", "nll"])
def test_logits_of_another_dtype_are_not_converted(name: str) -> None:
    x, targets = some_logits(2, 64), some_targets(2, 64)
    with pytest.raises((TypeError, ShapeError)):
        calls(x.astype(np.float64), targets, None)[name]()
    with pytest.raises((TypeError, ShapeError)):
        calls(x, targets.astype(np.int64), None)[name]()


@pytest.mark.parametrize("what", ["columns", "fortran", "float16", "list", "targets"])
def test_arrays_are_refused_not_copied(what: str) -> None:
    x, targets = some_logits(4, 64), some_targets(4, 32)
    given = {
        "columns": (x[:, ::2], targets),
        "fortran": (np.asfortranarray(x), targets),
        "float16": (x.astype(np.float16), targets),
        "list": (x.tolist(), targets),
        "targets": (x, targets.repeat(2)[::2]),
    }[what]
    reference = np.ascontiguousarray(given[0], np.float32)
    for call in calls(*given, reference).values():
        with pytest.raises((TypeError, ShapeError)):
            call()
