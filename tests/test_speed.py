"""Rates, products and what a recipe's speed is predicted from; nothing here asks how fast this machine is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mqnative.builtin import MODEL
from mqnative.core.memory import PLANNED, Placement
from mqnative.errors import BackendError, ShapeError
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.speed_frontier import points
from mqnative.jobs.speed_model import SpeedModel, _line
from mqnative.jobs.type_times import type_times
from mqnative.measure import product_times
from mqnative.measure.product_times import ProductTimes, Setting, Shape, products_of
from mqnative.measure.speed import Rate, bench
from mqnative.solve.placed import Site
from mqnative.solve.problem import Choice, Item, Problem
from tiny_models import N_EXPERT, N_EXPERT_USED, TinyModels


def test_a_rate_has_mean_and_spread_of_its_runs() -> None:
    rate = Rate(100, (1.0, 2.0))
    assert rate.per_run == (100.0, 50.0)
    assert rate.mean == 75.0
    assert rate.sd == pytest.approx(35.355, rel=1e-4)
    assert rate.quiet_seconds == 0.0125
    assert Rate(5, (1.0,)).sd == 0.0


def test_runs_are_timed_as_often_as_asked_on_cpu_and_device() -> None:
    for placement in (Placement(0, ""), Placement(device=PLANNED)):
        found = bench(MODEL, placement=placement, n_prompt=8, n_gen=2, n_runs=2, n_threads=1)
        assert found.prompt is not None
        assert found.generation is not None
        assert (len(found.prompt.seconds), len(found.generation.seconds)) == (2, 2)
        assert min(found.prompt.seconds + found.generation.seconds) > 0
    only = bench(MODEL, n_prompt=0, n_gen=2, n_runs=1, n_threads=1)
    assert only.prompt is None


def test_products_are_what_a_token_is_multiplied_with(tiny_models: TinyModels) -> None:
    with GGUFFile.open(MODEL) as file:
        found = products_of(file)
        assert "token_embd.weight" not in found  # a lookup, since there is a head
        assert set(found) == {n for n, t in file.tensors.items() if t.n_rows > 1} - {"token_embd.weight"}
    with GGUFFile.open(tiny_models.moe) as file:
        found = products_of(file)
    assert "token_embd.weight" in found  # tied: it is the head
    experts = found["blk.0.ffn_up_exps.weight"]
    assert (experts.n_experts, experts.n_used) == (N_EXPERT, N_EXPERT_USED)
    assert experts.n_weights == N_EXPERT_USED * 256 * 256


def test_times_are_kept_and_not_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "times.json"
    setting, shape = Setting.of(1 << 20, 1), Shape(256, 32)
    wanted = [(setting, shape, t) for t in ("Q4_0", "Q6_K", "IQ2_XXS", "F16")]
    times = ProductTimes(path)
    assert times.measure(wanted) == 4
    assert all(times.seconds(*w) > 0 for w in wanted)
    again = ProductTimes(path)
    monkeypatch.setattr(product_times, "_timed", lambda *_: pytest.fail("timed again"))
    assert again.measure(wanted) == 0
    assert again.seconds(*wanted[0]) == times.seconds(*wanted[0])
    path.write_text(json.dumps({"version": 0, "seconds": {"x": 1}}), encoding="utf-8")
    monkeypatch.undo()
    assert ProductTimes(path).measure(wanted[:1]) == 1


def test_of_tries_with_others_between_them_the_fastest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    slow = iter((4.0, 5.0, 1.0, 6.0, 3.0, 2.0))

    def timed(_setting: Setting, _shape: Shape, name: str) -> float:
        order.append(name)
        return next(slow)

    monkeypatch.setattr(product_times, "_timed", timed)
    times = ProductTimes(tmp_path / "times.json")
    setting, shape = Setting.of(1 << 20, 1), Shape(256, 32)
    assert times.measure([(setting, shape, "Q4_0"), (setting, shape, "Q8_0")]) == 2
    assert order == ["Q4_0", "Q8_0"] * 3
    assert (times.seconds(setting, shape, "Q4_0"), times.seconds(setting, shape, "Q8_0")) == (1.0, 2.0)


def test_experts_are_timed_as_they_are_used(tmp_path: Path) -> None:
    times = ProductTimes(tmp_path / "times.json")
    shape = Shape(256, 64, n_experts=8, n_used=2)
    assert times.measure([(Setting.of(1 << 20, 1), shape, "Q8_0")]) == 1


def test_no_such_product_and_no_such_device_are_refused() -> None:
    with pytest.raises(BackendError, match="Nemo0"):
        product_times._timed(Setting("Nemo0", 1, 1, 10), Shape(256, 32), "Q8_0")
    with pytest.raises(ShapeError):
        product_times._timed(Setting("CPU", 1, 1, 10), Shape(256, 0), "Q8_0")


def test_types_are_listed_fastest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path))
    found = type_times(MODEL, ("Q8_0", "Q4_0"), n_threads=1)
    assert {t.qtype for t in found} == {"Q8_0", "Q4_0"}
    assert found[0].seconds <= found[1].seconds
    assert all(t.seconds >= max(t.products.values()) for t in found)


def test_a_recipe_takes_its_products_and_the_rest() -> None:
    model = SpeedModel({("a", "Q8_0"): 0.25, ("b", "Q8_0"): 0.5, ("b", "Q4_0"): 0.125}, 0.125, 1)
    assert model.token_seconds({"a": "Q8_0", "b": "Q4_0", "norm": "F32"}) == 0.5
    assert model.tps({"a": "Q8_0", "b": "Q4_0"}) == 2.0


def test_the_rest_is_found_from_runs_and_never_negative() -> None:
    sums = [1.0, 2.0, 4.0]
    assert _line(sums, [0.5 + 1.25 * s for s in sums]) == pytest.approx((1.25, 0.5))
    slope, rest = _line(sums, [s - 0.5 for s in sums])
    assert rest == 0.0
    assert slope > 0


def test_more_speed_costs_damage_and_never_size() -> None:
    sizes = {"Q8_0": 80, "Q6_K": 60, "Q4_0": 40}
    damages = {"Q8_0": 0.0, "Q6_K": 1.0, "Q4_0": 3.0}
    seconds = {"Q8_0": 0.5, "Q6_K": 1.0, "Q4_0": 0.25}
    choices = tuple(Choice(t, sizes[t], damages[t]) for t in sizes)
    problem = Problem(tuple(Item(n, choices) for n in "abcd"), 10)
    takes = np.array([(0, 0, sizes[t], seconds[t]) for t in sizes], np.float64)
    site = Site("CPU", 0, 0, 0.125, dict.fromkeys("abcd", takes))
    found = points(problem, site, 10 + 80 + 3 * 60, 9)
    assert [p.tps for p in found] == sorted(p.tps for p in found)
    assert [p.damage for p in found] == sorted(p.damage for p in found)
    assert all(p.size_bytes <= 270 and p.tps >= p.min_tps * (1 - 1e-6) for p in found)
    assert found[-1].tps == pytest.approx(1 / 1.125)  # all at Q4_0
    assert points(problem, site, 100, 9) == []


def test_an_untied_head_is_multiplied_and_its_embedding_looked_up() -> None:
    head = {("token_embd.weight", "Q8_0"): 0.5, ("token_embd.weight", "Q4_0"): 0.25}
    model = SpeedModel(head, 0.125, 1)
    assert model.token_seconds({"token_embd.weight": "Q8_0"}) == 0.625
    assert model.token_seconds({"token_embd.weight": "Q8_0", "output.weight": "Q4_0"}) == 0.375
