"""Encoding and decoding: what is refused, what never changes, how large an error may be.

The bytes themselves are compared with upstream's in test_golden_bytes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.core.native import core
from mqnative.core.quantize import dequantize, quantize, quantize_blocks, validate_blocks
from mqnative.errors import (
    ImatrixError,
    NonFiniteError,
    OperationCancelled,
    QuantizeError,
    ShapeError,
    UnsupportedTypeError,
)
from mqnative.formats.qtypes import all_types, qtype
from tiny_models import Floats, bf16_bits, bf16_floats, heavy_tailed

SEED = 1234
TARGETS = [t.name for t in all_types().values() if t.is_target]
OTHERS = [t.name for t in all_types().values() if not t.is_target]
BLOCK_TYPES = [name for name in TARGETS if qtype(name).block > 1]
N_PER_ROW = 256  # holds whole blocks of every type

# Tests of a rule that is one for all types take one of each family: legacy, K, codebook, ternary, fp4, float.
FAMILIES = ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_XS", "TQ2_0", "MXFP4", "BF16"]
# Notes 2.2: their kernels do not look at importances.
WITHOUT_WEIGHTING = {"Q8_0", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "F32", "F16", "BF16"}


def matrix(*shape: int, seed: int = SEED) -> Floats:
    return heavy_tailed(np.random.default_rng([seed, *shape]), *shape)


def importances(*shape: int, seed: int = SEED) -> Floats:
    """Heavy-tailed and positive, as squared activations are."""
    return np.random.default_rng([seed, *shape]).gamma(0.5, 1.0, shape).astype(np.float32)


def uniform_importances(target: str, n: int) -> Floats | None:
    """None where the type does without; the importances that say nothing where it does not."""
    return np.ones(n, np.float32) if qtype(target).needs_imatrix else None


def round_trip(x: Floats, target: str) -> Floats:
    return dequantize(quantize(x, target, uniform_importances(target, x.shape[-1])), target)


# ---- Shapes and dtypes ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(512,), (1, 256), (3, 512), (2, 3, 256)], ids=str)
def test_the_last_axis_becomes_bytes_and_comes_back(target: str, shape: tuple[int, ...]) -> None:
    blocks = quantize(matrix(*shape), target, uniform_importances(target, shape[-1] * _slices(shape)))
    assert blocks.dtype == np.uint8
    assert blocks.shape == (*shape[:-1], qtype(target).row_bytes(shape[-1]))
    decoded = dequantize(blocks, target)
    assert decoded.dtype == np.float32
    assert decoded.shape == shape


def _slices(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


@pytest.mark.parametrize("target", TARGETS)
def test_a_half_precision_source_gives_the_bytes_of_the_same_numbers_in_float32(target: str) -> None:
    weighting = uniform_importances(target, N_PER_ROW)
    x = matrix(8, N_PER_ROW)
    half = x.astype(np.float16)
    brain = bf16_bits(x)
    assert np.array_equal(
        quantize(half, target, weighting), quantize(half.astype(np.float32), target, weighting)
    )
    assert np.array_equal(quantize(brain, target, weighting), quantize(bf16_floats(brain), target, weighting))


@pytest.mark.parametrize("source", ["Q8_0", "Q4_K", "IQ4_XS"])
def test_a_quantized_source_gives_the_bytes_of_its_decoded_numbers(source: str) -> None:
    blocks = quantize(matrix(4, 512), source)
    again = quantize_blocks(blocks, qtype(source), (1, 4, 512), qtype("Q5_K"))
    assert np.array_equal(again, quantize(dequantize(blocks, source), "Q5_K").ravel())


def test_a_read_only_source_is_fine() -> None:
    x = matrix(2, 256)
    wanted = quantize(x, "Q4_K")
    x.flags.writeable = False
    assert np.array_equal(quantize(x, "Q4_K"), wanted)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 256), np.float64),
        np.zeros((2, 256), np.int16),
        np.zeros((2, 256), np.int32),
        np.zeros((2, 256), ">f4"),
        np.zeros((2, 256), np.complex64),
        np.zeros((2, 256), object),
    ],
    ids=lambda x: str(x.dtype),
)
def test_other_dtypes_are_refused_not_converted(x: npt.NDArray[Any]) -> None:
    with pytest.raises(ShapeError, match="convert it first") as caught:
        quantize(x, "Q8_0")
    assert caught.value.got == str(x.dtype)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x[::2],
        lambda x: x.T,
        lambda x: x[:, ::-1],
        np.asfortranarray,
        lambda x: x.reshape(2, 256, 256).transpose(1, 0, 2),
    ],
    ids=["columns", "rows", "transposed", "reversed", "fortran", "swapped experts"],
)
def test_a_source_that_is_not_contiguous_is_refused_not_copied(
    view: Callable[[Floats], Floats],
) -> None:
    with pytest.raises(ShapeError, match="ascontiguousarray"):
        quantize(view(matrix(512, 256)), "Q4_0")


@pytest.mark.parametrize("shape", [(), (0,), (0, 256), (2, 0), (1, 1, 2, 256)], ids=str)
def test_arrays_that_are_no_matrices_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        quantize(np.zeros(shape, np.float32), "Q8_0")


def test_blocks_that_are_not_contiguous_are_refused_not_copied() -> None:
    blocks = quantize(matrix(4, 256), "Q4_K")
    with pytest.raises(ShapeError, match="ascontiguousarray"):
        dequantize(blocks[::2], "Q4_K")


def test_blocks_of_another_dtype_are_refused() -> None:
    with pytest.raises(ShapeError):
        dequantize(np.zeros((1, 144), np.float32), "Q4_K")


def test_bytes_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ShapeError, match="whole Q4_K blocks of 144") as caught:
        dequantize(np.zeros((2, 145), np.uint8), "Q4_K")
    assert caught.value.got == "145"


# ---- Types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_really_encoded(target: str) -> None:
    x = np.random.default_rng(SEED).standard_normal((2, N_PER_ROW)).astype(np.float32)
    blocks = quantize(x, target, np.ones(N_PER_ROW, np.float32))
    assert validate_blocks(blocks, qtype(target))
    # Even one bit a weight keeps the signs of Gaussian weights: a correlation of sqrt(2 / pi) = 0.8; the
    # ternary types, whose grid is set by the largest weight, lose most of them.
    assert np.corrcoef(dequantize(blocks, target).ravel(), x.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("target", OTHERS)
def test_a_type_that_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        quantize(matrix(1, 256), target)
    assert (caught.value.qtype, caught.value.reason) == (target, "no encoder")


@pytest.mark.parametrize("source", OTHERS)
def test_a_type_without_a_decoder_is_refused(source: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        dequantize(np.zeros((1, qtype(source).block_bytes), np.uint8), source)
    assert (caught.value.qtype, caught.value.reason) == (source, "no decoder")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        quantize(matrix(1, 256), "Q4_K_M")
    assert caught.value.reason == "unknown type"


@pytest.mark.parametrize("target", BLOCK_TYPES)
def test_row_length_must_be_a_multiple_of_the_block(target: str) -> None:
    block = qtype(target).block
    for n in {1, block - 1, block + 1, block + block // 2}:
        with pytest.raises(UnsupportedTypeError) as caught:
            quantize(matrix(2, n), target, np.ones(n, np.float32))
        assert (caught.value.qtype, caught.value.reason) == (target, "row size")


def test_the_core_itself_refuses_a_row_that_does_not_fill_blocks() -> None:
    """The Python check in front of it must not be the only one: ggml would write out of bounds."""
    x, out = matrix(1, 100), np.empty(144, np.uint8)
    with pytest.raises(UnsupportedTypeError):
        core().quantize(x, 0, (1, 1, 100), qtype("Q4_K").id, out, None, 1, None)


@pytest.mark.parametrize("n_bytes", [143, 145, 0])
def test_the_core_itself_refuses_an_output_of_another_size(n_bytes: int) -> None:
    out = np.empty(n_bytes, np.uint8)
    with pytest.raises(ShapeError):
        core().quantize(matrix(1, 256), 0, (1, 1, 256), qtype("Q4_K").id, out, None, 1, None)


def test_the_core_itself_refuses_a_read_only_output() -> None:
    out = np.empty(144, np.uint8)
    out.flags.writeable = False
    with pytest.raises(ShapeError, match="writable"):
        core().quantize(matrix(1, 256), 0, (1, 1, 256), qtype("Q4_K").id, out, None, 1, None)


@pytest.mark.parametrize("shape", [(1, 1, 512), (2, 1, 256), (1, 0, 256), (-1, -1, 256)], ids=str)
def test_the_core_itself_refuses_a_shape_that_the_array_does_not_have(
    shape: tuple[int, int, int],
) -> None:
    with pytest.raises(ShapeError):
        core().dequantize(matrix(1, 256), 0, shape, np.empty(512, np.float32), 1, None)


# ---- Importances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_importances_change_the_bytes_exactly_where_the_kernel_uses_them(target: str) -> None:
    x = matrix(4, N_PER_ROW)
    weights = importances(N_PER_ROW)
    differ = not np.array_equal(quantize(x, target, weights), quantize(x, target, weights[::-1].copy()))
    assert differ == (target not in WITHOUT_WEIGHTING)
    assert differ == core().uses_imatrix(qtype(target).id)


@pytest.mark.parametrize("target", sorted(set(TARGETS) - WITHOUT_WEIGHTING))
def test_each_expert_is_encoded_with_its_own_importances(target: str) -> None:
    x, weights = matrix(3, 4, N_PER_ROW), importances(3, N_PER_ROW)
    whole = quantize(x, target, weights)
    parts = [quantize(x[e], target, weights[e]) for e in range(3)]
    assert np.array_equal(whole, np.stack(parts))
    assert not np.array_equal(whole[1], quantize(x[1], target, weights[0]))


def test_flat_importances_mean_the_same_as_one_row_for_each_expert() -> None:
    x, weights = matrix(3, 4, N_PER_ROW), importances(3, N_PER_ROW)
    assert np.array_equal(quantize(x, "Q4_K", weights.ravel()), quantize(x, "Q4_K", weights))


@pytest.mark.parametrize("target", [t for t in TARGETS if qtype(t).needs_imatrix])
def test_a_type_that_needs_importances_is_refused_without(target: str) -> None:
    with pytest.raises(ImatrixError, match=f"{target} needs importances"):
        quantize(matrix(1, 256), target)


@pytest.mark.parametrize("target", ["Q4_K", "IQ2_XS", "Q8_0", "F16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, -1e-30])
@pytest.mark.parametrize("where", [0, 300, 511])
def test_unusable_importances_are_refused_wherever_they_are(target: str, bad: float, where: int) -> None:
    weights = importances(512)
    weights[where] = bad
    with pytest.raises(ImatrixError, match=f"importance {where} "):
        quantize(matrix(2, 1, 256), target, weights.reshape(2, 256))


@pytest.mark.parametrize("n", [1, 255, 257, 512])
def test_importances_of_another_length_are_refused(n: int) -> None:
    with pytest.raises(ShapeError) as caught:
        quantize(matrix(2, 256), "Q4_K", np.ones(n, np.float32))
    assert (caught.value.expected, caught.value.got) == ("(1, 256)", f"float32 ({n},)")


def test_one_row_of_importances_is_not_stretched_over_experts() -> None:
    with pytest.raises(ShapeError):
        quantize(matrix(3, 2, 256), "Q4_K", np.ones(256, np.float32))


def test_importances_must_have_one_row_for_each_expert() -> None:
    with pytest.raises(ShapeError):
        quantize(matrix(2, 4, 256), "Q4_K", importances(256, 2))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_importances_of_another_dtype_are_refused(dtype: type) -> None:
    with pytest.raises(ShapeError, match="float32"):
        quantize(matrix(2, 256), "Q4_K", np.ones(256, dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("zeros", [slice(None), slice(0, 32), slice(0, 255)], ids=str)
def test_importances_of_zero_give_valid_blocks(target: str, zeros: slice) -> None:
    weights = importances(N_PER_ROW)
    weights[zeros] = 0.0
    blocks = quantize(matrix(4, N_PER_ROW), target, weights)
    assert validate_blocks(blocks, qtype(target))
    assert np.isfinite(dequantize(blocks, target)).all()


# ---- Weights that are no numbers, or too large -------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", FAMILIES)
def test_a_weight_that_is_not_finite_is_refused_with_its_row_and_slice(target: str, bad: float) -> None:
    x = matrix(3, 5, 256)
    x[1, 3, 77] = bad
    with pytest.raises(NonFiniteError) as caught:
        quantize(x, target, np.ones((3, 256), np.float32))
    assert (caught.value.slice, caught.value.row) == (1, 3)


def test_a_bfloat16_or_half_nan_is_found_too() -> None:
    half = matrix(2, 256).astype(np.float16)
    half[1, 0] = np.nan
    brain = bf16_bits(matrix(2, 256))
    brain[1, 0] = 0x7F80  # +inf
    for x in (half, brain):
        with pytest.raises(NonFiniteError) as caught:
            quantize(x, "Q8_0")
        assert caught.value.row == 1


def test_a_nan_in_the_last_of_many_rows_is_found() -> None:
    x = np.zeros((700, 256), np.float32)
    x[699, 255] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        quantize(x, "Q8_0", n_threads=2)
    assert caught.value.row == 699


# Their scales are no 16-bit floats.
WIDE_RANGE = {"F32", "BF16", "MXFP4", "NVFP4"}


@pytest.mark.parametrize("target", sorted(set(TARGETS) - WIDE_RANGE))
def test_weights_beyond_the_range_of_a_16_bit_scale_are_refused_not_written_as_infinity(
    target: str,
) -> None:
    x = matrix(2, 256)
    x[1] *= np.float32(1e10)
    with pytest.raises(QuantizeError) as caught:
        quantize(x, target, np.ones(256, np.float32))
    assert caught.value.qtype == target


def test_blocks_with_an_infinite_scale_do_not_validate() -> None:
    blocks = quantize(matrix(1, 256), "Q8_0")
    assert validate_blocks(blocks, qtype("Q8_0"))
    blocks[0, :2] = np.array([np.inf], np.float16).view(np.uint8)
    assert not validate_blocks(blocks, qtype("Q8_0"))
    assert not validate_blocks(blocks[:, :-1].copy(), qtype("Q8_0"))


# ---- Threads, progress ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_do_not_depend_on_the_number_of_threads(target: str) -> None:
    # 3 slices of 70 rows: more than two tasks each (16 384 weights make one), none of them full.
    x, weights = matrix(3, 70, N_PER_ROW), importances(3, N_PER_ROW)
    one, two, seven = (quantize(x, target, weights, n_threads=n) for n in (1, 2, 7))
    assert np.array_equal(one, two)
    assert np.array_equal(one, seven)
    decoded = [dequantize(one, target, n_threads=n) for n in (1, 7)]
    assert np.array_equal(*decoded)


def test_progress_ends_at_the_number_of_weights(recording_monitor: Any) -> None:
    x = matrix(3, 5, 256)
    blocks = quantize(x, "Q4_K", monitor=recording_monitor)
    dequantize(blocks, "Q4_K", monitor=recording_monitor)
    assert recording_monitor.started == [
        ("quantize to Q4_K", x.size, "weights"),
        ("dequantize Q4_K", x.size, "weights"),
    ]
    assert recording_monitor.updates[-1] == x.size
    assert recording_monitor.finished == 2


def test_progress_never_goes_back(recording_monitor: Any) -> None:
    x = matrix(1500, 256)  # 0.2 s of IQ2_XS on one thread: a few reports at ten a second
    quantize(x, "IQ2_XS", np.ones(256, np.float32), n_threads=1, monitor=recording_monitor)
    assert recording_monitor.updates == sorted(recording_monitor.updates)
    assert recording_monitor.updates[-1] == x.size


class StoppingMonitor:
    """Raises at its first report."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.done = -1

    def start(self, step: str, total: int, unit: str) -> None:
        pass

    def update(self, done: int) -> None:
        self.done = done
        raise self.error

    def finish(self) -> None:
        raise AssertionError("a stopped step does not finish")


