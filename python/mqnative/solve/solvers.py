"""Every way to solve the same problem, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mqnative.errors import ConstraintError
from mqnative.formats.qtypes import qtype as known_type
from mqnative.solve.bins import DEFAULT_BINS, Bin, solve_bins
from mqnative.solve.exact import RELATIVE_GAP, TIME_LIMIT_S, solve_exact
from mqnative.solve.fixed import solve_fixed
from mqnative.solve.greedy import solve_greedy
from mqnative.solve.grid import with_types
from mqnative.solve.hull import relax, tabulate
from mqnative.solve.knee import RULES, Rule, solve_knee
from mqnative.solve.problem import Problem, Solution, solution
from mqnative.solve.uniform import best_uniform, solve_uniform

PRESET = "preset:"
UNIFORM = "uniform:"
KNEE = "knee:"


@dataclass(frozen=True)
class Settings:
    """What solvers can be told.

    Attributes:
        knee, knee_threshold: rule of ``knee``; its own threshold if None.
        bins: of ``bins``.
        mixes: types by tensor, of ``preset:NAME`` and whatever else is to be an answer.
        relative_gap, time_limit_s: of ``exact``.
    """

    knee: Rule = "relative"
    knee_threshold: float | None = None
    bins: tuple[Bin, ...] = DEFAULT_BINS
    mixes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    relative_gap: float = RELATIVE_GAP
    time_limit_s: float = TIME_LIMIT_S


Solver = Callable[[Problem, "int | None", Settings], Solution]


def _exact(problem: Problem, budget_bytes: int | None, settings: Settings) -> Solution:
    budget = _needed(budget_bytes, "exact")
    return solve_exact(
        problem, budget, relative_gap=settings.relative_gap, time_limit_s=settings.time_limit_s
    )


def _greedy(problem: Problem, budget_bytes: int | None, _settings: Settings) -> Solution:
    return solve_greedy(problem, _needed(budget_bytes, "greedy"))


def _knee(problem: Problem, budget_bytes: int | None, settings: Settings) -> Solution:
    return solve_knee(problem, budget_bytes, settings.knee, settings.knee_threshold)


def _bins(problem: Problem, budget_bytes: int | None, settings: Settings) -> Solution:
    return solve_bins(problem, budget_bytes, settings.bins)


def _uniform(problem: Problem, budget_bytes: int | None, _settings: Settings) -> Solution:
    return best_uniform(problem, _needed(budget_bytes, "uniform"))


# ``knee:RULE``, ``uniform:TYPE`` and ``preset:NAME`` are made from their names.
SOLVERS: dict[str, Solver] = {
    "exact": _exact,
    "greedy": _greedy,
    "knee": _knee,
    "bins": _bins,
    "uniform": _uniform,
}


def has_own_size(method: str) -> bool:
    """Whether a method gives a mix without a budget."""
    return method in ("knee", "bins") or method.startswith((KNEE, UNIFORM, PRESET))


def check_method(method: str) -> None:
    """Refuse what is no method.

    Raises:
        ConstraintError: the message lists those there are.
        UnsupportedTypeError: ``uniform:TYPE`` of an unknown type.
    """
    if method.startswith(UNIFORM):
        known_type(method.removeprefix(UNIFORM))
    elif method.startswith(KNEE) and method.removeprefix(KNEE) not in RULES:
        raise ConstraintError(
            f"unknown rule in {method!r}; use one of {', '.join(KNEE + rule for rule in RULES)}",
            constraint=method,
        )
    elif method not in SOLVERS and not method.startswith((KNEE, PRESET)):
        known = ", ".join((*SOLVERS, f"{KNEE}RULE", f"{UNIFORM}TYPE", f"{PRESET}NAME"))
        raise ConstraintError(f"unknown method {method!r}; use one of {known}", constraint=method)


def solve(
    problem: Problem, budget_bytes: int | None, method: str = "exact", settings: Settings | None = None
) -> Solution:
    """Solve a problem by a method of `SOLVERS`, ``knee:RULE``, ``uniform:TYPE`` or ``preset:NAME``.

    Args:
        problem: what to choose; every method keeps to its choices and its number of types.
        budget_bytes: whole-file bytes not to exceed; None where `has_own_size`.
        method: the method's name.
        settings: of the methods.

    Returns:
        The mix; its bound is that of the budget, or without one of its own size.

    Raises:
        InfeasibleBudgetError: no mix, or not the method's own, fits.
        ConstraintError: there is no such method, or it cannot keep a constraint.
        UnsupportedTypeError: ``uniform:TYPE`` of an unknown type.
    """
    settings = settings or Settings()
    if method == "exact":
        return _exact(problem, budget_bytes, settings)
    found = _by_name(problem, budget_bytes, method, settings)
    size = found.size_bytes if budget_bytes is None else budget_bytes
    bound = relax(tabulate(problem), size).lower_bound
    return solution(problem, found.choices, bound, found.method, found.reasons)


def _by_name(problem: Problem, budget_bytes: int | None, method: str, settings: Settings) -> Solution:
    if method in settings.mixes:
        return solve_fixed(problem, budget_bytes, settings.mixes[method], method)
    if method.startswith(UNIFORM):
        types = solve_uniform(problem, method.removeprefix(UNIFORM)).types
        return solve_fixed(problem, budget_bytes, types, method)
    check_method(method)
    if method.startswith(PRESET):
        raise ConstraintError(f"the types of {method} are not known", constraint=method)
    if method.startswith(KNEE):
        rule = next(r for r in RULES if method == KNEE + r)
        settings = replace(settings, knee=rule, knee_threshold=_threshold(settings, rule))
        found = _by_name(problem, budget_bytes, "knee", settings)
        return replace(found, method=method)
    solver = SOLVERS[method]
    if problem.max_types is None:
        return solver(problem, budget_bytes, settings)
    # The method's answer with the types that the exact mix of so few types uses.
    budget = problem.largest_bytes if budget_bytes is None else budget_bytes
    best = _exact(problem, budget, settings)
    types_used = frozenset[str]().union(*(c.used for c in best.choices.values()))
    return solver(with_types(problem, types_used), budget_bytes, settings)


def _threshold(settings: Settings, rule: Rule) -> float | None:
    """A threshold is one of its own rule."""
    return settings.knee_threshold if rule == settings.knee else None


def _needed(budget_bytes: int | None, method: str) -> int:
    if budget_bytes is None:
        raise ConstraintError(f"{method} needs a budget; give a size", constraint=method)
    return budget_bytes
