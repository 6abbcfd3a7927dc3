"""What a row loses, against the obvious way: quantize, dequantize, subtract in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.core.quantize import (
    RowErrors,
    dequantize,
    error_quantile,
    quantization_error,
    quantize,
    row_errors,
)
from mqnative.errors import (
    ImatrixError,
    NonFiniteError,
    QuantizeError,
    ShapeError,
    UnsupportedTypeError,
)
from mqnative.formats.qtypes import all_types, qtype
from tiny_models import Floats, bf16_bits, bf16_floats, heavy_tailed

SEED = 99
TARGETS = [t.name for t in all_types().values() if t.is_target]
SHAPE = (3, 37, 256)  # experts, rows, weights
FIELDS = ("d2", "vd2", "max_abs", "wq", "q2", "vwq", "vq2")

# Both sides add n float64 products, each exact to EPS or so, in different orders: the results differ by
# at most 2 n EPS of the sum of the magnitudes.
EPS = np.finfo(np.float64).eps


class SlowErrors(NamedTuple):
    """The sums, and the sums of the magnitudes that were added."""

    sums: dict[str, npt.NDArray[np.float64]]
    magnitudes: dict[str, npt.NDArray[np.float64]]


def weights(*shape: int) -> Floats:
    return heavy_tailed(np.random.default_rng([SEED, *shape]), *shape)


def importances(*shape: int) -> Floats:
    return np.random.default_rng([SEED, *shape]).gamma(0.5, 1.0, shape).astype(np.float32)


def slow_errors(x: Floats, target: str, imatrix: Floats | None) -> SlowErrors:
    """Every figure of `RowErrors` for all rows, one NumPy expression each."""
    q = dequantize(quantize(x, target, imatrix), target)
    float32_difference = np.abs(q - x)
    w, q64 = x.astype(np.float64), q.astype(np.float64)
    d = q64 - w
    ones = np.ones((x.shape[0], x.shape[2]))
    v = (ones if imatrix is None else imatrix.astype(np.float64))[:, None, :]
    terms = {
        "d2": d * d, "vd2": v * d * d, "wq": w * q64, "q2": q64 * q64, "vwq": v * w * q64,
        "vq2": v * q64 * q64, "w2": w * w, "vw2": v * w * w,
    }  # fmt: skip
    sums = {name: t.sum(axis=-1).ravel() for name, t in terms.items()}
    magnitudes = {name: np.abs(t).sum(axis=-1).ravel() for name, t in terms.items()}
    sums["max_abs"] = float32_difference.max(axis=-1).ravel().astype(np.float64)
    magnitudes["max_abs"] = np.zeros_like(sums["max_abs"])  # exact
    return SlowErrors(sums, magnitudes)


def measured(x: Floats, targets: list[str], imatrix: Floats | None = None, **kw: Any) -> RowErrors:
    return row_errors(x, qtype("F32"), (x.shape[0], x.shape[1], x.shape[2]), targets, imatrix, **kw)


@pytest.mark.parametrize("weighted", [True, False], ids=["imatrix", "plain"])
@pytest.mark.parametrize("target", TARGETS)
def test_sums_are_those_of_the_slow_way(target: str, weighted: bool) -> None:
    if not weighted and qtype(target).needs_imatrix:
        with pytest.raises(ImatrixError):
            measured(weights(*SHAPE), [target])
        return
    x = weights(*SHAPE)
    imatrix = importances(SHAPE[0], SHAPE[2]) if weighted else None
    found = measured(x, [target], imatrix)
    slow = slow_errors(x, target, imatrix)
    assert found.qtypes == (target,)
    for name in FIELDS:
        tolerance = 2 * SHAPE[2] * EPS * slow.magnitudes[name]
        assert (np.abs(getattr(found, name)[0] - slow.sums[name]) <= tolerance).all(), name
    for name in ("w2", "vw2"):
        tolerance = 2 * SHAPE[2] * EPS * slow.magnitudes[name]
        assert (np.abs(getattr(found, name) - slow.sums[name]) <= tolerance).all(), name


@pytest.mark.parametrize("n_per_row", [1, 2, 3, 5, 255])
@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_rows_of_any_length_are_summed_to_their_end(target: str, n_per_row: int) -> None:
    """Lengths below, beside and between the widths of a vector loop; only floats have no blocks."""
    x, imatrix = weights(2, 3, n_per_row), importances(2, n_per_row)
    found, slow = measured(x, [target], imatrix), slow_errors(x, target, imatrix)
    for name in FIELDS:
        tolerance = 2 * n_per_row * EPS * slow.magnitudes[name]
        assert (np.abs(getattr(found, name)[0] - slow.sums[name]) <= tolerance).all(), name


@pytest.mark.parametrize("n_per_row", [1, 15, 33, 256, 300, 512])
@pytest.mark.parametrize("weighted", [True, False], ids=["imatrix", "plain"])
def test_peaks_are_the_largest_squares_of_blocks_times_their_importances(
    n_per_row: int, weighted: bool
) -> None:
    x = weights(2, 3, n_per_row)
    imatrix = importances(2, n_per_row) if weighted else None
    found = measured(x, [], imatrix)
    v = np.ones((2, n_per_row)) if imatrix is None else imatrix.astype(np.float64)
    squares = x.astype(np.float64) ** 2
    for peaks, block in zip(found.peaks, (16, 32, 256), strict=True):
        starts = range(0, n_per_row, block)
        wanted = sum(
            squares[:, :, i : i + block].max(axis=2) * v[:, None, i : i + block].sum(axis=2) for i in starts
        )
        assert peaks == pytest.approx(np.ravel(wanted), rel=1e-12)


def test_without_importances_the_weighted_sums_are_the_plain_ones() -> None:
    found = measured(weights(*SHAPE), ["Q4_K"])
    for plain, weighted in (("d2", "vd2"), ("wq", "vwq"), ("q2", "vq2"), ("w2", "vw2")):
        assert np.array_equal(getattr(found, plain), getattr(found, weighted))


def test_many_types_at_once_are_the_same_as_one_after_the_other() -> None:
    x, imatrix = weights(*SHAPE), importances(SHAPE[0], SHAPE[2])
    together = measured(x, TARGETS, imatrix, histogram=True)
    for i, target in enumerate(TARGETS):
        alone = measured(x, [target], imatrix, histogram=True)
        for name in FIELDS:
            assert np.array_equal(getattr(together, name)[i], getattr(alone, name)[0])
        assert np.array_equal(together.histogram[i], alone.histogram[0])
        assert np.array_equal(together.vw2, alone.vw2)


@pytest.mark.parametrize("source", ["F16", "BF16", "Q8_0"])
def test_rows_of_another_source_type_are_decoded_first(source: str) -> None:
    x = weights(1, 8, 256)
    stored = {
        "F16": lambda: (x.astype(np.float16), x.astype(np.float16).astype(np.float32)),
        "BF16": lambda: (bf16_bits(x), bf16_floats(bf16_bits(x))),
        "Q8_0": lambda: (quantize(x, "Q8_0"), dequantize(quantize(x, "Q8_0"), "Q8_0")),
    }[source]()
    found = row_errors(stored[0], qtype(source), (1, 8, 256), ["Q4_K"])
    wanted = measured(np.ascontiguousarray(stored[1]), ["Q4_K"])
    assert np.array_equal(found.d2, wanted.d2)
    assert np.array_equal(found.w2, wanted.w2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.integers(0, SHAPE[0] * SHAPE[1] - 1), min_size=1, max_size=60),
    target=st.sampled_from(["Q4_K", "Q8_0", "IQ4_XS", "IQ2_XS"]),
)
def test_sampled_rows_equal_the_same_rows_of_the_whole(rows: list[int], target: str) -> None:
    """In any order, repeated or not: a row's number counts over all experts."""
    x, imatrix = weights(*SHAPE), importances(SHAPE[0], SHAPE[2])
    numbers = np.array(rows, np.int64)
    whole = measured(x, [target], imatrix)
    sample = measured(x, [target], imatrix, rows=numbers)
    assert np.array_equal(sample.rows, numbers)
    for name in FIELDS:
        assert np.array_equal(getattr(sample, name)[0], getattr(whole, name)[0][numbers])
    assert np.array_equal(sample.vw2, whole.vw2[numbers])