def test_a_monitor_that_raises_stops_the_work_early() -> None:
    x = matrix(8192, 256)  # 1 s of IQ2_XS on one thread; the first report comes after 0.1 s
    monitor = StoppingMonitor(OperationCancelled("enough", done=1, total=2))
    with pytest.raises(OperationCancelled, match="enough"):
        quantize(x, "IQ2_XS", np.ones(256, np.float32), n_threads=1, monitor=monitor)
    assert monitor.done < x.size


def test_any_exception_of_a_monitor_reaches_the_caller_as_it_is() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        quantize(matrix(4, 256), "Q8_0", monitor=StoppingMonitor(error))
    assert caught.value is error


# ---- How large an error may be ------------------------------------------------------------------------

HALF_ULP_F16 = 2.0**-11
HALF_ULP_BF16 = 2.0**-8
# Largest error over the block's largest weight, for formats that round to a grid fixed by that weight (the
# 16-bit scale adds at most HALF_ULP_F16 of a weight). From ggml-quants.c, quantize_row_*_ref:
GRID_BOUND = {
    "Q8_0": 0.5 / 127,  # half a step
    "Q4_0": 1 / 8,  # levels -8..7: the extreme of the other sign is a whole step off
    "Q5_0": 1 / 16,  # levels -16..15
    "Q4_1": 0.5 * 2 / 15,  # 16 levels over at most twice the largest weight
    "Q5_1": 0.5 * 2 / 31,
    "TQ1_0": 0.5,  # -1, 0, 1 times the largest weight
    "TQ2_0": 0.5,
    "Q2_0": 0.5,
    "Q1_0": 1.0,  # plus or minus the mean: a weight of nothing, or one of everything
    # e2m1 levels 0, .5, 1, 1.5, 2, 3, 4, 6: half the widest gap is 1. A power of two makes the largest weight
    # 4 to 8 steps, so that clipping from 8 to 6 costs 2 of 8, and rounding 1 of 4.
    "MXFP4": 1 / 4,
    # The scale puts the largest weight at 6 steps, within the 2^-4 of rounding to 3 mantissa bits.
    "NVFP4": (1 + 2.0**-4) / 6,
}
# Two rounded numbers instead of one: the range, up to twice the largest weight, and the least weight.
SCALE_ROUNDINGS = {"Q4_1": 3, "Q5_1": 3}
# Formats that search for a scale have no such bound; they are held to rate-distortion theory (Shannon 1948):
# for Gaussian weights no code of b bits a weight has a relative squared error below 4^-b, and these stay
# within one bit a weight of that.
SEARCHED = sorted(set(BLOCK_TYPES) - set(GRID_BOUND))
WITHIN_BITS_OF_SHANNON = 1.0
N_GAUSSIAN = 64 * 1024
# Standard error of a mean square of N_GAUSSIAN Gaussians is sqrt(2 / n) = 0.6 %; five of them.
SAMPLING_SLACK = 1 + 5 * np.sqrt(2 / N_GAUSSIAN)


