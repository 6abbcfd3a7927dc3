"""The safety net: what others would have used, judged beside the solution before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mqnative.errors import ConstraintError
from mqnative.formats.qtypes import all_types
from mqnative.jobs.fit import Fit
from mqnative.jobs.presets import Rival
from mqnative.solve.constraints import NO_CONSTRAINTS
from mqnative.solve.fixed import solve_fixed
from mqnative.solve.problem import Choice, Problem, Solution, solution
from mqnative.solve.uniform import solve_uniform


@dataclass(frozen=True)
class Net:
    """What the solution was judged against on the select text.

    Attributes:
        presets: every preset that the model allows.
        best: the least damaging of those no larger than the solution; None if all are larger.
        tried: the mixes that were measured, the solution among them: types by name.
        klds: what each of these lost on the select text, nats per token.
        chosen: the one that was better beyond doubt and took the solution's place; usually none.
    """

    presets: dict[str, Rival]
    best: str | None
    tried: Mapping[str, Mapping[str, str]]
    klds: Mapping[str, float]
    chosen: str | None


def uniform_mixes(problem: Problem, budget_bytes: int, count: int) -> dict[str, dict[str, str]]:
    """One type for everything: the largest ``count`` such mixes within the budget."""
    targets = [t.name for t in all_types().values() if t.is_target and t.is_quantized]
    used = {c.qtype for item in problem.items for c in item.choices}
    mixes = [(t, solve_uniform(problem, t)) for t in targets if t in used]
    fitting = [(t, mix) for t, mix in mixes if mix.size_bytes <= budget_bytes]
    fitting.sort(key=lambda pair: (-pair[1].size_bytes, pair[1].damage))
    return {f"{t} everywhere": dict(mix.types) for t, mix in fitting[:count]}


def allowed(found: Fit, types: Mapping[str, str]) -> bool:
    """Whether a mix of others keeps the constraints; without any, it may have types not measured."""
    if found.restricted.constraints == NO_CONSTRAINTS:
        return True
    try:
        solve_fixed(found.problem, None, types, "")
    except ConstraintError:
        return False
    return True


def as_solution(found: Fit, types: Mapping[str, str], method: str) -> Solution:
    """A mix of others in the terms of the problem; types it does not offer count as no damage known."""
    chosen = {}
    for item in found.problem.items:
        wanted = {n: types[n] for n in item.uses(item.choices[0]) if n in types}
        known = next((c for c in item.choices if c.types(item.name) == wanted), None)
        label = " + ".join(dict.fromkeys(wanted.values()))
        chosen[item.name] = known or Choice(label, 0, 0.0, parts=tuple(wanted.items()))
    return solution(found.problem, chosen, found.solution.lower_bound, method)
