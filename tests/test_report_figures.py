"""What reports say in words, figures, colours, axes and labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mqnative.report.labels import Box, Label, _candidates, _cost, _marker, place_labels
from mqnative.report.numbers import (
    change,
    duration,
    measured,
    plain,
    share,
    significant,
    size_text,
    with_error,
)
from mqnative.report.palette import RAMP_DARK, RAMP_LIGHT, contrast, luminance, step, text_on
from mqnative.report.sentences import headline, rival, text_of
from mqnative.report.svg import Axis, linear_axis, log_axis
from report_samples import mix, tiny

# Words and figures


def test_the_rival_is_the_best_mix_that_is_not_larger() -> None:
    result = mix("r", 1000, 0.01)
    larger, best, worst = (
        mix("a", 1200, 0.001, result),
        mix("b", 1000, 0.02, result),
        mix("c", 900, 0.03, result),
    )
    assert rival(replace(tiny(), mixes=(result, larger, worst, best))) == best
    assert rival(replace(tiny(), mixes=(result, mix("d", 2000, 0.1, result), larger))) == larger
    assert rival(replace(tiny(), mixes=(result,))) is None


@pytest.mark.parametrize(
    ("size", "kld", "end"),
    [
        (1_000_000, 0.02, "; x of the same size loses 0.0200: 50 % less."),
        (900_000, 0.0105, "; x, 10 % smaller, loses 0.0105: a tie at 95 %."),
        (2_500_000, 0.001, "; x, 2.5 times the size, loses 0.00100: 10 times as much."),
        (1_100_000, 0.008, "; x, 10 % larger, loses 0.00800: 25 % more."),
        (900_000, 20.0, "; x, 10 % smaller, loses 20.0: 99.95 % less."),
        (900_000, 0.0, "; x, 10 % smaller, loses 0: worse at 95 %."),
    ],
)
def test_the_headline_says_which_is_better_and_by_how_much(size: int, kld: float, end: str) -> None:
    result = mix("r", 1_000_000, 0.01)
    report = replace(tiny(), mixes=(result, mix("x", size, kld, result)))
    assert (
        text_of(headline(report))
        == f"This 1.00 MB file loses 0.0100 nats per token against the original{end}"
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "written"),
    [
        (0.003612, 0.003531, 0.003694, "0.00361 [0.00353, 0.00369]"),
        (0.0858, 0.0810, 0.0906, "0.086 [0.081, 0.091]"),
        (1.71e-7, 1.69e-7, 1.73e-7, "1.710e-07 [1.690e-07, 1.730e-07]"),
        (123456.0, 120000.0, 127000.0, "123000 [120000, 127000]"),
        (0.02, -0.5, 0.5, "0.02 [-0.50, 0.50]"),
        (0.0, 0.0, 0.0, "0 [0, 0]"),
        (0.001, 0.001, 0.001, "0.00100 [0.00100, 0.00100]"),
        (0.0019, -0.00001, 0.0038, "0.0019 [-1e-05, 0.0038]"),
        (math.inf, 1.0, math.nan, "∞ [1, not a number]"),
    ],
)
def test_digits_follow_the_interval(value: float, low: float, high: float, written: str) -> None:
    assert measured(value, low, high).bracketed == written


@given(st.floats(1e-250, 1e250), st.floats(1e-6, 0.9))
def test_written_figures_are_within_a_third_of_their_uncertainty(value: float, relative: float) -> None:
    half = value * relative
    assert abs(float(measured(value, value - half, value + half).value) - value) <= max(
        half / 3, value * 1e-5
    )


def test_units() -> None:
    assert [size_text(n) for n in (0, 999, 5_341_952, 999_600, 30.9e9, 2e15)] == [
        "0 B", "999 B", "5.34 MB", "1.00 MB", "30.9 GB", "2000 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0.04, 9.96, 59.6, 192, 7500)] == [
        "0.0 s",
        "10 s",
        "1 min 00 s",
        "3 min 12 s",
        "2 h 05 min",
    ]
    assert (change(1.0034), change(0.99), share(0.9627, 0.0019)) == ("+0.34 %", "-1.0 %", "96.27 ± 0.19 %")
    assert (with_error(16.7234, 0.34), significant(9.98, 2), significant(0.0)) == ("16.7 ± 0.3", "10", "0")
    assert (
        plain("a\n b\x1b[0m\u202ec\ud800")
        == "a b\N{REPLACEMENT CHARACTER}[0m" + "\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}"
    )


# Colours, axes, labels


@pytest.mark.parametrize(("ramp", "sign"), [(RAMP_LIGHT, -1), (RAMP_DARK, 1)])
def test_ramps_keep_their_order_in_greyscale_and_can_be_written_on(ramp: tuple[str, ...], sign: int) -> None:
    lights = [luminance(c) for c in ramp]
    assert lights == sorted(lights, key=lambda v: sign * v)
    assert min(contrast(text_on(c), c) for c in ramp) >= 4.5


def test_more_bits_are_never_a_lower_step() -> None:
    steps = [
        step(b)
        for b in (math.nan, 0.0, 1.5, 1.75, 2.06, 2.63, 3.06, 3.44, 4.25, 4.5, 5.5, 6.56, 8.5, 16.0, 32.0)
    ]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, len(RAMP_LIGHT) - 1)


@given(st.lists(st.floats(1e-199, 1e199), min_size=1, max_size=5))
@example([2.2164417182843483e81, 2.2164417182843487e81])
@example([1e199, math.nextafter(1e199, 0.0)])
def test_axes_hold_their_values_and_have_ticks_inside(values: list[float]) -> None:
    axes: list[Axis] = [log_axis(values, 0.0, 100.0), linear_axis(values, 0.0, 100.0)]
    for axis in axes:
        assert all(0 < axis(v) < 100 for v in values)
        ticks = axis.ticks()
        assert 1 <= len(ticks) <= 25
        assert all(axis.low <= t <= axis.high for t in ticks)


def test_an_axis_that_just_misses_a_step_has_more_than_one_tick() -> None:
    assert Axis(1.1, 9.3, 0.0, 300.0).ticks(4) == [2.0, 4.0, 6.0, 8.0]
    assert Axis(0.0, 8.0, 0.0, 300.0).ticks(4) == [0.0, 2.0, 4.0, 6.0, 8.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(60, 700), st.floats(40, 340)), min_size=1, max_size=12))
def test_labels_never_cover_each_other_while_there_is_room(spots: list[tuple[float, float]]) -> None:
    labels = [Label(x, y, 60.0, 16.0, 5.0) for x, y in spots]
    frame = Box(0, 0, 760, 400)
    places = place_labels(labels, frame, [], [])
    assert all(p.box.within(frame) for p in places)
    for i, place in enumerate(places):
        assert all(place.box.overlap(other.box) == 0 for other in places[:i])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(60, 200), st.floats(40, 120)), min_size=1, max_size=12))
def test_a_label_goes_to_the_cheapest_of_all_its_places(spots: list[tuple[float, float]]) -> None:
    labels = [Label(x, y, 60.0, 16.0, 5.0) for x, y in spots]
    frame, line = Box(0, 0, 260, 160), Box(90, 0, 100, 160)
    taken = [_marker(label) for label in labels]
    for label, place in zip(labels, place_labels(labels, frame, [], [line]), strict=True):
        every = enumerate(_candidates(label))
        assert place == min((_cost(p.box, frame, taken, [line]) + rank, rank, p) for rank, p in every)[2]
        taken.append(place.box)
