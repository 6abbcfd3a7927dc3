"""Finds, builds and proves the best mixed-precision GGUF for a size, bits-per-weight or memory budget.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqnative.build.plan import BuildPlan as BuildPlan
    from mqnative.build.plan import plan_build as plan_build
    from mqnative.build.writer import build_gguf as build_gguf
    from mqnative.core.info import build_info as build_info
    from mqnative.core.model import Model as Model
    from mqnative.core.model import Variant as Variant
    from mqnative.core.monitor import (
        CancellableMonitor as CancellableMonitor,
    )
    from mqnative.core.monitor import (
        CancelToken as CancelToken,
    )
    from mqnative.core.monitor import (
        Monitor as Monitor,
    )
    from mqnative.core.presets import (
        preset_types as preset_types,
    )
    from mqnative.core.presets import (
        presets as presets,
    )
    from mqnative.core.presets import (
        upstream_quantize as upstream_quantize,
    )
    from mqnative.core.quantize import (
        dequantize as dequantize,
    )
    from mqnative.core.quantize import (
        quantization_error as quantization_error,
    )
    from mqnative.core.quantize import (
        quantize as quantize,
    )
    from mqnative.core.quantize import (
        row_errors as row_errors,
    )
    from mqnative.errors import MQNativeError as MQNativeError
    from mqnative.formats.gguf import GGUFFile as GGUFFile
    from mqnative.formats.imatrix import (
        Imatrix as Imatrix,
    )
    from mqnative.formats.imatrix import (
        read_imatrix as read_imatrix,
    )
    from mqnative.formats.imatrix import (
        write_imatrix as write_imatrix,
    )
    from mqnative.formats.qtypes import QType as QType
    from mqnative.formats.qtypes import all_types as all_types
    from mqnative.formats.qtypes import qtype as qtype
    from mqnative.formats.recipe import (
        Recipe as Recipe,
    )
    from mqnative.formats.recipe import (
        read_recipe as read_recipe,
    )
    from mqnative.formats.recipe import (
        write_recipe as write_recipe,
    )
    from mqnative.measure.corpus import Corpus as Corpus
    from mqnative.measure.corpus import read_text as read_text
    from mqnative.measure.evaluate import Evaluation as Evaluation
    from mqnative.measure.evaluate import evaluate as evaluate
    from mqnative.measure.imatrix import collect_imatrix as collect_imatrix

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
