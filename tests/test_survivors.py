"""Which files are published: dominance, premium, chords, spacing, collapse, with paired intervals."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.hybrids.chords import ORIGINAL, Point, chord_at, gains
from mqnative.hybrids.contrast import Contest, judge_together
from mqnative.hybrids.entries import Entry
from mqnative.hybrids.survivors import Rules, choose_survivors

N_CHUNKS = 24
# What makes a chunk hard is the same for every mix; each has a little of its own.
TEXT = np.exp(np.random.default_rng(1).normal(0, 0.5, N_CHUNKS))


def entry(name: str, size: int, kld: float, *, baseline: bool = False, **more: object) -> Entry:
    own = np.random.default_rng([size, len(name), int(kld * 1e9)]).normal(1, 0.01, N_CHUNKS)
    return Entry(name, size, kld * TEXT / TEXT.mean() * own, baseline, **more)  # type: ignore[arg-type]


BASELINES = [
    entry("Q8_0", 9000, 0.0002, baseline=True),
    entry("Q6_K", 7000, 0.001, baseline=True),
    entry("Q4_K_M", 5300, 0.0065, baseline=True),
    entry("Q2_K", 3600, 0.085, baseline=True),
]


def test_baselines_alone_survive_and_say_so() -> None:
    table = choose_survivors(BASELINES)
    assert [s.name for s in table.survivors] == ["Q2_K", "Q4_K_M", "Q6_K", "Q8_0"]
    assert {s.reason for s in table.survivors} == {"NOT_BEATEN"}
    assert table.removed == ()
    assert table.anchors == ("Q2_K", "Q4_K_M", "Q6_K", "Q8_0")


def test_a_hybrid_of_no_more_bytes_that_is_better_replaces_a_baseline() -> None:
    table = choose_survivors([*BASELINES, entry("h", 5300, 0.0040)])
    assert [s.name for s in table.survivors] == ["Q2_K", "h", "Q6_K", "Q8_0"]
    (removal,) = table.removed
    assert (removal.name, removal.by, removal.reason) == ("Q4_K_M", "h", "STRICT_DOMINANCE")
    assert removal.difference is not None
    assert removal.difference.value == pytest.approx(0.0025, rel=0.05)
    assert removal.difference.ci95[0] > 0
    found = table.survivors[1]
    assert found.reason == "REPLACES_BASELINE"
    assert found.replaced == ("Q4_K_M",)


def test_a_tie_goes_to_the_smaller_file() -> None:
    large = entry("large", 5000, 0.0065, baseline=True)
    small = Entry("small", 4900, large.klds * np.linspace(0.99, 1.0101, N_CHUNKS)[::-1], True)
    table = choose_survivors([large, small])
    assert [s.name for s in table.survivors] == ["small"]
    assert table.removed[0].reason == "TIE_SMALLER"


def test_a_hair_more_bytes_for_much_less_damage_is_a_premium() -> None:
    table = choose_survivors([*BASELINES, entry("h", 5340, 0.0040)])
    assert [s.name for s in table.survivors] == ["Q2_K", "h", "Q6_K", "Q8_0"]
    assert table.removed[0].reason == "NEAR_BASELINE_PREMIUM"
    assert table.survivors[1].reason == "NEAR_BASELINE_PREMIUM"
    assert table.survivors[1].replaced == ("Q4_K_M",)
    # Two per cent more is no hair any more, and spacing decides.
    wide = choose_survivors([*BASELINES, entry("h", 5420, 0.0040)])
    assert {r.reason for r in wide.removed} == {"SPACING"}


@pytest.mark.parametrize(("kld", "survives"), [(0.0025, True), (0.0036, False), (0.0050, False)])
def test_a_hybrid_between_baselines_must_be_below_their_chord(kld: float, survives: bool) -> None:
    # Halfway between Q4_K_M and Q6_K the chord has 0.00375; 4 % below it is not beyond doubt enough here.
    noisy = entry("h", 6150, kld)
    klds = noisy.klds * np.random.default_rng(3).normal(1, 0.15, N_CHUNKS)
    table = choose_survivors([*BASELINES, Entry("h", 6150, klds / klds.mean() * kld, False)])
    assert ("h" in [s.name for s in table.survivors]) == survives
    if survives:
        found = next(s for s in table.survivors if s.name == "h")
        assert found.reason == "NONLINEAR_WIN"
        assert found.chord_ends == ("Q4_K_M", "Q6_K")
        assert found.chord is not None
        assert found.chord.ci95[1] < 0
    else:
        assert table.removed[0].reason == "NOT_BELOW_CHORD"


def test_a_hybrid_above_every_baseline_has_its_chord_to_the_original() -> None:
    table = choose_survivors([*BASELINES, entry("h", 12000, 0.00005)], Rules(original_bytes=17000))
    found = next(s for s in table.survivors if s.name == "h")
    assert found.chord_ends == ("Q8_0", ORIGINAL)
    worse = choose_survivors([*BASELINES, entry("h", 3000, 0.2)])
    assert worse.removed[0].reason == "NOT_BELOW_CHORD"
    alone = choose_survivors([*BASELINES, entry("h", 12000, 0.00005)])
    assert alone.removed[0].reason == "NO_CHORD"


def test_below_the_smallest_baseline_a_hybrid_must_be_better_than_it() -> None:
    table = choose_survivors([*BASELINES, entry("h", 3590, 0.03)])
    found = table.survivors[0]
    assert (found.name, found.reason, found.replaced) == ("h", "REPLACES_BASELINE", ("Q2_K",))
    assert found.chord_ends == ("Q2_K", "Q2_K")


def test_an_excluded_file_is_compared_but_not_published() -> None:
    out = entry("out", 5000, 0.004, baseline=True, excluded=("TOO_LARGE", "above --max-bytes"))
    table = choose_survivors([*BASELINES, out])
    assert "out" not in [s.name for s in table.survivors]
    assert table.removed[0].reason == "TOO_LARGE"
    assert "out" in table.anchors


def test_files_too_close_in_size_are_thinned_by_what_they_gain() -> None:
    close = [entry("a", 6000, 0.0020), entry("b", 6100, 0.0017)]
    table = choose_survivors([*BASELINES, *close])
    assert len({"a", "b"} & {s.name for s in table.survivors}) == 1
    assert table.removed[-1].reason == "SPACING"
    assert table.removed[-1].by in ("a", "b")


def near(
    name: str, size: int, of: Entry, mean: float, spread: float = 0.06, seed: int = 5, **more: object
) -> Entry:
    """A hybrid whose KLD is on the mean ``mean`` times a baseline's, chunk by chunk more or less."""
    own = np.random.default_rng(seed).normal(0, spread, N_CHUNKS)
    return Entry(name, size, of.klds * (mean + own - own.mean()), False, **more)  # type: ignore[arg-type]


