"""The map of layers and roles: chosen type, damage, importance or size in every cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from mqnative.app.views.draft import Draft
from mqnative.app.views.histogram import small_histograms
from mqnative.app.views.mix import damage_at, type_bytes
from mqnative.app.views.model_view import ModelView
from mqnative.report.heatmap import heat_map
from mqnative.report.numbers import significant, size_text, typeset
from mqnative.report.palette import RAMP_LIGHT
from mqnative.report.roles import by_role
from mqnative.report.summary import TensorRow
from mqnative.report.svg import escape

Measure = Literal["type", "damage", "importance", "errors", "size"]
# Tensor -> (from, to, count) of the errors of its weights.
Histograms = Mapping[str, Sequence[tuple[float, float, int]]]
MEASURES: dict[Measure, str] = {
    "type": "chosen type",
    "damage": "damage at the chosen type, millionths of a nat per token",
    "importance": "importance percentile",
    "errors": "errors of single weights at the chosen type",
    "size": "size at the chosen type",
}
_KEYS = {"errors": ": how many weights have which error, small to large; all cells have the same axis"}
_MICRO = 1e-6
# Values below this share of the largest have the lowest colour.
_DECADES = 4.0
_N = len(RAMP_LIGHT)


def rows_at(view: ModelView, draft: Draft) -> list[TensorRow]:
    """The tensors as they are in a draft."""
    found = []
    for tensor in view.tensors:
        name = draft.types[tensor.name]
        damage = damage_at(tensor, name)
        size = type_bytes(tensor, name)
        found.append(
            replace(tensor, qtype=name, size_bytes=size, damage=0.0 if damage is None else damage.mean)
        )
    return found


def layer_map(view: ModelView, draft: Draft, measure: Measure, errors: Histograms | None = None) -> str:
    """The map as HTML; of types the same as in reports.

    Args:
        view: the model.
        draft: the types.
        measure: what the cells show.
        errors: for the measure of that name; without any the map is empty.
    """
    roles = by_role(rows_at(view, draft))
    if not roles:
        return ""
    if measure == "type":
        return heat_map(roles)
    if measure != "errors":
        return _table(roles, measure)
    return _table(roles, measure, small_histograms(errors)) if errors else ""


def _table(
    roles: Mapping[str, Sequence[TensorRow]], measure: Measure, drawings: Mapping[str, str] | None = None
) -> str:
    cells: dict[tuple[int | None, str], list[TensorRow]] = {}
    for role, tensors in roles.items():
        for tensor in tensors:
            cells.setdefault((tensor.layer, role), []).append(tensor)
    layers = sorted({layer for layer, _ in cells if layer is not None})
    places: list[int | None] = [None] if any(layer is None for layer, _ in cells) else []
    places += layers
    values = {key: value(members, measure) for key, members in cells.items()}
    top = max((v for v in values.values() if v is not None), default=0.0)
    head = "".join(f'<th scope="col">{escape(role).replace("_", "_<wbr>")}</th>' for role in roles)
    body = "".join(
        f'<tr><th scope="row">{"outside" if layer is None else layer}</th>'
        + "".join(
            _cell(cells.get((layer, role)), values.get((layer, role)), top, measure)
            if drawings is None
            else _drawing(cells.get((layer, role)), drawings)
            for role in roles
        )
        + "</tr>"
        for layer in places
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(MEASURES[measure])}" tabindex="0">'
        f'<table class="heat"><caption>{escape(MEASURES[measure])}{_KEYS.get(measure, "; darker is more")}'
        "</caption>"
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def value(members: Sequence[TensorRow], measure: Measure) -> float | None:
    """What a cell shows: the sum over its tensors, of importance the largest; None where it is unknown."""
    if measure == "damage":
        known = [t.damage for t in members if t.curve]
        return math.fsum(known) if known else None
    if measure == "size":
        return float(sum(t.size_bytes for t in members))
    percentiles = [t.importance_percentile for t in members if t.importance_percentile is not None]
    return max(percentiles, default=None)


def colour_step(amount: float, top: float, measure: Measure) -> int:
    """The ramp's step of a value: of damage and size by ratio, of importance linear."""
    if top <= 0 or amount <= 0:
        return 0
    if measure == "importance":
        share = amount / 100.0
    else:
        share = 1.0 + math.log10(amount / top) / (_DECADES if measure == "damage" else 2.0)
    return min(_N - 1, max(0, int(share * _N)))


def _drawing(members: Sequence[TensorRow] | None, drawings: Mapping[str, str]) -> str:
    """A cell with the histogram of its first tensor that has one."""
    known = [t for t in members or () if t.name in drawings]
    if not known:
        return '<td class="none"></td>'
    said = escape(f"{known[0].name}: {known[0].qtype}")
    return f'<td class="errors" title="{said}">{drawings[known[0].name]}</td>'


def _cell(members: Sequence[TensorRow] | None, amount: float | None, top: float, measure: Measure) -> str:
    if not members or amount is None:
        return '<td class="none"></td>'
    said = "; ".join(f"{t.name}: {t.qtype}, damage {significant(t.damage, 2)}" for t in members)
    return (
        f'<td class="q{colour_step(amount, top, measure)} n" title="{escape(typeset(said))}">'
        f"{escape(typeset(_written(amount, measure)))}</td>"
    )


def _written(amount: float, measure: Measure) -> str:
    if measure == "damage":
        return significant(amount / _MICRO, 2)
    return size_text(amount) if measure == "size" else f"{amount:.0f}"