@pytest.mark.parametrize("target", GRID_BOUND)
@pytest.mark.parametrize("kind", ["heavy", "gaussian", "uniform", "extremes"])
def test_error_of_a_grid_format_is_within_its_step(target: str, kind: str) -> None:
    rng = np.random.default_rng(SEED)
    shape = (64, 1024)
    x = {
        "heavy": lambda: rng.standard_t(3, shape),
        "gaussian": lambda: rng.standard_normal(shape),
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "extremes": lambda: rng.choice([-1.0, -0.999, 0.001, 0.999, 1.0], shape),
    }[kind]().astype(np.float32)
    error = np.abs(round_trip(x, target).astype(np.float64) - x)
    # A 16-bit scale serves a whole block; NVFP4 has one for each 16 weights.
    block = 16 if target == "NVFP4" else qtype(target).block
    largest = np.abs(x).reshape(-1, block).max(axis=1).repeat(block).reshape(shape)
    bound = (GRID_BOUND[target] + SCALE_ROUNDINGS.get(target, 1) * HALF_ULP_F16) * largest
    assert (error <= bound).all(), f"worst: {(error / largest).max()}"


@pytest.mark.parametrize("target", SEARCHED)
def test_error_of_a_searched_format_is_within_a_bit_of_what_theory_allows(target: str) -> None:
    x = np.random.default_rng(SEED).standard_normal((64, N_GAUSSIAN // 64)).astype(np.float32)
    error = round_trip(x, target).astype(np.float64) - x
    relative = (error**2).sum() / (x.astype(np.float64) ** 2).sum()
    least = 4.0 ** -qtype(target).bpw
    assert relative > least / SAMPLING_SLACK
    assert relative < 4.0**WITHIN_BITS_OF_SHANNON * least * SAMPLING_SLACK


def test_floats_are_rounded_to_nearest() -> None:
    x = np.random.default_rng(SEED).standard_normal((64, 1000)).astype(np.float32)
    assert np.array_equal(round_trip(x, "F32"), x)
    assert np.array_equal(round_trip(x, "F16"), x.astype(np.float16).astype(np.float32))
    assert np.array_equal(round_trip(x, "BF16"), bf16_floats(bf16_bits(x)))
    assert (np.abs(round_trip(x, "BF16") - x) <= HALF_ULP_BF16 * np.abs(x)).all()


@pytest.mark.parametrize("target", BLOCK_TYPES)
def test_importances_lower_the_error_where_they_are_large(target: str) -> None:
    x = np.random.default_rng(SEED).standard_normal((64, 512)).astype(np.float32)
    weights = np.ones(512, np.float32)
    weights[::4] = 100.0
    blocks = quantize(x, target, weights)
    plain = quantize(x, target, np.ones(512, np.float32))

    def lost(b: npt.NDArray[np.uint8]) -> float:
        d = dequantize(b, target).astype(np.float64) - x
        return float((weights * d**2).sum())

    if target in WITHOUT_WEIGHTING:
        assert lost(blocks) == lost(plain)
    else:
        assert lost(blocks) < lost(plain)


# ---- What never changes ----------------------------------------------------------------------------

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
shapes = st.tuples(st.integers(1, 5), st.sampled_from([256, 512, 768]))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def weights_of(draw: st.DrawFn) -> Floats:
    """Matrices of noise at some scale, with rows of zeros, constants and lone outliers among them."""
    shape = draw(shapes)
    rng = np.random.default_rng(draw(seeds))
    x = (rng.standard_t(3, shape) * 10.0 ** draw(st.integers(-4, 2))).astype(np.float32)
    for row in x:
        kind = draw(st.sampled_from(["noise", "zeros", "constant", "outlier", "sparse"]))
        if kind == "zeros":
            row[:] = 0.0
        elif kind == "constant":
            row[:] = row[0]
        elif kind == "outlier":
            row[draw(st.integers(0, shape[1] - 1))] *= 1000
        elif kind == "sparse":
            row[rng.random(shape[1]) < 0.9] = 0.0
    return x


@EXAMPLES
@given(x=weights_of(), target=st.sampled_from(TARGETS))
def test_zero_rows_stay_zero_and_nothing_becomes_nan(x: Floats, target: str) -> None:
    decoded = round_trip(x, target)
    assert np.isfinite(decoded).all()
    assert not decoded[~x.any(axis=1)].any()


@pytest.mark.parametrize("target", TARGETS)
def test_zeros_of_either_sign_stay_zeros(target: str) -> None:
    for zero in (0.0, -0.0):
        assert not round_trip(np.full((2, 512), zero, np.float32), target).any()


@EXAMPLES
@given(x=weights_of(), target=st.sampled_from(TARGETS), seed=seeds)
def test_a_row_is_encoded_the_same_whatever_its_neighbours(x: Floats, target: str, seed: int) -> None:
    weights = importances(x.shape[1], seed=seed)
    order = np.random.default_rng(seed).permutation(len(x))
    assert np.array_equal(quantize(x[order], target, weights), quantize(x, target, weights)[order])
    assert np.array_equal(quantize(x[-1], target, weights), quantize(x, target, weights)[-1])


# F32 is exact anyway; F16 and NVFP4 have a range of their own that scaling leaves.
SCALING = sorted(set(TARGETS) - {"F32", "F16", "NVFP4"})


@EXAMPLES
@given(seed=seeds, target=st.sampled_from(SCALING), exponent=st.integers(-3, 6))
def test_a_power_of_two_only_moves_the_exponent(seed: int, target: str, exponent: int) -> None:
    # Near 1, so that no 16-bit scale becomes subnormal or infinite.
    x = np.random.default_rng(seed).standard_t(3, (2, 512)).astype(np.float32)
    scale = np.float32(2.0**exponent)
    assert np.array_equal(round_trip(x * scale, target), round_trip(x, target) * scale)


@EXAMPLES
@given(seed=seeds, target=st.sampled_from(TARGETS))
def test_float32_blocks_are_the_weights_themselves(seed: int, target: str) -> None:
    x = matrix(2, 256, seed=seed)
    blocks = quantize(x, target, uniform_importances(target, 256))
    decoded = dequantize(blocks, target)
    assert np.array_equal(quantize(decoded, "F32").view(np.float32), decoded)
    assert np.array_equal(dequantize(blocks, target), decoded)
