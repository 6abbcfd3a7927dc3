"""Other mixes of the same model: llama.cpp's presets, one type for all, what a run chose."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.app.views.mix import legal_types
from mqnative.app.views.model_view import ModelView
from mqnative.core.presets import preset_types, presets
from mqnative.errors import MQNativeError, QuantizeError
from mqnative.formats.qtypes import qtype

RESULT = "the run's result"
# What people know; all others are offered too.
_FIRST = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


def others_of(view: ModelView) -> dict[str, Mapping[str, str]]:
    """Mixes by name: types of every tensor. Presets need the model's file."""
    found: dict[str, Mapping[str, str]] = {"the original": {t.name: t.source_type for t in view.tensors}}
    if view.report is not None:
        found[RESULT] = view.types
    if view.path.is_file():
        found |= _presets(view)
    for name in sorted({p.qtype for t in view.tensors for p in t.curve}, key=lambda t: qtype(t).bpw):
        mix = {
            t.name: name if name in legal_types(t) and t.name in view.quantizable else t.source_type
            for t in view.tensors
        }
        if all(mix[n] == name for n in view.quantizable):
            found[f"all {name}"] = mix
    return found


def _presets(view: ModelView) -> dict[str, Mapping[str, str]]:
    names = [p.name for p in presets().values() if qtype(p.default_type).is_quantized]
    ordered = [*(n for n in _FIRST if n in names), *(n for n in names if n not in _FIRST)]
    found: dict[str, Mapping[str, str]] = {}
    for name in ordered:
        try:
            found[name] = preset_types(view.path, name, with_imatrix=True)
        except QuantizeError:
            continue
        except MQNativeError:  # an architecture that llama.cpp cannot quantize
            return {}
    return found