def test_a_tie_of_a_baseline_s_bytes_takes_its_place_only_if_it_is_ahead_by_itself() -> None:
    base = BASELINES[2]
    # Others that are as undecided: the more there are, the more it takes to be beyond doubt.
    crowd = [near(f"c{i}", 5301 + i, base, 1.0, seed=10 + i) for i in range(30)]
    for mean, comes in ((0.975, True), (1.0, False), (1.03, False)):
        hybrid = near("h", 5298, base, mean)
        table = choose_survivors([*BASELINES, *crowd, hybrid])
        names = [s.name for s in table.survivors]
        assert ("h" in names, base.name in names) == (comes, not comes)
        if comes:
            found = next(s for s in table.survivors if s.name == "h")
            assert found.reason == "REPLACES_BASELINE"
            # Together with all others neither is beyond doubt; by itself the difference was.
            assert found.chord is not None
            assert found.chord.ci95[1] > 0
            assert next(r for r in table.removed if r.name == base.name).reason == "TIE_SMALLER"


def test_being_ahead_of_a_baseline_that_others_beat_is_no_merit() -> None:
    poor = entry("poor", 5400, 0.02, baseline=True)
    table = choose_survivors([*BASELINES, poor, entry("h", 5390, 0.0150)])
    assert next(r for r in table.removed if r.name == "h").reason == "NOT_BELOW_CHORD"


def test_a_baseline_serves_a_size_that_was_asked_for_if_no_hybrid_does_better() -> None:
    base = BASELINES[2]
    close = entry("close", 5450, 0.0055, baseline=True)
    asked = near("h", 5298, base, 1.02, is_asked=True)
    table = choose_survivors([*BASELINES, close, asked])
    (removal,) = [r for r in table.removed if r.name == "h"]
    assert removal.reason == "NOT_BELOW_CHORD"
    assert removal.said.endswith("Q4_K_M serves this size")
    # It stands for the size, and so it is not thinned out for its neighbour.
    assert base.name in [s.name for s in table.survivors]


def test_of_two_smallest_files_of_about_one_size_the_better_one_stays() -> None:
    table = choose_survivors([*BASELINES, entry("a", 3500, 0.060), entry("b", 3501, 0.050)])
    assert next(s.name for s in table.survivors) == "b"
    assert next(r for r in table.removed if r.name == "a").reason == "SPACING"


