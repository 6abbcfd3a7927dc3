"""Types and placement together: what brute force finds, the program finds."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.solve.placed import Capacity, Placed, Site, fits, pinned, smallest, solve_placed
from mqnative.solve.problem import Choice, Item, Problem

TYPES = ("Q2_K", "Q4_K", "Q8_0")


def make(rng: np.random.Generator, n_items: int, n_sites: int) -> tuple[Problem, list[Site]]:
    """Items that lie on the device at some sites and in main memory at others."""
    items = []
    for i in range(n_items):
        sizes = np.sort(rng.integers(10, 1000, len(TYPES)))
        damages = np.sort(rng.uniform(0, 1, len(TYPES)))[::-1]
        choices = [Choice(t, int(s), float(d)) for t, s, d in zip(TYPES, sizes, damages, strict=True)]
        items.append(Item(f"t{i}", tuple(choices)))
    problem = Problem(tuple(items), 50)
    sites = []
    for k in range(n_sites):
        choices = {}
        for item in items:
            on_device = bool(rng.integers(0, 2))
            choices[item.name] = np.array(
                [
                    (n * on_device, n * (not on_device), n, n * (0.001 if on_device else 0.01))
                    for n in (c.size_bytes for c in item.choices)
                ],
                np.float64,
            )
        device, host = (int(n) for n in rng.integers(0, 300, 2))
        sites.append(Site(f"s{k}", device, host, float(rng.uniform(0, 1)), choices))
    return problem, sites


def brute(problem: Problem, sites: list[Site], capacity: Capacity) -> float | None:
    """The least damage of all mixes at all sites."""
    best = None
    limits = capacity.values()
    for site in sites:
        base = np.array([site.device_bytes, site.host_bytes, problem.fixed_bytes, site.seconds], np.float64)
        for picks in itertools.product(*(range(len(i.choices)) for i in problem.items)):
            pairs = list(zip(problem.items, picks, strict=True))
            total = base + sum(site.choices[i.name][c] for i, c in pairs)
            if any(limit is not None and t > limit for t, limit in zip(total, limits, strict=True)):
                continue
            if problem.max_types and len({i.choices[c].qtype for i, c in pairs}) > problem.max_types:
                continue
            damage = math.fsum(i.choices[c].damage for i, c in pairs)
            best = damage if best is None else min(best, damage)
    return best


def taken(problem: Problem, site: Site, found: Placed) -> np.ndarray:
    """What a solution takes, counted from its choices."""
    total = np.array([site.device_bytes, site.host_bytes, problem.fixed_bytes, site.seconds], np.float64)
    for item in problem.items:
        total += site.choices[item.name][item.choices.index(found.solution.choices[item.name])]
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.data())
def test_no_mix_at_any_site_is_better(seed: int, n_items: int, n_sites: int, data: st.DataObject) -> None:
    problem, sites = make(np.random.default_rng(seed), n_items, n_sites)
    limit = st.one_of(st.none(), st.integers(100, 4000))
    capacity = Capacity(
        data.draw(limit), data.draw(limit), data.draw(limit), data.draw(st.sampled_from([None, 5.0, 40.0]))
    )
    problem = replace(problem, max_types=data.draw(st.sampled_from([None, 1, 2])))
    found = solve_placed(problem, sites, capacity, thrift=0.0)
    least = brute(problem, sites, capacity)
    if found is not None and problem.max_types is not None:
        assert len(set(found.solution.types.values())) <= problem.max_types
    if least is None:
        assert found is None
        return
    assert found is not None
    assert found.solution.damage == pytest.approx(least, rel=1e-5, abs=1e-9)
    total = taken(problem, sites[found.site], found)
    for value, most in zip(total, capacity.values(), strict=True):
        assert most is None or value <= most
    assert (found.device_bytes, found.host_bytes) == (round(total[0]), round(total[1]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_thrift_gives_away_no_more_than_it_may(seed: int) -> None:
    problem, sites = make(np.random.default_rng(seed), 6, 3)
    capacity = Capacity(device_bytes=1500)
    best = solve_placed(problem, sites, capacity, thrift=0.0)
    cheap = solve_placed(problem, sites, capacity, thrift=0.05)
    assert (best is None) == (cheap is None)
    if best is None or cheap is None:
        return
    assert cheap.solution.damage <= 1.05 * best.solution.damage + 1e-9
    assert cheap.host_bytes <= best.host_bytes


def test_what_is_too_small_says_how_much_it_takes() -> None:
    problem, sites = make(np.random.default_rng(1), 4, 1)
    device, host, file, seconds = smallest(problem, sites[0])
    assert fits(problem, sites[0], Capacity(device, host, file, seconds))
    assert solve_placed(problem, sites, Capacity(device - 1)) is None
    assert solve_placed(problem, sites, Capacity(device, host)) is not None


def test_pinned_keeps_what_is_not_on_the_device() -> None:
    problem, sites = make(np.random.default_rng(3), 6, 1)
    found = solve_placed(problem, sites, Capacity(device_bytes=2500))
    assert found is not None
    kept = pinned(problem, found, sites[0])
    for item, before in zip(kept.items, problem.items, strict=True):
        on_device = sites[0].choices[item.name][:, 0].any()
        assert len(item.choices) == (len(before.choices) if on_device else 1)
        assert found.solution.choices[item.name] in item.choices


@pytest.mark.parametrize("seed", range(12))
def test_what_loses_nothing_is_proven_best(seed: int) -> None:
    # HiGHS' bound on a sum of zeros is now and then a hair below it.
    rng = np.random.default_rng(seed)
    sizes = (200, 106, 82, 70, 60, 50, 40, 30)
    items = []
    for i in range(60):
        damages = (0.0, *np.sort(rng.uniform(1e-7, 1e-2, 7) * 10.0 ** rng.integers(-3, 1)))
        choices = [Choice(f"T{n}", n, float(d)) for n, d in zip(sizes, damages, strict=True)]
        items.append(Item(f"t{i}", tuple(choices)))
    takes = np.array([(n, 0, n, 0.0) for n in sizes], np.float64)
    site = Site("all", 0, 0, 0.0, {i.name: takes for i in items})
    found = solve_placed(Problem(tuple(items), 10), [site], Capacity(device_bytes=1 << 40))
    assert found is not None
    assert (found.solution.damage, found.solution.gap) == (0.0, 0.0)
