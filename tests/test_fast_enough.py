"""A speed that is demanded: what is predicted is run, and corrected; nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from mqnative.errors import InfeasibleBudgetError
from mqnative.jobs import memory_fit
from mqnative.jobs.memory_budget import MemoryBudget
from mqnative.jobs.speed_model import SpeedModel
from mqnative.solve.problem import Problem

FASTEST = 200.0


@dataclass(frozen=True)
class Found:
    """What stands for a mix: the speed that was asked of it."""

    plan: float
    budget: MemoryBudget | None = None
    measured_tps: float | None = None
    speed: SpeedModel | None = None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The speeds that the solver is asked for; above `FASTEST` it refuses."""
    speeds: list[float] = []

    def solve(
        _file: object, _problem: object, _plan: object, budget: MemoryBudget, _seconds: object
    ) -> Found:
        assert budget.min_tps is not None
        speeds.append(budget.min_tps)
        if budget.min_tps > FASTEST:
            raise InfeasibleBudgetError(f"{budget.min_tps:g} is too much", constraint="--min-tps")
        return Found(budget.min_tps)

    monkeypatch.setattr(memory_fit, "solve_memory", solve)
    return speeds


def answer(monkeypatch: pytest.MonkeyPatch, demand: float, reached: Callable[[float], float]) -> Any:
    """What is found for a demand, where a mix predicted to reach x reaches ``reached(x)``."""

    def run(plan: float, **_: object) -> SimpleNamespace:
        return SimpleNamespace(quiet_seconds=1.0 / reached(plan))

    monkeypatch.setattr(memory_fit, "generation_rate", run)
    case: Any = SimpleNamespace(file=None, plan=None, damages=SimpleNamespace(tensors={}))
    budget = MemoryBudget(None, min_tps=demand)
    return memory_fit._fast_enough(case, Problem((), 0), budget, SpeedModel({}, 0.0, 1))


def test_what_is_reached_at_once_is_taken(asked: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(monkeypatch, 100.0, lambda x: 1.1 * x)
    assert found.measured_tps == pytest.approx(110.0)
    assert asked == [100.0]


def test_a_prediction_that_is_too_good_is_corrected(
    asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answer(monkeypatch, 100.0, lambda x: 0.8 * x)
    assert found.measured_tps >= 100.0
    assert asked == [100.0, pytest.approx(100.0 * 1.02**2 / 0.8)]


def test_what_was_reached_by_a_hair_is_taken_only_if_nothing_faster_is_found(
    asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answer(monkeypatch, 100.0, lambda x: 1.01 * x)
    assert found.measured_tps > 102.0
    assert len(asked) == 2
    asked.clear()
    found = answer(monkeypatch, 199.0, lambda x: 1.001 * x)
    assert 199.0 < found.measured_tps < 1.02 * 199.0
    assert max(asked) > FASTEST


def test_a_correction_beyond_the_fastest_is_taken_back(
    asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answer(monkeypatch, 140.0, lambda x: 0.5 * x if x == 140.0 else 0.9 * x)
    assert asked[1] > FASTEST
    assert 140.0 < found.plan <= FASTEST
    assert found.measured_tps >= 140.0


def test_a_correction_because_of_a_slow_moment_is_taken_back(
    asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[float] = []

    def reached(x: float) -> float:
        runs.append(x)
        return (0.6 if len(runs) == 1 else 1.0) * x

    found = answer(monkeypatch, 100.0, reached)
    assert max(asked) == pytest.approx(150.0)
    assert 102.0 <= found.measured_tps <= 110.0


def test_the_refusal_speaks_of_what_was_asked_for(
    asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"150 tokens per second: .* reached 99\.9"):
        answer(monkeypatch, 150.0, lambda x: min(0.55 * x, 99.9))
    assert max(asked) > FASTEST
    asked.clear()
    # What is not even predicted is refused in the solver's words.
    with pytest.raises(InfeasibleBudgetError, match="201 is too much"):
        answer(monkeypatch, 201.0, lambda x: x)
    assert asked == [201.0]