@pytest.mark.parametrize("row", [-1, SHAPE[0] * SHAPE[1], 2**40])
def test_a_row_outside_the_tensor_is_refused(row: int) -> None:
    with pytest.raises(ShapeError, match=f"row {row} is outside") as caught:
        measured(weights(*SHAPE), ["Q8_0"], rows=np.array([0, row], np.int64))
    assert caught.value.got == row


def test_no_rows_and_no_types_give_empty_results() -> None:
    x = weights(*SHAPE)
    assert measured(x, ["Q8_0"], rows=np.empty(0, np.int64)).d2.shape == (1, 0)
    assert measured(x, []).d2.shape == (0, SHAPE[0] * SHAPE[1])


def test_row_numbers_that_are_no_integers_are_refused() -> None:
    with pytest.raises(ShapeError, match="integers, got float64"):
        measured(weights(*SHAPE), ["Q8_0"], rows=np.array([0.0, 1.5]))


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    # 600 rows of 256 make three tasks, the last one short.
    x, imatrix = weights(2, 300, 256), importances(2, 256)
    results = [measured(x, ["Q4_K", "IQ2_XS"], imatrix, histogram=True, n_threads=n) for n in (1, 2, 7)]
    for other in results[1:]:
        for name in (*FIELDS, "w2", "vw2", "histogram"):
            assert np.array_equal(getattr(other, name), getattr(results[0], name)), name


