"""Choosing a mix: at a budget or at the frontier's knee, and with or without the imatrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mqnative.core.presets import preset, preset_types
from mqnative.errors import ConstraintError
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.recipe import Recipe
from mqnative.jobs.fit import Case, Demand, Fit, fit
from mqnative.jobs.known import Damages
from mqnative.jobs.linking import damage_sum
from mqnative.jobs.memory_fit import fit_memory
from mqnative.jobs.memory_solve import MemoryFit
from mqnative.measure.corpus import Corpus
from mqnative.measure.evaluate import summarize
from mqnative.measure.stored_scores import score
from mqnative.measure.study import Study
from mqnative.predict.link import UNFITTED
from mqnative.solve.distinct import smallest_bytes
from mqnative.solve.frontier import default_budgets, frontier
from mqnative.solve.knees import Knee, find_knees, knees
from mqnative.solve.problem import Problem
from mqnative.solve.solvers import PRESET, has_own_size

# Whether tensors are encoded and their errors weighed with the imatrix.
Weighing = Literal["imatrix", "none"]
Importance = Literal["imatrix", "none", "auto"]
IMPORTANCES: tuple[Importance, ...] = ("imatrix", "none", "auto")

# The weights settle in two or three rounds.
_MOST_WEIGHTS = 5
# Points of the frontier of few types, each of which is solved.
_FEW_TYPES_POINTS = 40


@dataclass(frozen=True)
class Chosen:
    """A mix and why it is this one.

    Attributes:
        damages: it was chosen by.
        fit: the mix and its plan.
        weighing: with the imatrix, or without.
        knee: whose size was taken as the budget; None where a budget was given.
        select_klds: KLD on the select text of each way to weigh that was tried; empty for one.
        memory: what it takes of the machine that it was asked to fit; None where none was named.
    """

    damages: Damages
    fit: Fit
    weighing: Weighing
    knee: Knee | None = None
    select_klds: Mapping[str, float] = field(default_factory=dict)
    memory: MemoryFit | None = None


def weighings(importance: Importance) -> tuple[Weighing, ...]:
    """What there is to try."""
    return ("imatrix", "none") if importance == "auto" else (importance,)


def choose(
    case: Case, demand: Demand, weighing: Weighing = "imatrix", budget_bytes: int | None = None
) -> Chosen:
    """The mix that a demand asks for.

    Args:
        case: the model and its damages.
        demand: budget, constraints and method; without a budget the knee of the frontier is taken, unless
            the method has a size of its own.
        weighing: that the damages were measured with.
        budget_bytes: overrides the demand's.

    Raises:
        as `fit`.
    """
    if demand.memory is not None:
        placed, kept = fit_memory(case, demand, demand.memory)
        return Chosen(case.damages, kept, weighing, memory=placed)
    budget = demand.budget_bytes(case.file) if budget_bytes is None else budget_bytes
    knee = None
    if budget is None and not has_own_size(demand.method):
        knee = knee_of(case, demand)
        budget = knee.size_bytes
    mixes = None
    if demand.method.startswith(PRESET):
        name = preset(demand.method.removeprefix(PRESET)).name
        demand = replace(demand, method=PRESET + name)
        types = preset_types(case.file.path, name, with_imatrix=case.damages.imatrix is not None)
        mixes = {demand.method: types}
    return Chosen(case.damages, fit(case, demand, budget, mixes=mixes), weighing, knee)


def choose_coupled(
    case: Case, demand: Demand, weighing: Weighing = "imatrix", budget_bytes: int | None = None
) -> Chosen:
    """The mix that a demand asks for, by what damages add in the mix rather than by their sum.

    What a tensor of the body loses is made worse by what the others lose, what the head loses is not. The
    sum is solved with the body weighed as it counts in the last solution, until that solution stays: the KLD
    being convex in the two sums, no other mix then has a lower one by the link.

    Args and errors as `choose`.
    """
    chosen = choose(case, demand, weighing, budget_bytes)
    if demand.method != "exact":
        return chosen
    for _ in range(_MOST_WEIGHTS):
        total = damage_sum(case.damages, chosen.fit.plan.types)
        if total is None:  # a pinned type that was not measured
            return chosen
        weighed = replace(case, body_weight=UNFITTED.body_weight(total))
        again = choose(weighed, demand, weighing, chosen.fit.limit_bytes if chosen.knee else budget_bytes)
        again = replace(again, knee=chosen.knee)
        other = damage_sum(case.damages, again.fit.plan.types)
        if other is None or UNFITTED.apply(other).mean > UNFITTED.apply(total).mean:
            return chosen
        is_same = again.fit.plan.types == chosen.fit.plan.types
        chosen = again
        if is_same:
            break
    return chosen


def knee_of(case: Case, demand: Demand) -> Knee:
    """The frontier's knee under the demand's constraints.

    Raises:
        ConstraintError: the frontier has none; there is one mix only, or every mix does the same damage.
    """
    problem = case.restricted(case.header_bytes(), demand.constraints, case.damages.facts()).problem
    found = problem_knees(problem)
    if not found:
        raise ConstraintError("the frontier has no knee: all mixes are alike; give --bpw or --size")
    return found[0]


def problem_knees(problem: Problem) -> tuple[Knee, ...]:
    """The knees of a problem's frontier; the first is the default."""
    if problem.max_types is None:
        return knees(problem)
    smallest = smallest_bytes(problem)
    assert smallest is not None  # restricted() has seen to it
    points = frontier(problem, default_budgets(problem, smallest, _FEW_TYPES_POINTS))
    rising = [k for k in range(len(points)) if k == 0 or points.sizes[k] > points.sizes[k - 1]]
    return find_knees(points.sizes[rising], points.damages[rising])


def better(study: Study, text: Corpus, found: Mapping[Weighing, Chosen]) -> Chosen:
    """The choice with the lower KLD on the select text.

    Raises:
        as `score`.
    """
    klds = {}
    for weighing, chosen in found.items():
        scores = score(
            study, "importances", text, {weighing: chosen.fit.plan.types}, chosen.damages.importances
        )
        klds[weighing] = summarize(scores[weighing], text.n_ctx).kld_mean or 0.0
    best = min(klds, key=lambda w: klds[w])
    return replace(found[best], select_klds={str(w): kld for w, kld in klds.items()})


def recipe_of(study: Study, chosen: Chosen, imatrix: Imatrix | None) -> Recipe:
    """The result as a recipe that `mqnative build` takes."""
    found = chosen.fit
    target = {
        "size_bytes": found.plan.file_bytes,
        "bpw": round(found.plan.bpw, 4),
        "method": found.solution.method,
    }
    texts = found.restricted.constraints.texts
    total = damage_sum(chosen.damages, found.plan.types)
    return Recipe(
        tensors=found.plan.types,
        model={
            "name": study.file.get("general.name", ""),
            "architecture": study.file.architecture or "",
            "sha256": study.identity.model,
        },
        target=target | ({"constraints": list(texts)} if texts else {}),
        predicted={"kld_mean": found.solution.damage if total is None else total.mean},
        provenance={
            "imatrix_sha256": "none" if imatrix is None else imatrix.content_hash(),
            "build": study.build,
        },
    )
