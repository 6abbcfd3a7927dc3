"""The structure of a model as rows of a grid and as a tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqnative.app.views.draft import Draft
from mqnative.app.views.mix import damage_at, type_bytes
from mqnative.app.views.model_view import ModelView
from mqnative.formats.qtypes import qtype
from mqnative.report.numbers import TIMES, size_text
from mqnative.report.palette import step
from mqnative.report.roles import by_role
from mqnative.report.summary import TensorRow

Row = dict[str, Any]


def grid_rows(view: ModelView, draft: Draft, other: Mapping[str, str] | None = None) -> list[Row]:
    """One row for each tensor, in file order.

    Args:
        view: the model.
        draft: the types they have.
        other: another mix to compare with.
    """
    return [grid_row(view, t, draft, other) for t in view.tensors]


def grid_row(view: ModelView, tensor: TensorRow, draft: Draft, other: Mapping[str, str] | None = None) -> Row:
    """A tensor as a row: numbers stay numbers, so that they sort and filter as such."""
    name = draft.types[tensor.name]
    size = type_bytes(tensor, name)
    damage = damage_at(tensor, name)
    bpw = 8.0 * size / max(tensor.n_weights, 1)
    row: Row = {
        "name": tensor.name,
        "role": tensor.role,
        "group": view.groups[tensor.name],
        "layer": tensor.layer,
        "shape": f" {TIMES} ".join(map(str, tensor.shape)),
        "weights": tensor.n_weights,
        "source": tensor.source_type,
        "type": name,
        "size": size,
        "bpw": round(bpw, 3),
        "step": step(bpw),
        "damage": None if damage is None or not tensor.curve else damage.mean,
        "importance": None
        if tensor.importance_percentile is None
        else round(tensor.importance_percentile, 1),
        "pin": tensor.name in draft.pins,
        "can": tensor.name in view.quantizable,
    }
    if other is not None:
        row["other"] = other.get(tensor.name, tensor.source_type)
        row["differs"] = row["other"] != name
    return row


def tree(view: ModelView) -> list[dict[str, Any]]:
    """Layers and what lies outside of them, as nodes ``{id, label, children}``."""
    outside = [t for t in view.tensors if t.layer is None]
    layers: dict[int, list[TensorRow]] = {}
    for tensor in view.tensors:
        if tensor.layer is not None:
            layers.setdefault(tensor.layer, []).append(tensor)
    nodes = [_leaf(t) for t in outside]
    for number in sorted(layers):
        members = layers[number]
        size = size_text(sum(t.size_bytes for t in members))
        label = f"layer {number} · {len(members)} tensors · {size}"
        nodes.append({"id": f"layer {number}", "label": label, "children": [_leaf(t) for t in members]})
    return nodes


def _leaf(tensor: TensorRow) -> dict[str, Any]:
    shape = f" {TIMES} ".join(map(str, tensor.shape))
    short = tensor.name.split(".", 2)[-1] if tensor.layer is not None else tensor.name
    label = f"{short} · {shape} · {tensor.qtype} · {size_text(tensor.size_bytes)}"
    return {"id": tensor.name, "label": label}


def group_names(view: ModelView) -> dict[str, str]:
    """Group -> how it is offered: its name, its roles and how many of its tensors may change."""
    found: dict[str, list[TensorRow]] = {}
    for tensor in view.tensors:
        if tensor.name in view.quantizable:
            found.setdefault(view.groups[tensor.name], []).append(tensor)
    return {
        group: f"{group} · {', '.join(by_role(members))} · {len(members)}" for group, members in found.items()
    }


def all_types(view: ModelView) -> list[str]:
    """Every type that some tensor may have, by bits per weight."""
    found = {p.qtype for t in view.tensors for p in t.curve}
    return sorted(found, key=lambda t: (qtype(t).bpw, t))