def test_every_type_is_checked_before_any_work(recording_monitor: Any) -> None:
    with pytest.raises(ImatrixError, match="IQ2_XS"):
        measured(weights(*SHAPE), ["Q8_0", "IQ2_XS"], monitor=recording_monitor)
    with pytest.raises(UnsupportedTypeError, match="Q8_1"):
        measured(weights(*SHAPE), ["Q8_0", "Q8_1"], monitor=recording_monitor)
    with pytest.raises(UnsupportedTypeError, match="rows of 64"):
        measured(weights(1, 4, 64), ["Q8_0", "Q4_K"], monitor=recording_monitor)
    assert recording_monitor.updates == []


def test_a_weight_that_is_not_finite_is_refused_with_its_row_and_slice() -> None:
    x = weights(*SHAPE)
    x[2, 36, 255] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        measured(x, ["Q8_0"])
    assert (caught.value.slice, caught.value.row) == (2, 36)
    measured(x, ["Q8_0"], rows=np.arange(10))  # rows that are not asked for are not read


@pytest.mark.parametrize("target", ["F16", "Q8_0", "Q4_K"])
def test_weights_that_quantize_would_refuse_are_refused(target: str) -> None:
    x = weights(*SHAPE) * np.float32(1e10)
    with pytest.raises(QuantizeError):
        quantize(x, target)
    with pytest.raises(QuantizeError):
        measured(x, [target])


def test_importances_of_another_length_are_refused() -> None:
    with pytest.raises(ShapeError):
        measured(weights(*SHAPE), ["Q4_K"], importances(1, SHAPE[2]))


def test_progress_counts_weights_times_types(recording_monitor: Any) -> None:
    measured(weights(*SHAPE), ["Q8_0", "Q4_0"], monitor=recording_monitor)
    total = 2 * int(np.prod(SHAPE))
    assert recording_monitor.started == [("weight errors", total, "weights")]
    assert recording_monitor.updates[-1] == total


# ---- Quantiles -------------------------------------------------------------------------------------

