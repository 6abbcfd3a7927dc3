"""Groups by themselves: patterns, double sampling, pruning, and the problem that is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.errors import InfeasibleBudgetError
from mqnative.hybrids.chords import Point
from mqnative.hybrids.isolation import Pattern, Sample, carried, contrast, leader_of, patterns_of
from mqnative.hybrids.overlap import WINDOW, shared_share
from mqnative.hybrids.pruning import Limits, prune, undecided
from mqnative.hybrids.targets import group_problem, premium_target, targets_of
from mqnative.solve.exact import solve_exact

N = 16
TEXT = np.exp(np.random.default_rng(5).normal(0, 0.4, N))


def sample(name: str, size: int, kld: float, *, n: int = N, group: str = "D") -> Sample:
    klds = (kld * TEXT / TEXT.mean() * np.random.default_rng([size, n]).normal(1, 0.02, N))[:n]
    pattern = Pattern(group, name, (name,), {f"{group}.weight": name}, size)
    return Sample(pattern, klds, carried(klds, TEXT if n < N else klds))


def bans(samples: list[Sample], limits: Limits | None = None) -> dict[str, str | None]:
    return {c.name: c.ban for c in prune(samples, limits)}


def test_equal_patterns_are_one_sample_with_all_its_sources() -> None:
    mixes = {
        "Q4_K_M": {"a": "Q4_K", "b": "Q6_K"},
        "Q4_K_S": {"a": "Q4_K", "b": "Q4_K"},
        "Q4_K": {"a": "Q4_K", "b": "Q4_K"},
    }
    sizes = {("a", "Q4_K"): 10, ("b", "Q4_K"): 20, ("b", "Q6_K"): 30}
    found = patterns_of("D", ["a", "b"], mixes, sizes)
    assert [(p.name, p.sources, p.size_bytes) for p in found] == [
        ("Q4_K_S", ("Q4_K_S", "Q4_K"), 30),
        ("Q4_K_M", ("Q4_K_M",), 40),
    ]
    assert leader_of(found).name == "Q4_K_M"


def test_a_few_chunks_carried_by_a_like_sample_are_nearer_to_the_whole_text() -> None:
    rng = np.random.default_rng(11)
    plain, ratio, covered = [], [], 0
    for _ in range(300):
        text = np.exp(rng.normal(0, 0.5, N))
        leader = text * rng.normal(1, 0.05, N)
        other = 0.3 * text * rng.normal(1, 0.05, N)
        found = carried(other[:3], leader)
        plain.append(abs(other[:3].mean() - other.mean()))
        ratio.append(abs(found.value - other.mean()))
        covered += found.ci95[0] <= 0.3 * np.exp(0.125) <= found.ci95[1]
    assert np.mean(ratio) < np.mean(plain) / 3
    assert covered >= 0.93 * 300


def test_all_chunks_need_no_carrying() -> None:
    found = carried(TEXT, TEXT[::-1])
    assert found.value == pytest.approx(TEXT.mean())


def test_contrasts_use_the_chunks_that_all_samples_have() -> None:
    found = contrast({"a": 2 * TEXT, "b": TEXT[:4]}, {"a": 1.0, "b": -1.0})
    assert found.value == pytest.approx(TEXT[:4].mean())


def test_what_alone_loses_more_than_a_mix_may_is_hard_damage() -> None:
    found = [sample("Q8_0", 100, 0.0001), sample("Q4_K", 50, 0.005), sample("IQ1_S", 20, 0.4)]
    assert bans(found)["IQ1_S"] == "HARD_DAMAGE"
    assert bans(found, Limits(hard_kld=1.0))["IQ1_S"] is None
    everything = [sample("IQ1_S", 20, 0.4), sample("IQ2_S", 25, 0.2)]
    assert bans(everything) == {"IQ1_S": "HARD_DAMAGE", "IQ2_S": None}


def test_what_a_smaller_pattern_beats_or_equals_is_dominated() -> None:
    found = [sample("Q8_0", 100, 0.0001), sample("Q5_1", 70, 0.004), sample("Q5_K", 65, 0.002)]
    choices = {c.name: c for c in prune(found)}
    assert choices["Q5_1"].ban == "DOMINANCE"
    assert choices["Q5_1"].against == ("Q5_K",)
    assert choices["Q5_1"].difference is not None
    assert choices["Q5_1"].difference.ci95[0] > 0
    assert "5 bytes less" in choices["Q5_1"].said
    assert choices["Q5_K"].ban is None


def test_what_lies_far_above_the_chord_of_two_others_is_a_bad_trade() -> None:
    found = [sample("Q8_0", 100, 0.0001), sample("bad", 60, 0.0175), sample("Q3_K", 40, 0.018)]
    choices = {c.name: c for c in prune(found)}
    assert choices["bad"].ban == "BAD_TRADE"
    assert choices["bad"].against == ("Q3_K", "Q8_0")
    near = [sample("Q8_0", 100, 0.0001), sample("fair", 60, 0.0125), sample("Q3_K", 40, 0.018)]
    assert bans(near)["fair"] is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(100, 5000), st.floats(1e-5, 0.3)),
        min_size=1,
        max_size=12,
        unique_by=lambda p: p[0],
    )
)
def test_every_ban_can_be_checked_by_its_numbers(points: list[tuple[int, float]]) -> None:
    samples = {f"p{i}": sample(f"p{i}", size, kld) for i, (size, kld) in enumerate(points)}
    choices = prune(list(samples.values()))
    assert [c.name for c in choices] == list(samples)
    assert any(c.ban is None for c in choices)
    for c in choices:
        own = samples[c.name]
        if c.ban == "HARD_DAMAGE":
            assert own.damage.ci95[0] >= 0.1
        elif c.ban == "DOMINANCE":
            other = samples[c.against[0]]
            assert other.pattern.size_bytes <= own.pattern.size_bytes
            assert other.klds.mean() <= own.klds.mean()
        elif c.ban == "BAD_TRADE":
            low, high = (samples[name] for name in c.against)
            assert low.pattern.size_bytes < own.pattern.size_bytes < high.pattern.size_bytes
            assert c.difference is not None
            assert c.difference.ci95[0] > 0


def test_what_more_text_could_decide_is_named() -> None:
    klds = 0.004 * TEXT / TEXT.mean()
    one = Sample(Pattern("D", "a", ("a",), {}, 60), klds, carried(klds, klds))
    other_klds = klds * np.linspace(0.9, 1.11, N)
    other = Sample(Pattern("D", "b", ("b",), {}, 61), other_klds, carried(other_klds, other_klds))
    assert set(undecided([one, other, sample("c", 90, 0.0001)])) == {"a", "b"}


def test_the_group_problem_solves_to_patterns_of_groups() -> None:
    samples = {
        "E": [sample("Q8_0", 100, 0.0001, group="E"), sample("Q4_K", 50, 0.001, group="E")],
        "D": [sample("Q8_0", 100, 0.0001), sample("Q4_K", 50, 0.005)],
    }
    found = group_problem(samples, 10)
    solution = solve_exact(found.problem, 165)
    assert solution.types == {"E.weight": "Q4_K", "D.weight": "Q8_0"}
    assert found.chosen(solution.types) == {"E": "Q4_K", "D": "Q8_0"}


def test_sizes_of_interest_are_those_of_baselines_between_them_and_asked_for() -> None:
    points = [Point("s", 1000, 0.1), Point("l", 1300, 0.01), Point("xl", 1320, 0.005)]
    found = targets_of(points, [1100], spacing=0.05, least=900, most=2000)
    assert [(t.size_bytes, t.why) for t in found] == [
        (1000, "at"),
        (1100, "asked"),
        (1140, "between"),
        (1300, "at"),
        (1320, "at"),
    ] or [t.why for t in found].count("between") == 2
    sizes = [t.size_bytes for t in found]
    assert sizes == sorted(set(sizes))
    for outside in (899, 2001):
        with pytest.raises(InfeasibleBudgetError) as caught:
            targets_of(points, [outside], spacing=0.05, least=900, most=2000)
        assert (caught.value.smallest_bytes, caught.value.largest_bytes) == (900, 2000)
    premium = premium_target(points[0], 0.01, 2000)
    assert premium is not None
    assert premium.size_bytes == 1010
    assert premium_target(points[2], 0.01, 1320) is None


def test_a_baseline_s_size_a_hair_above_one_asked_for_is_the_same() -> None:
    points = [Point("a", 100_000, 1.0), Point("b", 200_000, 0.1)]
    found = targets_of(points, [99_950, 199_000], spacing=0.5, least=90_000, most=300_000)
    assert [(t.size_bytes, t.why) for t in found if t.why != "between"] == [
        (99_950, "asked"),
        (199_000, "asked"),
        (200_000, "at"),
    ]
    # A smaller one is not: the file asked for may be larger.
    above = targets_of(points, [100_010], spacing=0.5, least=90_000, most=300_000)
    assert [t.why for t in above][:2] == ["at", "asked"]


def test_passages_in_common_are_found_wherever_they_stand() -> None:
    rng = np.random.default_rng(2)
    text = rng.integers(0, 4000, (10, 512)).astype(np.int32)
    other = rng.integers(0, 4000, (6, 512)).astype(np.int32)
    assert shared_share(text, other) == 0.0
    other[2, 100 : 100 + 4 * WINDOW] = text[3, 37 : 37 + 4 * WINDOW]
    assert 0.03 < shared_share(text, other) < 0.1
    assert shared_share(text, text) == 1.0
