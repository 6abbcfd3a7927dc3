"""A candidate improved by what moves near its price really do, at the size that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mqnative.hybrids.verdicts import difference_text
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.solved import Solved, solve_for
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.uncertainty import Resamples, Verdict, mean_estimate, verdict
from mqnative.refine.moves import Move, boundary, change, near_problem, posterior

MOST_MOVES = 16
MOVE_CHUNKS = 4
# Changes that promise less than this share of the mix' damage are not worth measuring.
_LEAST_GAIN = 0.002


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        n_moves: moves measured.
        changed: tensor -> new type.
        verdict: of the new mix against the one before, on the select text; None where nothing was worth it.
        said: the same as a sentence.
    """

    n_moves: int
    changed: Mapping[str, str]
    verdict: Verdict | None
    said: str


def refined(ground: Ground, found: Solved, rounds: int) -> tuple[Solved, tuple[Round, ...]]:
    """The mix after as many rounds as were better beyond doubt.

    Args:
        ground: model, texts, damages.
        found: a solution of the problem over tensors.
        rounds: at most so many.
    """
    done: list[Round] = []
    while len(done) < rounds:
        step, better = _round(ground, found)
        done.append(step)
        if better is None:
            break
        found = better
    return found, tuple(done)


def _round(ground: Ground, found: Solved) -> tuple[Round, Solved | None]:
    chosen = {name: found.types[name] for name in (i.name for i in found.problem.items)}
    moves = boundary(found.problem, chosen, most=MOST_MOVES)
    if not moves:
        return Round(0, {}, None, "no move lies near the price"), None
    importances, options = ground.measured.importances, ground.options
    probe = ground.parts.probe.head(min(MOVE_CHUNKS, options.probe_chunks))
    mixes: dict[str, Mapping[str, str]] = {"": found.types}
    mixes |= {_name(m): dict(found.types) | {m.name: m.after} for m in moves}
    means = mix_means(ground.study, "refine", probe, mixes, importances)
    believed = posterior(moves, [change(means[_name(m)].kld, means[""].kld) for m in moves])
    near = near_problem(found.problem, chosen, moves, believed)
    after = solve_for(ground, near, found.target)
    changed = {n: t for n, t in after.types.items() if t != found.types[n]}
    own = sum(c.damage for i in near.items for c in i.choices if c.qtype == chosen[i.name])
    promised = after.damage - own
    if not changed or -promised < _LEAST_GAIN * abs(own):
        return Round(len(moves), changed, None, f"{len(moves)} moves measured, none worth a change"), None
    select = ground.parts.select.head(options.select_chunks)
    both = mix_means(
        ground.study, "refine", select, {"before": found.types, "after": after.types}, importances
    )
    differences = (both["after"].kld - both["before"].kld)[:, None]
    difference = mean_estimate(differences, Resamples.of(len(differences)))
    judged = verdict(difference)
    kept = "accepted" if judged == "better" else "rejected"
    said = (
        f"{len(moves)} moves measured, {len(changed)} tensors changed: KLD on the select text "
        f"{difference_text(difference)} more, {kept}"
    )
    step = Round(len(moves), changed, judged, said)
    if judged != "better":
        return step, None
    # In the terms of the whole problem again, so that the next round sees every type.
    damages = {i.name: {c.qtype: c.damage for c in i.choices} for i in found.problem.items}
    total = sum(by_type[after.types[name]] for name, by_type in damages.items())
    return step, Solved(after.target, "tensor", found.problem, after.types, after.size_bytes, total)


def _name(move: Move) -> str:
    return f"{move.name}={move.after}"