# A bin holds the floats that share exponent and five bits of mantissa. The widest is 33/32 from end to end,
# so that its geometric middle is at most sqrt(33/32) = 1.55 % from anything in it.
BIN_HALF_WIDTH = np.sqrt(33 / 32)
FRACTIONS = (0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


def exact_quantile(errors: Floats, fraction: float) -> float:
    """The smallest error that at least this fraction of all errors do not exceed."""
    ordered = np.sort(errors.ravel())
    return float(ordered[max(1, int(np.ceil(fraction * ordered.size))) - 1])


@pytest.mark.parametrize("target", ["Q8_0", "Q4_K", "IQ2_S", "TQ2_0", "BF16", "F16"])
def test_quantiles_are_within_half_a_bin_of_the_exact_ones(target: str) -> None:
    x = weights(*SHAPE)
    imatrix = importances(SHAPE[0], SHAPE[2])
    errors = np.abs(dequantize(quantize(x, target, imatrix), target) - x)
    found = quantization_error(x, [target], imatrix, quantiles=FRACTIONS)[target].quantiles
    for fraction in FRACTIONS:
        exact = exact_quantile(errors, fraction)
        if exact == 0:
            assert found[fraction] == 0
        else:
            assert 1 / BIN_HALF_WIDTH <= found[fraction] / exact <= BIN_HALF_WIDTH


def test_quantiles_are_within_the_promised_1_1_percent() -> None:
    # A ternary block loses 0.25 of every weight that is 0.25 when the largest is 1.
    x = np.full((1, 256), 0.25, np.float32)
    x[0, 0] = 1.0
    found = quantization_error(x, ["TQ2_0"], quantiles=(0.5,))["TQ2_0"].quantiles[0.5]
    assert found == pytest.approx(0.25, rel=0.011)


def test_all_errors_are_counted_once() -> None:
    x = weights(*SHAPE)
    found = measured(x, ["Q4_K", "F32"], histogram=True)
    assert found.histogram.sum(axis=1).tolist() == [x.size, x.size]
    assert found.histogram[1, 0] == x.size  # no error at all is the first bin
    assert error_quantile(found.histogram[1], 1.0) == 0.0
    assert measured(x, ["Q4_K"]).histogram is None


# ---- The summary of a tensor --------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False], ids=["imatrix", "plain"])
@pytest.mark.parametrize("target", ["Q8_0", "Q4_K", "IQ4_XS", "TQ1_0"])
def test_the_summary_is_that_of_the_slow_way(target: str, weighted: bool) -> None:
    x = weights(*SHAPE)
    imatrix = importances(SHAPE[0], SHAPE[2]) if weighted else None
    q = dequantize(quantize(x, target, imatrix), target).astype(np.float64)
    w = x.astype(np.float64)
    v = np.broadcast_to(1.0 if imatrix is None else imatrix[:, None, :].astype(np.float64), w.shape)
    found = quantization_error(x, [target], imatrix)[target]
    wanted = {
        "mse": np.mean((q - w) ** 2),
        "rmse": np.sqrt(np.mean((q - w) ** 2)),
        "max_abs": np.abs(q.astype(np.float32) - x).max(),
        "relative": ((q - w) ** 2).sum() / (w**2).sum(),
        "cosine": (w * q).sum() / np.sqrt((w**2).sum() * (q**2).sum()),
        "weighted_mse": (v * (q - w) ** 2).sum() / v.sum(),
        "weighted_relative": (v * (q - w) ** 2).sum() / (v * w**2).sum(),
        "weighted_cosine": (v * w * q).sum() / np.sqrt((v * w**2).sum() * (v * q**2).sum()),
    }
    # Sums of w.size terms of one sign (the cosine's of both, but they hardly cancel), a few of them combined.
    tolerance = 8 * w.size * EPS
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(value, rel=tolerance), name


def test_a_tensor_of_zeros_loses_nothing() -> None:
    found = quantization_error(np.zeros((2, 256), np.float32), ["Q4_K", "TQ2_0"])
    for error in found.values():
        assert (error.mse, error.relative, error.weighted_relative, error.max_abs) == (0, 0, 0, 0)
        assert set(error.quantiles.values()) == {0.0}


def test_importances_of_zero_everywhere_give_no_nan() -> None:
    found = quantization_error(weights(1, 2, 256)[0], ["Q8_0"], np.zeros(256, np.float32))["Q8_0"]
    assert (found.weighted_mse, found.weighted_relative, found.weighted_cosine) == (0, 0, 0)
    assert found.mse > 0


def test_more_bits_lose_less() -> None:
    found = quantization_error(weights(64, 256), ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"])
    errors = [e.mse for e in found.values()]
    assert errors == sorted(errors)
    assert errors[0] > 0
