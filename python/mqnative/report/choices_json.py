"""`mqnative.report.choices` as JSON values with keys that carry units, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mqnative.report.choices import (
    MIB,
    ChoiceFacts,
    ConstraintRow,
    FrontierFacts,
    FrontierPoint,
    KneeRow,
    MoveRow,
    PlacedRow,
    WhyRow,
)
from mqnative.report.jsonobject import JSONObject


def choice_values(facts: ChoiceFacts) -> dict[str, Any]:
    """How a mix was chosen, as a JSON object."""
    more = None
    if facts.more_bytes is not None:
        more = {
            "more_bytes": facts.more_bytes,
            "kld_saved": _number(facts.more_saves),
            "changes": [{"name": n, "type": a, "new_type": b} for n, a, b in facts.more_changes],
        }
    return {
        "method": facts.method,
        "budget": facts.budget,
        "weighing": facts.weighing,
        "price_kld_per_mib": _number(facts.price * MIB),
        "budget_binds": facts.price > 0,
        "left_bytes": facts.left_bytes,
        "more": more,
        "constraints": [
            {"constraint": c.text, "binds": c.binds, "kld_cost": _number(c.cost), "tensors": list(c.tensors)}
            for c in facts.constraints
        ],
        "tensors": [
            {
                "name": w.name,
                "tensors": list(w.tensors),
                "type": w.qtype,
                "size_bytes": w.size_bytes,
                "damage": _number(w.damage),
                "up": _move_values(w.up),
                "down": _move_values(w.down),
                "wanted": w.wanted,
                "limits": list(w.limits),
                "why": w.text,
            }
            for w in facts.tensors
        ],
    }


def read_choice(source: JSONObject) -> ChoiceFacts:
    """What `choice_values` wrote.

    Raises:
        FormatError: a key is missing or holds something else.
    """
    more = source.part("more")
    return ChoiceFacts(
        method=source.text("method"),
        budget=source.text("budget"),
        weighing=source.text("weighing"),
        price=source.number("price_kld_per_mib") / MIB,
        left_bytes=source.integer("left_bytes"),
        more_bytes=None if more is None else more.integer("more_bytes"),
        more_saves=None if more is None else more.number("kld_saved"),
        more_changes=()
        if more is None
        else tuple((c.text("name"), c.text("type"), c.text("new_type")) for c in more.objects("changes")),
        constraints=tuple(
            ConstraintRow(c.text("constraint"), c.flag("binds"), c.optional("kld_cost"), c.strings("tensors"))
            for c in source.objects("constraints")
        ),
        tensors=tuple(
            WhyRow(
                name=w.text("name"),
                tensors=w.strings("tensors"),
                qtype=w.text("type"),
                size_bytes=w.integer("size_bytes"),
                damage=w.number("damage"),
                up=_read_move(w.part("up")),
                down=_read_move(w.part("down")),
                wanted=None if w.get("wanted") is None else w.text("wanted"),
                limits=w.strings("limits"),
                text=w.text("why"),
            )
            for w in source.objects("tensors")
        ),
    )


def frontier_values(facts: FrontierFacts) -> dict[str, Any]:
    """A frontier, as a JSON object."""
    return {
        "points": [
            {
                "size_bytes": p.size_bytes,
                "bpw": _number(p.bpw),
                "predicted_kld": _number(p.kld),
                "predicted_kld_ci95": [_number(v) for v in p.ci95],
            }
            for p in facts.points
        ],
        "knees": [
            {
                "rule": k.rule,
                "size_bytes": k.size_bytes,
                "size_bytes_ci95": None if k.ci95_bytes is None else list(k.ci95_bytes),
                "bpw": _number(k.bpw),
                "predicted_kld": _number(k.kld),
                "reason": k.reason,
            }
            for k in facts.knees
        ],
        "placed": [
            {
                "name": p.name,
                "kind": p.kind,
                "size_bytes": p.size_bytes,
                "bpw": _number(p.bpw),
                "predicted_kld": _number(p.kld),
                "predicted_kld_ci95": None if p.ci95 is None else [_number(v) for v in p.ci95],
                "best_predicted_kld": _number(p.best),
            }
            for p in facts.placed
        ],
    }


def read_frontier(source: JSONObject) -> FrontierFacts:
    """What `frontier_values` wrote.

    Raises:
        FormatError: a key is missing or holds something else.
    """
    unknown = (math.nan, math.nan)
    return FrontierFacts(
        points=tuple(
            FrontierPoint(
                p.integer("size_bytes"),
                p.number("bpw"),
                p.number("predicted_kld"),
                p.interval("predicted_kld_ci95") or unknown,
            )
            for p in source.objects("points")
        ),
        knees=tuple(
            KneeRow(
                k.text("rule"),
                k.integer("size_bytes"),
                k.number("bpw"),
                k.number("predicted_kld"),
                k.text("reason"),
                _whole(k.interval("size_bytes_ci95")),
            )
            for k in source.objects("knees")
        ),
        placed=tuple(
            PlacedRow(
                p.text("name"),
                p.text("kind"),
                p.integer("size_bytes"),
                p.number("bpw"),
                p.optional("predicted_kld"),
                p.interval("predicted_kld_ci95"),
                p.optional("best_predicted_kld"),
            )
            for p in source.objects("placed")
        ),
    )


def _move_values(move: MoveRow | None) -> Mapping[str, Any] | None:
    if move is None:
        return None
    return {
        "type": move.qtype,
        "more_bytes": move.more_bytes,
        "more_kld": _number(move.more_damage),
        "kld_per_mib": _number(move.price * MIB),
    }


def _read_move(source: JSONObject | None) -> MoveRow | None:
    if source is None:
        return None
    return MoveRow(
        source.text("type"),
        source.integer("more_bytes"),
        source.number("more_kld"),
        source.number("kld_per_mib") / MIB,
    )


def _whole(interval: tuple[float, float] | None) -> tuple[int, int] | None:
    if interval is None or not all(map(math.isfinite, interval)):
        return None
    return int(interval[0]), int(interval[1])


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
