"""From a solved mix to a better one: measure moves near the price, solve again, keep what is better.

Moves are measured on the probe text and judged on the select text, so that no mix is judged by what chose it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mqnative.build.plan import BuildPlan
from mqnative.jobs.fit import Fit, fit_problem
from mqnative.measure.corpus import Corpus
from mqnative.measure.stored_scores import Importances, mix_means, score
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import Estimate, Resamples, Verdict, mean_estimate, verdict
from mqnative.refine.moves import Move, boundary, change, near_problem, posterior
from mqnative.solve.problem import solution

MOST_ROUNDS = 2
MOST_MOVES = 40
# Chunks of the probe text that moves are measured on.
MOVE_CHUNKS = 10
# Changes that promise less than this share of the mix' damage are not worth measuring.
_LEAST_GAIN = 0.002

Plan = Callable[[dict[str, str]], BuildPlan]


@dataclass(frozen=True)
class Step:
    """One round.

    Attributes:
        n_moves: moves measured.
        changed: tensors that the new mix has at another type.
        promised: predicted change of KLD, nats per token; negative is better.
        difference: measured change on the select text, paired; None where nothing was worth trying.
        verdict: of the new mix against the one before.
    """

    n_moves: int
    changed: dict[str, str]
    promised: float
    difference: Estimate | None
    verdict: Verdict | None

    @property
    def is_accepted(self) -> bool:
        """Whether the new mix took the place of the one before."""
        return self.verdict == "better"


def refine(
    study: Study,
    found: Fit,
    budget_bytes: int,
    importances: Importances,
    plan: Plan,
    *,
    probe: Corpus,
    select: Corpus,
    most_rounds: int = MOST_ROUNDS,
) -> tuple[Fit, tuple[Step, ...]]:
    """Improve a solution as long as a round finds a mix that is better beyond doubt.

    Args:
        study: the model and its store.
        found: the solution.
        budget_bytes: for the whole file.
        importances: by tensor name.
        plan: the file of a mix.
        probe: text for the moves.
        select: text that no move was measured on.
        most_rounds: at most so many.

    Returns:
        The last mix that was accepted, or ``found``, and every round.
    """
    steps: list[Step] = []
    while len(steps) < most_rounds:
        step, better = _round(study, found, budget_bytes, importances, plan, probe, select)
        steps.append(step)
        inputs = _inputs(study, found, probe, select)
        if study.store.get("refinement", inputs) is None:  # else it was made of what is stored already
            study.store.put("refinement", inputs, _value(step))
        if better is None:
            break
        found = better
    return found, tuple(steps)


def _round(
    study: Study,
    found: Fit,
    budget_bytes: int,
    importances: Importances,
    plan: Plan,
    probe: Corpus,
    select: Corpus,
) -> tuple[Step, Fit | None]:
    before = found.plan.types
    chosen = {name: choice.qtype for name, choice in found.solution.choices.items()}
    moves = boundary(found.problem, chosen, most=MOST_MOVES)
    if not moves:
        return Step(0, {}, 0.0, None, None), None
    mixes: dict[str, Mapping[str, str]] = {"": before}
    mixes |= {_name(m): _moved(found, m) for m in moves}
    means = mix_means(study, "refine", probe, mixes, importances)
    measured = [change(means[_name(m)].kld, means[""].kld) for m in moves]
    near = near_problem(found.problem, chosen, moves, posterior(moves, measured))
    solved, file = fit_problem(near, budget_bytes, plan)
    changed = {n: t for n, t in solved.types.items() if t != found.solution.types.get(n)}
    own = sum(c.damage for i in near.items for c in i.choices if c.qtype == chosen[i.name])
    promised = solved.damage - own
    if not changed or -promised < _LEAST_GAIN * own:
        return Step(len(moves), changed, promised, None, None), None
    after = file.types
    scores = score(study, "refine", select, {"before": before, "after": after}, importances)
    old, new = scores["before"].kld, scores["after"].kld
    assert old is not None
    assert new is not None
    difference = mean_estimate(new - old, Resamples.of(len(scores["before"].nll)))
    step = Step(len(moves), changed, promised, difference, verdict(difference))
    if not step.is_accepted:
        return step, None
    # In the terms of the whole problem again, so that the next round sees every type.
    picks = {
        i.name: next(c for c in i.choices if c.qtype == solved.choices[i.name].qtype)
        for i in found.problem.items
    }
    refined = solution(found.problem, picks, found.solution.lower_bound, "exact, refined")
    return step, replace(found, solution=refined, plan=file)


def _moved(found: Fit, move: Move) -> dict[str, str]:
    """The mix after a move; it changes several tensors where they share a type."""
    item = next(i for i in found.problem.items if i.name == move.name)
    choice = next(c for c in item.choices if c.qtype == move.after)
    # A head that is tied again is no tensor any more.
    rest = {n: t for n, t in found.plan.types.items() if n != item.second_use}
    return rest | choice.types(item.name)


def _name(move: Move) -> str:
    return f"{move.name}={move.after}"


def _inputs(study: Study, found: Fit, probe: Corpus, select: Corpus) -> dict[str, Any]:
    return {
        "model": study.identity.model,
        "types": found.plan.types,
        "probe": probe.content_hash(),
        "select": select.content_hash(),
        "build": study.build,
    }


def _value(step: Step) -> dict[str, Any]:
    difference = None if step.difference is None else (step.difference.value, *step.difference.ci95)
    return {
        "n_moves": step.n_moves,
        "changed": step.changed,
        "promised": step.promised,
        "difference": difference,
        "verdict": step.verdict,
        "accepted": step.is_accepted,
    }
