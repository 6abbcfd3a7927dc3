"""The best mix around what a person has decided, and where each tensor's own knees lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mqnative.app.views.draft import Draft, take_types
from mqnative.app.views.mix import damage_at, legal_types, link_of, total_in, type_bytes
from mqnative.app.views.model_view import ModelView, padded
from mqnative.errors import ConstraintError, MQNativeError
from mqnative.formats.qtypes import qtype
from mqnative.predict.link import Total, head_shares
from mqnative.report.summary import TensorRow
from mqnative.solve.constraints import Constraints
from mqnative.solve.feasible import require_fit, restricted
from mqnative.solve.frontier import default_budgets, frontier
from mqnative.solve.knee import RULES, solve_knee
from mqnative.solve.limits import EVERY, Allow, Floor, Limit, Pin, TensorFacts
from mqnative.solve.problem import Choice, Item, Problem, Solution
from mqnative.solve.solvers import Settings, solve

# A page waits no longer; the mix found by then is used, with its gap.
TIME_LIMIT_S = 10.0
# The weights settle in two or three rounds.
_MOST_WEIGHTS = 5
FIRST_BUDGET = "4.5 bpw"
_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_BUDGET = re.compile(r"([0-9][0-9,_']*(?:\.[0-9]+)?)\s*([a-z]*)")
# A bare number up to this is meant as bits per weight.
_MOST_BPW = 33.0


def problem_of(view: ModelView, body_weight: float = 1.0) -> Problem:
    """Every tensor with a choice; their stored type costs nothing.

    Args:
        view: the model.
        body_weight: what damage counts for that is not the head's.
    """
    heads = head_shares(view.by_name, view.link.of_input)
    items, rest = [], view.fixed_bytes
    for tensor in view.tensors:
        head = heads.get(tensor.name, 0.0)
        item = item_of(tensor, head + (1.0 - head) * body_weight)
        if item is None:
            rest += padded(type_bytes(tensor, tensor.source_type))
        else:
            items.append(item)
    return Problem(tuple(items), rest)


def item_of(tensor: TensorRow, weight: float = 1.0) -> Item | None:
    """A tensor as solvers see it, its damages times a weight; None where it has no choice."""
    if not any(p.legal for p in tensor.curve):
        return None
    choices = []
    for name in legal_types(tensor):
        damage = damage_at(tensor, name)
        if damage is not None:
            size = padded(type_bytes(tensor, name))
            choices.append(Choice(name, size, weight * damage.mean, weight**2 * damage.variance))
    importance = tensor.importance_percentile
    return Item(tensor.name, tuple(choices), None if importance is None else importance / 100.0)


def constraints_of(draft: Draft) -> Constraints:
    """What the draft demands."""
    limits: list[Limit] = [Pin(re.escape(name), draft.types[name]) for name in sorted(draft.pins)]
    limits += [Floor(pattern, target) for pattern, target in draft.floors]
    if draft.allowed:
        unpinned = "|".join(re.escape(name) for name in sorted(draft.pins))
        limits.append(Allow(f"(?!(?:{unpinned})$).*" if unpinned else EVERY, draft.allowed, "allowed types"))
    return Constraints(tuple(limits))


def solve_again(view: ModelView, draft: Draft, budget_bytes: int, method: str = "exact") -> Solution:
    """The least predicted KLD within a budget, pinned tensors as they are.

    What the body loses is made worse by what the rest of it loses, so that the exact method solves again with
    the body weighed as it counts in the last mix, as `mqnative.jobs.choose` does.

    Raises:
        ConstraintError: nothing is measured yet, or the demands contradict each other.
        InfeasibleBudgetError, InfeasibleConstraintsError: nothing fits; sizes that would are attached.
    """
    found = _solve_sum(view, draft, budget_bytes, method)
    for _ in range(_MOST_WEIGHTS if method == "exact" else 0):
        total = _total(view, found)
        again = _solve_sum(view, draft, budget_bytes, method, link_of(view).body_weight(total))
        if link_of(view).apply(_total(view, again)).mean >= link_of(view).apply(total).mean:
            break
        found = again
    return found


def _total(view: ModelView, found: Solution) -> Total:
    damages = {name: damage_at(view.by_name[name], chosen) for name, chosen in found.types.items()}
    return total_in(view, {name: damage for name, damage in damages.items() if damage is not None})


def _solve_sum(
    view: ModelView, draft: Draft, budget_bytes: int, method: str, body_weight: float = 1.0
) -> Solution:
    problem = problem_of(view, body_weight)
    if not problem.items:
        raise ConstraintError("nothing is measured yet; start a run on the Jobs page first", constraint="")
    facts = {t.name: TensorFacts(t.source_type) for t in view.tensors}
    names = {item.name for item in problem.items}
    kept = frozenset(name for name in draft.pins if name in names)
    demands = constraints_of(Draft(draft.types, kept, draft.floors, draft.allowed))
    found = restricted(problem, demands, facts)
    require_fit(found, facts, budget_bytes)
    budget = min(budget_bytes, found.problem.largest_bytes)
    return solve(found.problem, budget, method, Settings(time_limit_s=TIME_LIMIT_S))


def first_draft(view: ModelView) -> Draft:
    """Where editing begins: what a run chose, else the best mix of 4.5 bits per weight, else the original."""
    start = Draft(dict(view.types))
    if view.report is not None or not view.is_measured:
        return start
    try:
        budget = max(budget_of(view, FIRST_BUDGET), problem_of(view).smallest_bytes)
        found = solve_again(view, start, budget)
    except MQNativeError:  # nothing can change
        return start
    return take_types(view, start, found.types, f"solved for {FIRST_BUDGET}")


def budget_of(view: ModelView, text: str) -> int:
    """Bytes of the whole file that a person asks for: ``4.5 bpw``, ``4.5``, ``2.4 GiB``, ``500 MB``.

    Raises:
        ConstraintError: it is something else.
    """
    found = _BUDGET.fullmatch(text.strip().lower())
    if found is not None:
        number, unit = float(re.sub("[,_']", "", found[1])), found[2]
        if unit == "bpw" or (unit == "" and number <= _MOST_BPW):
            return int(number * view.n_weights / 8) + view.fixed_bytes
        if unit in _UNITS and number > 0:
            return int(number * _UNITS[unit])
    raise ConstraintError(f"{text!r} is no size; write 4.5 bpw, 2.4 GiB or 500 MB", constraint=text)


def tensor_knees(tensor: TensorRow) -> dict[str, tuple[str, ...]]:
    """Type -> the rules that stop there, walking down from the tensor's largest quantized type."""
    item = item_of(tensor)
    if item is None or len(item.choices) < 2:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for rule in RULES:
        at = solve_knee(Problem((item,), 0), None, rule).types[tensor.name]
        found[at] = (*found.get(at, ()), rule)
    return found


def frontier_types(view: ModelView, sizes: Sequence[int] = (), n_points: int = 60) -> list[Mapping[str, str]]:
    """The best mixes at sizes of equal ratios, from the smallest to the largest quantized one, by size.

    Args:
        view: the model.
        sizes: further sizes; those between the ends count.
        n_points: how many sizes besides.
    """
    problem = problem_of(view)
    if not problem.items:
        return []
    budgets = default_budgets(problem, problem.smallest_bytes, n_points)
    budgets = sorted({*budgets, *(s for s in sizes if budgets[0] <= s <= budgets[-1])})
    fixed = {t.name: t.source_type for t in view.tensors}
    return [fixed | dict(mix.types) for mix in frontier(problem, budgets, time_limit_s=1.0)]


def by_bits(types: tuple[str, ...] | list[str]) -> list[str]:
    """Types by their bits per weight."""
    return sorted(types, key=lambda t: (qtype(t).bpw, t))
