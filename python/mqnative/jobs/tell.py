"""From a choice to the facts that reports show."""

from __future__ import annotations

import math

from mqnative.jobs.choose import Chosen
from mqnative.predict.damage import Damage
from mqnative.report.choices import ChoiceFacts, ConstraintRow, MoveRow, WhyRow
from mqnative.report.numbers import significant
from mqnative.solve.explain import Explanation, Move

Z95 = 1.96


def interval(damage: Damage) -> tuple[float, float]:
    """The 95 % interval of a prediction."""
    half = Z95 * math.sqrt(max(0.0, damage.variance))
    return max(0.0, damage.mean - half), damage.mean + half


def choice_facts(chosen: Chosen, explanation: Explanation, asked: str) -> ChoiceFacts:
    """How a mix was chosen.

    Args:
        chosen: the mix.
        explanation: of it.
        asked: the budget as the user gave it; empty for none.
    """
    more = explanation.more
    return ChoiceFacts(
        method=chosen.fit.solution.method,
        budget=_budget(chosen, asked),
        weighing=_weighing(chosen),
        price=explanation.price,
        left_bytes=explanation.left_bytes,
        more_bytes=None if more is None else more.more_bytes,
        more_saves=None if more is None else more.less_damage,
        more_changes=() if more is None else more.changes,
        constraints=tuple(
            ConstraintRow(b.text, b.binds, b.more_damage, b.tensors) for b in explanation.constraints
        ),
        tensors=tuple(
            WhyRow(
                w.name,
                w.tensors,
                w.qtype,
                w.size_bytes,
                w.damage,
                _move(w.up),
                _move(w.down),
                w.wanted,
                w.limits,
                w.text,
            )
            for w in explanation.tensors
        ),
    )


def knee_text(chosen: Chosen) -> str:
    """Why the budget is the knee's size; empty where a budget was given."""
    knee = chosen.knee
    if knee is None:
        return ""
    spread = ""
    if knee.ci95_bytes is not None:
        low, high = knee.ci95_bytes
        spread = f" Within the uncertainty of the damages the knee lies between {low:,} and {high:,} bytes."
    return (
        f"No budget was given, so the knee of the frontier was taken: {knee.size_bytes:,} bytes. There "
        f"{knee.reason}.{spread}"
    )


def _budget(chosen: Chosen, asked: str) -> str:
    if chosen.knee is not None:
        return knee_text(chosen)
    if chosen.fit.budget_bytes is None:
        return f"No budget was given; the size is that of the method {chosen.fit.solution.method}."
    return f"The budget was {asked or f'{chosen.fit.budget_bytes:,} bytes'}."


def _weighing(chosen: Chosen) -> str:
    klds = chosen.select_klds
    if not klds:
        return "" if chosen.weighing == "imatrix" else "Tensors are encoded without an imatrix, as asked."
    said = " and ".join(
        f"{significant(kld)} {'with' if name == 'imatrix' else 'without'} the imatrix"
        for name, kld in klds.items()
    )
    way = "with" if chosen.weighing == "imatrix" else "without"
    return f"Tensors are encoded {way} the imatrix: on the select text the mixes lost {said}."


def _move(move: Move | None) -> MoveRow | None:
    return None if move is None else MoveRow(move.qtype, move.more_bytes, move.more_damage, move.price)
