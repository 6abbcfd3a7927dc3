"""A plot as a file of its own: SVG with its colours written out, and PNG where a renderer is installed."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from mqnative.errors import MissingExtraError
from mqnative.report.palette import theme_colours
from mqnative.report.plots import prediction_plot, size_plot
from mqnative.report.summary import Report
from mqnative.report.svg import NAMESPACE

_VARIABLE = re.compile(r"var\(--([a-z0-9]+)\)")
_SIZES = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
_HALO = re.compile(r"\.label,\s*\.gaptext \{[^}]*\}")
_PAD = 12.0


def standalone(plot: str, style: str = "") -> str:
    """An inline plot as SVG that any program shows: light, no variables, no other file.

    Args:
        plot: of `mqnative.report.plots` and its like.
        style: rules that it needs besides the reports' own.
    """
    found = _SIZES.search(plot)
    if found is None:
        raise ValueError("expected a plot with a viewBox")
    width, height = float(found[1]) + 2 * _PAD, float(found[2]) + 2 * _PAD
    colours = theme_colours("light")
    # Programs that do not know paint-order would draw the halo over the letters.
    css = _HALO.sub("", _plot_css()) + style
    style = _VARIABLE.sub(lambda m: colours.get(m[1], "none"), css)
    inner = plot[plot.index(">") + 1 : plot.rindex("</svg>")]
    return (
        f'<svg xmlns="{NAMESPACE}" width="{width:g}" height="{height:g}" viewBox="{-_PAD:g} {-_PAD:g} '
        f'{width:g} {height:g}" font-family="DejaVu Sans, Arial, sans-serif" font-size="12" role="img">'
        f"<style>{style}</style>"
        f'<rect x="{-_PAD:g}" y="{-_PAD:g}" width="{width:g}" height="{height:g}" fill="{colours["page"]}"/>'
        f"{inner}</svg>\n"
    )


def report_plots(report: Report) -> dict[str, str]:
    """The plots of a report by file stem, as inline drawings; without those that have nothing to show."""
    plots = {
        "size-kld": size_plot(report, "size", 760, 400),
        "predicted-measured": prediction_plot(report, "predicted", 420, 380),
    }
    return {name: plot for name, plot in plots.items() if plot}


def to_png(svg: str, scale: float = 2.0) -> bytes:
    """A drawing of `standalone` as PNG.

    Raises:
        MissingExtraError: no renderer is installed.
    """
    try:
        import cairosvg
    except (ImportError, OSError) as error:  # OSError: its library is not on this machine
        raise MissingExtraError(
            "PNG needs CairoSVG and the cairo library; install `pip install 'mqnative[png]'`, or take SVG",
            extra="png",
        ) from error
    found: bytes = cairosvg.svg2png(bytestring=svg.encode(), scale=scale)
    return found


@cache
def _plot_css() -> str:
    css = (files("mqnative.report") / "templates" / "report.css").read_text(encoding="utf-8")
    start = css.index("svg text {")
    return css[start : css.index("/* Tables */")]
