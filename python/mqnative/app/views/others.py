"""Other mixes of the same model: llama.cpp's presets, one type for all, what a run chose, hybrids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mqnative.app.views.mix import legal_types
from mqnative.app.views.model_view import ModelView
from mqnative.core.presets import preset_types, presets
from mqnative.errors import MQNativeError, QuantizeError
from mqnative.formats.qtypes import qtype

RESULT = "the run's result"
# What people know; all others are offered too.
_FIRST = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


def others_of(
    view: ModelView, related: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Mapping[str, str]]:
    """Mixes by name: types of every tensor.

    Args:
        view: the model. Presets need its file.
        related: mixes that runs and releases made of it.
    """
    found: dict[str, Mapping[str, str]] = {"the original": {t.name: t.source_type for t in view.tensors}}
    if view.report is not None:
        found[RESULT] = view.types
    known = {**(related or {}), **view.mixes}
    found |= {name: dict(view.types) | dict(types) for name, types in known.items()}
    if view.source is not None:
        found |= _presets(view, view.source)
    for name in sorted({p.qtype for t in view.tensors for p in t.curve}, key=lambda t: qtype(t).bpw):
        mix = {
            t.name: name if name in legal_types(t) and t.name in view.quantizable else t.source_type
            for t in view.tensors
        }
        if all(mix[n] == name for n in view.quantizable):
            found[f"all {name}"] = mix
    return found


def _presets(view: ModelView, source: Path) -> dict[str, Mapping[str, str]]:
    names = [p.name for p in presets().values() if qtype(p.default_type).is_quantized]
    ordered = [*(n for n in _FIRST if n in names), *(n for n in names if n not in _FIRST)]
    found: dict[str, Mapping[str, str]] = {}
    for name in ordered:
        try:
            found[name] = {t.name: t.source_type for t in view.tensors} | dict(
                preset_types(source, name, with_imatrix=True)
            )
        except QuantizeError:
            continue
        except MQNativeError:  # an architecture that llama.cpp cannot quantize
            return {}
    return found
