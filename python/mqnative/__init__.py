"""Finds, builds and proves the best mixed-precision GGUF for a size, bits-per-weight or memory budget.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqnative.build.plan import BuildPlan, plan_build
    from mqnative.build.writer import build_gguf
    from mqnative.core.info import build_info
    from mqnative.core.model import Model, Variant
    from mqnative.core.monitor import CancellableMonitor, CancelToken, Monitor
    from mqnative.core.presets import preset_types, presets, upstream_quantize
    from mqnative.core.quantize import dequantize, quantization_error, quantize, row_errors
    from mqnative.errors import MQNativeError
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import Imatrix, read_imatrix, write_imatrix
    from mqnative.formats.qtypes import QType, all_types, qtype
    from mqnative.formats.recipe import Recipe, read_recipe, write_recipe
    from mqnative.measure.corpus import Corpus, read_text
    from mqnative.measure.evaluate import Evaluation, evaluate
    from mqnative.measure.imatrix import collect_imatrix

_HOME = {
    "BuildPlan": "build.plan",
    "plan_build": "build.plan",
    "build_gguf": "build.writer",
    "build_info": "core.info",
    "Model": "core.model",
    "Variant": "core.model",
    "CancelToken": "core.monitor",
    "CancellableMonitor": "core.monitor",
    "Monitor": "core.monitor",
    "preset_types": "core.presets",
    "presets": "core.presets",
    "upstream_quantize": "core.presets",
    "dequantize": "core.quantize",
    "quantization_error": "core.quantize",
    "quantize": "core.quantize",
    "row_errors": "core.quantize",
    "MQNativeError": "errors",
    "GGUFFile": "formats.gguf",
    "Imatrix": "formats.imatrix",
    "read_imatrix": "formats.imatrix",
    "write_imatrix": "formats.imatrix",
    "QType": "formats.qtypes",
    "all_types": "formats.qtypes",
    "qtype": "formats.qtypes",
    "Recipe": "formats.recipe",
    "read_recipe": "formats.recipe",
    "write_recipe": "formats.recipe",
    "Corpus": "measure.corpus",
    "read_text": "measure.corpus",
    "Evaluation": "measure.evaluate",
    "evaluate": "measure.evaluate",
    "collect_imatrix": "measure.imatrix",
}

# A library says nothing unless its user configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
