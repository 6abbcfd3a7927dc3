"""Weight errors from sampled rows against those of all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mqnative.core.quantize import quantization_error, row_errors
from mqnative.errors import OperationCancelled
from mqnative.formats.qtypes import qtype
from mqnative.measure.sweep import sweep_tensor
from mqnative.measure.weight_error import QUANTILES, TensorSweep, pack_histogram, unpack_histogram

Floats = npt.NDArray[np.float32]
TYPES = ("Q8_0", "Q4_0", "Q6_K", "Q3_K", "IQ4_XS", "TQ2_0")
FIELDS = ("weighted", "unweighted", "rmse", "max_abs", "cosine")


def weights(slices: int, rows: int, n: int, seed: int = 3) -> Floats:
    """Heavy-tailed, with rows of different sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.gamma(4.0, 0.25, (slices, rows, 1))
    return (sizes * rng.standard_t(4, (slices, rows, n)) / 50).astype(np.float32)


def importances(slices: int, n: int) -> Floats:
    return (np.random.default_rng(9).pareto(2, (slices, n)) + 0.01).astype(np.float32)


def swept(
    x: Floats, types: tuple[str, ...] = TYPES, imatrix: Floats | None = None, **options: Any
) -> TensorSweep:
    options = {"seed": 1, "n_threads": 1} | options
    return sweep_tensor(x, qtype("F32"), x.shape, types, imatrix, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("tolerance", [0.0, 1e-9])
def test_all_rows_give_the_exact_errors(tolerance: float) -> None:
    x, imatrix = weights(2, 100, 256), importances(2, 256)
    found = swept(x, imatrix=imatrix, tolerance=tolerance)
    wanted = quantization_error(x, TYPES, imatrix, quantiles=QUANTILES)
    for name, error in found.errors.items():
        exact = wanted[name]
        assert error.half_width == 0
        assert error.n_rows == 200
        figures = (exact.weighted_relative, exact.relative, exact.rmse, exact.max_abs, exact.weighted_cosine)
        for field, value in zip(FIELDS, figures, strict=True):
            assert getattr(error, field) == pytest.approx(value, rel=1e-9), (name, field)
        assert error.quantiles == tuple(exact.quantiles[q] for q in QUANTILES)


def test_the_energy_is_exact_however_few_rows_are_taken() -> None:
    x, imatrix = weights(3, 400, 256), importances(3, 256)
    found = swept(x, ("Q4_K",), imatrix, tolerance=0.5)
    energy = float((imatrix[:, None].astype(float) * x.astype(float) ** 2).sum())
    assert found.energy == pytest.approx(energy, rel=1e-12)
    assert found.importance == pytest.approx(energy / x.size, rel=1e-12)
    assert found.errors["Q4_K"].n_rows < 400


@pytest.mark.parametrize("tolerance", [0.1, 0.02])
def test_sampled_errors_are_as_near_as_they_say(tolerance: float) -> None:
    x, imatrix = weights(1, 1500, 256), importances(1, 256)
    exact = quantization_error(x, TYPES, imatrix)
    inside = []
    for seed in range(6):
        found = swept(x, imatrix=imatrix, tolerance=tolerance, seed=seed)
        for name, error in found.errors.items():
            assert error.half_width <= tolerance
            assert error.weighted == pytest.approx(exact[name].weighted_relative, rel=3 * tolerance)
            assert error.rmse == pytest.approx(exact[name].rmse, rel=0.5)
            inside.append(
                abs(error.weighted - exact[name].weighted_relative) <= error.half_width * error.weighted
            )
        slow = found.errors["IQ4_XS"]
        assert slow.n_rows < 1500 * (0.75 if tolerance == 0.02 else 0.125)
    assert np.mean(inside) >= 0.85


def test_neither_threads_nor_the_other_types_change_the_figures() -> None:
    x, imatrix = weights(2, 300, 256), importances(2, 256)
    types = (*TYPES, "Q2_K", "IQ2_S", "Q5_1")
    one = swept(x, types, imatrix)
    assert swept(x, types, imatrix, n_threads=3) == one
    assert swept(x, types[::-1], imatrix).errors == one.errors
    for name in types:
        alone = swept(x, (name,), imatrix)
        assert alone.errors[name] == one.errors[name]
        assert alone.histograms[name] == one.histograms[name]


def test_another_seed_takes_other_rows() -> None:
    x = weights(1, 2000, 256)
    a, b = (swept(x, ("Q4_K",), seed=seed).errors["Q4_K"] for seed in (1, 2))
    assert a.weighted != b.weighted
    assert a.weighted == pytest.approx(b.weighted, rel=0.08)


def test_a_type_that_overflows_is_left_out() -> None:
    x = weights(1, 300, 256)
    x[0, 17, 3] = 1e6
    found = swept(x, ("F16", "Q8_0", "Q4_K"), tolerance=0.0)
    assert set(found.errors) == {"Q8_0", "Q4_K"}


def test_zeros_lose_nothing() -> None:
    found = swept(np.zeros((1, 200, 256), np.float32))
    for error in found.errors.values():
        assert (error.weighted, error.half_width, error.rmse, error.cosine) == (0, 0, 0, 1)
    assert found.energy == 0


def test_rows_that_fill_no_block_are_sampled_all_the_same() -> None:
    x = weights(1, 900, 48)
    found = swept(x, ("BF16", "F16"), tolerance=0.05)
    assert {e.half_width <= 0.05 for e in found.errors.values()} == {True}


def test_histograms_stand_for_the_whole_tensor() -> None:
    x = weights(1, 1500, 256)
    found = swept(x, ("Q4_K",), tolerance=0.02)
    whole = row_errors(x, qtype("F32"), (1, 1500, 256), ["Q4_K"], histogram=True).histogram
    assert whole is not None
    counts = unpack_histogram(found.histograms["Q4_K"])
    assert counts.shape == whole[0].shape
    assert int(counts.sum()) == pytest.approx(x.size, rel=0.01)
    assert found.errors["Q4_K"].n_rows < 1000
    medians = [np.searchsorted(np.cumsum(c), c.sum() / 2) for c in (counts, whole[0])]
    assert abs(int(medians[0]) - int(medians[1])) < 16  # a quarter of an octave


@settings(deadline=None)
@given(hnp.arrays(np.uint64, st.integers(1, 300), elements=st.integers(0, 2**63)))
def test_packed_histograms_come_back(counts: npt.NDArray[np.uint64]) -> None:
    assert np.array_equal(unpack_histogram(pack_histogram(counts)), counts)


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_progress_moves_inside_a_tensor_and_only_forward(tolerance: float) -> None:
    x = weights(1, 6000, 256)
    shares: list[float] = []
    swept(
        x,
        (*TYPES, "IQ2_XS", "IQ3_S"),
        tolerance=tolerance,
        progress=shares.append,
        imatrix=importances(1, 256),
    )
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 1
    assert shares[-1] <= 1
    assert len({s for s in shares if 0 < s < 1}) >= 2


def test_what_listens_can_stop_a_tensor() -> None:
    def stop(_share: float) -> None:
        raise OperationCancelled("stopped", done=0, total=1)

    with pytest.raises(OperationCancelled):
        swept(weights(1, 6000, 256), tolerance=0.0, progress=stop)