def test_a_size_that_was_asked_for_stays() -> None:
    asked = entry("a", 6000, 0.0030, is_asked=True)
    table = choose_survivors([*BASELINES, asked, entry("b", 6100, 0.0017)])
    assert "a" in [s.name for s in table.survivors]


def test_a_size_that_was_asked_for_gives_way_to_what_is_better_but_not_to_a_tie() -> None:
    asked = entry("a", 6000, 0.0017, is_asked=True)
    tied = Entry("t", 5990, asked.klds * np.linspace(0.99, 1.0101, N_CHUNKS), False)
    assert "a" in [s.name for s in choose_survivors([*BASELINES, asked, tied]).survivors]
    better = entry("b", 5990, 0.0012)
    assert "a" not in [s.name for s in choose_survivors([*BASELINES, asked, better]).survivors]


def test_collapse_leaves_so_many() -> None:
    for most in (1, 2, 3):
        table = choose_survivors([*BASELINES, entry("h", 6000, 0.002)], Rules(most=most))
        assert len(table.survivors) == most
        assert {r.reason for r in table.removed} == {"COLLAPSE"}


entries = st.lists(
    st.tuples(st.integers(1000, 20000), st.floats(1e-5, 0.5), st.booleans()), min_size=1, max_size=14
).map(lambda found: [entry(f"m{i}", s, k, baseline=b) for i, (s, k, b) in enumerate(found)])


@settings(max_examples=60, deadline=None)
@given(entries, st.sampled_from([None, 1, 3]), st.randoms(use_true_random=False))
def test_the_table_is_a_front_with_spaces_and_every_file_is_accounted_for(
    found: list[Entry], most: int | None, random: object
) -> None:
    rules = Rules(most=most, original_bytes=30000)
    table = choose_survivors(found, rules)
    kept = {s.name for s in table.survivors}
    removed = {r.name for r in table.removed}
    assert kept | removed == {e.name for e in found}
    assert not kept & removed
    by_name = {e.name: e for e in found}
    rows = [by_name[s.name] for s in table.survivors]
    contest = Contest({e.name: e.klds for e in found})
    for small, large in pairwise(rows):
        assert large.size_bytes >= 1.05 * small.size_bytes
        assert contest.verdict(large.name, small.name) == "better"
    for survivor in table.survivors:
        if not by_name[survivor.name].is_baseline:
            assert survivor.chord is not None
            assert survivor.chord.ci95[1] < 0 or survivor.replaced
    if most is not None:
        assert len(rows) <= most
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose_survivors(shuffled, rules).survivors == table.survivors


@settings(max_examples=40, deadline=None)
@given(entries)
def test_a_baseline_that_is_removed_by_dominance_names_a_smaller_file_that_is_no_worse(
    found: list[Entry],
) -> None:
    table = choose_survivors(found)
    by_name = {e.name: e for e in found}
    for removal in table.removed:
        if removal.reason in ("STRICT_DOMINANCE", "TIE_SMALLER", "FINAL_DOMINANCE"):
            assert removal.by is not None
            winner, loser = by_name[removal.by], by_name[removal.name]
            assert winner.size_bytes <= loser.size_bytes
            assert removal.difference is not None
            assert removal.difference.ci95[1] >= 0
            assert removal.size_difference == loser.size_bytes - winner.size_bytes


def test_intervals_of_a_family_are_wider_than_one_alone_and_hold_together() -> None:
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(200):
        klds = {f"m{i}": rng.normal(1.0, 0.1, 16) for i in range(6)}
        contest = Contest(klds)
        names = sorted(klds)
        verdicts = {contest.verdict(a, b) for a in names for b in names if a < b}
        missed += verdicts != {"tie"}
    # All mixes are equal in truth: in at most about 5 % of the families any pair may look different.
    assert missed <= 18
    # One mix that is clearly worse does not hide what can be told of the others.
    far = Contest(klds | {"far": 3.0 * klds["m0"]})
    assert far.verdict("far", "m1") == "worse"
    assert far.critical <= 1.02 * contest.critical
    alone = judge_together({"a": klds["m0"], "b": klds["m1"]}, [{"a": 1.0, "b": -1.0}])
    assert alone.critical < contest.critical


