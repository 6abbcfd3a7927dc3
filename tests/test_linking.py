"""Predicted KLD of mixes, and what stands beside the solution as a safety net."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mqnative.builtin import MODEL
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import HEAD
from mqnative.jobs.measure_plan import anchor_for, plan_of_file
from mqnative.jobs.net import as_solution, uniform_mixes
from mqnative.solve.problem import Choice, Item, Problem
from mqnative.solve.uniform import solve_uniform


def problem() -> Problem:
    choices = tuple(
        Choice(t, int(qtype(t).bpw * 1000), 8.0 / qtype(t).bpw) for t in ("Q2_K", "Q4_K", "Q6_K", "Q8_0")
    )
    return Problem((Item("a", choices), Item("b", choices)), 100)


def test_uniform_mixes_are_the_largest_that_fit() -> None:
    asked = problem()
    budget = solve_uniform(asked, "Q6_K").size_bytes
    found = uniform_mixes(asked, budget, 2)
    assert found == {
        "Q6_K everywhere": {"a": "Q6_K", "b": "Q6_K"},
        "Q4_K everywhere": {"a": "Q4_K", "b": "Q4_K"},
    }
    assert uniform_mixes(asked, 10, 2) == {}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_more_are_measured_than_asked_for(count: int) -> None:
    assert len(uniform_mixes(problem(), 10**6, count)) == count


def test_a_rival_in_the_terms_of_the_problem_keeps_its_types() -> None:
    asked = problem()
    plan = SimpleNamespace(problem=asked, solution=solve_uniform(asked, "Q4_K"))
    found = as_solution(plan, {"a": "Q6_K", "b": "IQ3_S"}, "Q3_K_M")  # type: ignore[arg-type]
    assert found.types == {"a": "Q6_K", "b": "IQ3_S"}
    assert found.method == "Q3_K_M"


def pairs_at(model: Path, bpw: float | None, targets: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    anchor = anchor_for(4.5 if bpw is None else bpw)
    with GGUFFile.open(model) as file:
        plan = plan_of_file(file, None, targets, anchor, lossless="layers", bpw=bpw)
    assert len(set(plan.pairs)) == len(plan.pairs)
    assert not {*plan.more} & {*plan.anchors.items(), *plan.lossless}
    return list(plan.more)


def test_the_head_is_probed_at_every_type_near_the_budget() -> None:
    more = pairs_at(MODEL, 4.5)
    assert {name for name, _ in more} == {HEAD}
    assert {"Q4_K", "Q5_K", "Q4_0"} <= {t for _, t in more}
    assert all(abs(qtype(t).bpw - 4.5) <= 1.75 for _, t in more)
    assert pairs_at(MODEL, 4.5, ("Q3_K", "Q4_K", "Q8_0")) == [(HEAD, "Q4_K")]
    assert pairs_at(MODEL, None) == []


def test_small_budgets_probe_every_tensor_far_below_its_anchor() -> None:
    far = [(n, t) for n, t in pairs_at(MODEL, 3.5) if n != HEAD]
    assert {t for _, t in far} == {"TQ2_0"}
    with GGUFFile.open(MODEL) as file:
        plan = plan_of_file(file, None, (), anchor_for(3.5), bpw=3.5)
    assert {n for n, _ in far} == set(plan.anchors) - {HEAD}
    # Without that type the smallest that is allowed, if it is much below.
    allowed = pairs_at(MODEL, 3.5, ("Q2_K", "Q3_K", "Q4_K"))
    assert {t for n, t in allowed if n != HEAD} == {"Q2_K"}
    assert [n for n, _ in pairs_at(MODEL, 3.5, ("Q3_K", "Q4_K")) if n != HEAD] == []
