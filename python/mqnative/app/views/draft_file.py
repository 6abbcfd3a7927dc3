"""A recipe being edited as JSON, so that it is still there after the server was started again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqnative.app.views.draft import Draft
from mqnative.app.views.model_view import ModelView
from mqnative.errors import MQNativeError
from mqnative.formats.qtypes import qtype

VERSION = "draft/1"


def draft_values(draft: Draft) -> dict[str, Any]:
    """The draft as a JSON object."""
    return {
        "mqnative": VERSION,
        "types": dict(draft.types),
        "pins": sorted(draft.pins),
        "floors": [list(floor) for floor in draft.floors],
        "allowed": list(draft.allowed),
        "edit": draft.edit,
    }


def draft_from(view: ModelView, value: object) -> Draft | None:
    """What `draft_values` made; None if it is damaged, or of other tensors than the model has."""
    if not isinstance(value, Mapping) or value.get("mqnative") != VERSION:
        return None
    try:
        types = {str(name): qtype(str(t)).name for name, t in value["types"].items()}
        floors = tuple((str(pattern), qtype(str(t)).name) for pattern, t in value["floors"])
        pins = frozenset(map(str, value["pins"]))
        allowed = tuple(qtype(str(t)).name for t in value["allowed"])
        edit = str(value["edit"])
    except (KeyError, TypeError, ValueError, AttributeError, MQNativeError):
        return None
    if set(types) != set(view.by_name):
        return None
    own = {t.name: (t.source_type, t.qtype) for t in view.tensors}
    changed = {name for name, t in types.items() if t not in own[name]}
    if not changed | pins <= view.quantizable:
        return None
    return Draft(types, pins, floors, allowed, edit)
