"""One tensor in words and numbers: what it is, and what every type would cost it."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.app.views.draft import Draft
from mqnative.app.views.mix import damage_at, type_bytes
from mqnative.app.views.model_view import ModelView
from mqnative.report.numbers import TIMES, measured, significant, size_text, typeset
from mqnative.report.palette import step
from mqnative.report.summary import TensorRow
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table


def type_table(tensor: TensorRow, chosen: str, knees: Mapping[str, tuple[str, ...]]) -> str:
    """Every type with bytes, damage, weight error and the rules that stop there; a button chooses it."""
    rows = []
    for p in sorted(tensor.curve, key=lambda p: (p.bpw, p.damage)):
        said = measured(p.damage, p.low, p.high)
        error = "" if p.error is None else f"{significant(100 * p.error, 3)} %"
        rmse = "" if p.rmse is None else significant(p.rmse, 3)
        pressed = "true" if p.qtype == chosen else "false"
        button = (
            f'<button type="button" class="pick type-button" data-type="{escape(p.qtype)}" '
            f'aria-pressed="{pressed}">{escape(p.qtype)}</button>'
        )
        rows.append(
            [
                Cell(button if p.legal else escape(p.qtype), p.bpw, f"q{step(p.bpw)}"),
                Cell(f"{p.bpw:g}", p.bpw),
                Cell(escape(size_text(size := type_bytes(tensor, p.qtype))), size),
                Cell(_two(said.value, said.interval), p.damage, "picked" if p.qtype == chosen else ""),
                Cell("probe" if p.measured else "scaled", "probe" if p.measured else "scaled"),
                Cell(_number(error), p.error),
                Cell(_number(rmse), p.rmse),
                Cell(escape(", ".join(knees.get(p.qtype, ())))),
            ]
        )
    head = ("type", "bpw:", "size:", "damage, nats/token:", "from", "weight error:", "RMSE:", "knee of")
    return table("Every type", head, rows, "dense sortable")


def tensor_facts(view: ModelView, tensor: TensorRow, draft: Draft) -> str:
    """What the tensor is and has, as a list."""
    name = draft.types[tensor.name]
    damage = damage_at(tensor, name)
    stored = type_bytes(tensor, tensor.source_type)
    facts = {
        "shape": f" {TIMES} ".join(map(str, tensor.shape)),
        "weights": f"{tensor.n_weights:,}",
        "group": view.groups[tensor.name],
        "stored as": tensor.source_type,
        "type": f"{name}{', pinned' if tensor.name in draft.pins else ''}",
        "size": f"{size_text(type_bytes(tensor, name))} of {size_text(stored)}",
        "damage": "unknown" if damage is None else f"{significant(damage.mean)} nats per token",
        "importance": "unknown"
        if tensor.importance_percentile is None
        else f"percentile {tensor.importance_percentile:.0f} in the model",
    }
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(typeset(v))}</dd>" for k, v in facts.items())
    return f'<dl class="facts-list">{body}</dl>'


def _two(first: str, second: str) -> str:
    return f"{_number(first)}<small>{_number(second)}</small>"


def _number(text: str) -> str:
    return escape(typeset(text))
