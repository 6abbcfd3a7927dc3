"""A finished study as JSON, Markdown, a terminal table and one self-contained page; computes nothing new.

Names are loaded on first use: who only wants a duration in words need not wait for the pages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqnative.report.html import to_html
    from mqnative.report.jsonform import from_json, to_json
    from mqnative.report.markdown import to_markdown
    from mqnative.report.summary import CurvePoint, Figures, LinkRow, MixRow, Report, StepTime, TensorRow
    from mqnative.report.text import print_text

__all__ = [
    "CurvePoint",
    "Figures",
    "LinkRow",
    "MixRow",
    "Report",
    "StepTime",
    "TensorRow",
    "from_json",
    "print_text",
    "to_html",
    "to_json",
    "to_markdown",
]

_HOME = {
    "to_html": "html",
    "from_json": "jsonform",
    "to_json": "jsonform",
    "to_markdown": "markdown",
    "print_text": "text",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'summary')}"), name)
    globals()[name] = value
    return value
