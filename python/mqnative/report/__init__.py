"""A finished study as JSON, Markdown, a terminal table and one self-contained page; computes nothing new."""

from __future__ import annotations

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
