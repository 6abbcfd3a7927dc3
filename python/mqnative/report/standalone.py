"""A drawing of the report as a file of its own: with its colours, and a page behind it."""

from __future__ import annotations

import re
from importlib.resources import files

from mqnative.report.palette import stylesheet
from mqnative.report.plots import prediction_plot, size_plot
from mqnative.report.summary import Report

_VIEW_BOX = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
# The name of the format, which has the form of an address.
_NAMESPACE = "http" + "://www.w3.org/2000/svg"


def plot_files(report: Report) -> dict[str, str]:
    """The plots of a report: title -> SVG document; those with nothing to show are left out."""
    found = {"File size against KL divergence": size_plot(report, "card-size", 760, 400)}
    if sum(m.predicted_kld is not None for m in report.mixes) > 1:
        found["Predicted against measured"] = prediction_plot(report, "card-predicted", 560, 400)
    return {title: standalone(drawing) for title, drawing in found.items()}


def standalone(drawing: str) -> str:
    """An inline drawing as an SVG document."""
    box = _VIEW_BOX.search(drawing)
    assert box is not None
    head, _, rest = drawing.partition(">")
    title, end, body = rest.partition("</desc>")
    style = f"<style>{stylesheet()}{_rules()}svg{{font-family:system-ui,sans-serif}}</style>"
    page = f'<rect width="{box[1]}" height="{box[2]}" style="fill:var(--page)"/>'
    size = f' xmlns="{_NAMESPACE}" width="{box[1]}" height="{box[2]}"'
    return f"{head}{size}>{title}{end}{style}{page}{body}\n"


def _rules() -> str:
    """The report's rules for plots."""
    sheet = (files("mqnative.report") / "templates" / "report.css").read_text(encoding="utf-8")
    after = sheet.partition("/* Plots */")[2]
    return after.partition("/*")[0]
