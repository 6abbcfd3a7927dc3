"""Predicted KLD of mixes, and what stands beside the solution as a safety net."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mqnative.formats.qtypes import qtype
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