def test_a_difference_reads_the_same_from_both_sides() -> None:
    contest = Contest({"a": TEXT, "b": 2 * TEXT, "c": TEXT.copy()})
    ab, ba = contest.difference("a", "b"), contest.difference("b", "a")
    assert (ab.value, ab.ci95) == (-ba.value, (-ba.ci95[1], -ba.ci95[0]))
    assert contest.verdict("a", "b") == "better"
    assert contest.verdict("b", "a") == "worse"
    assert contest.verdict("a", "c") == "tie"
    assert contest.difference("a", "c").ci95 == (0.0, 0.0)


def test_mixes_scored_on_other_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="same chunks"):
        Contest({"a": TEXT, "b": TEXT[:-1]})
    with pytest.raises(ValueError, match="at least 2"):
        judge_together({"a": TEXT[:1]}, [{"a": 1.0}])


def test_a_chord_is_the_straight_line_between_neighbours() -> None:
    points = [Point("s", 100, 1.0), Point("l", 200, 0.2)]
    chord = chord_at(150, points)
    assert chord is not None
    assert chord.kld == pytest.approx(0.6)
    assert chord.against("h") == {"h": 1.0, "s": -0.5, "l": -0.5}
    smallest = chord_at(90, points)
    assert smallest is not None
    assert smallest.against("h") == {"h": 1.0, "s": -1.0}
    assert chord_at(250, points) is None
    above = chord_at(250, points, 300)
    assert above is not None
    assert above.kld == pytest.approx(0.1)
    assert above.weights == {"l": 0.5}


def test_gains_are_logarithms_of_the_chord_over_the_file() -> None:
    found = gains([Point("a", 100, 1.0), Point("b", 150, 0.3), Point("c", 200, 0.2)])
    assert found["a"] == found["c"] == math.inf
    assert found["b"] == pytest.approx(math.log(2.0))


def test_a_larger_file_takes_nobodys_place_at_no_more_bytes() -> None:
    mixes = [entry("small", 5290, 0.0040), entry("large", 8990, 0.00015), entry("least", 3590, 0.03)]
    table = choose_survivors([*BASELINES, *mixes], Rules(most=2))
    assert [s.name for s in table.survivors] == ["least", "large"]
    removed = {r.name: r for r in table.removed}
    assert removed["Q2_K"].reason == removed["Q8_0"].reason == "STRICT_DOMINANCE"
    gone = removed["Q4_K_M"]
    heir = next(s for s in table.survivors if "Q4_K_M" in s.replaced)
    assert gone.reason == "COLLAPSE"
    assert gone.by == "small"
    assert gone.said.endswith(f"; {heir.name} is the nearest that is left (collapse)")
    large = next(s for s in table.survivors if s.name == "large")
    assert large.reason == "REPLACES_BASELINE"
    assert large.said.startswith("in place of Q8_0 at no more bytes")
    assert "the nearest that is left to Q4_K_M" in heir.said
    assert "Q4_K_M at no more bytes" not in heir.said


def test_an_asked_size_that_pushes_another_out_does_not_dominate_what_is_smaller() -> None:
    mixes = [entry("small", 5290, 0.0040), entry("asked", 5500, 0.0035, is_asked=True)]
    table = choose_survivors([*BASELINES, *mixes])
    assert [s.name for s in table.survivors] == ["Q2_K", "asked", "Q6_K", "Q8_0"]
    removed = {r.name: r for r in table.removed}
    assert removed["Q4_K_M"].reason == removed["small"].reason == "SPACING"
    found = table.survivors[1]
    assert found.replaced == ("Q4_K_M",)
    assert found.reason == "NONLINEAR_WIN"
    assert "at no more bytes" not in found.said
    assert "a better trade than the files next to it; the nearest that is left to Q4_K_M" in found.said


@pytest.mark.parametrize(("own", "serves"), [(5298, True), (5299, False)])
def test_a_baseline_that_is_larger_than_asked_for_serves_only_by_its_header(own: int, serves: bool) -> None:
    base = BASELINES[2]
    larger = Entry(base.name, 5300, base.klds, True, own_bytes=own)
    tied = near("h", 5298, base, 1.02, is_asked=True, asked_bytes=5298)
    # A hair larger and much better: not what was asked for.
    premium = entry("p", 5340, 0.0040)
    table = choose_survivors([*BASELINES[:2], BASELINES[3], larger, tied, premium])
    names = [s.name for s in table.survivors]
    assert (base.name in names, "h" in names) == (serves, not serves)
    removed = {r.name: r.reason for r in table.removed}
    assert removed["p"] == "SPACING"
    if serves:
        assert removed["h"] == "NOT_BELOW_CHORD"
    else:
        assert removed[base.name] == "TIE_SMALLER"
        assert table.survivors[1].reason == "REPLACES_BASELINE"
