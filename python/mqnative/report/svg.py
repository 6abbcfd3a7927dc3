"""The few pieces that the plots are drawn from: axes, ticks, texts, a figure with title and description.

Colours come from the page's CSS variables, so that one drawing serves the light and the dark theme. Plots are
inline, hence without a namespace.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from mqnative.report.numbers import TIMES, plain, typeset

FONT_SIZE = 12.0
# Of drawings that stand alone; a name, not an address.
NAMESPACE = "http:" + "//www.w3.org/2000/svg"
# Smaller values, and those larger than its inverse, are drawn at the end of a logarithmic axis.
_SMALLEST = 1e-200
# Values closer than this, as a share of their size, get an axis as wide, so that rounding cannot close it.
_NARROWEST = 1e-9


def escape(text: str) -> str:
    """Text that may stand in an element or a quoted attribute."""
    return html.escape(plain(text), quote=True)


def at(number: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    written = f"{number:.1f}".removesuffix(".0")
    return "0" if written == "-0" else written


def figure(name: str, size: tuple[float, float], title: str, description: str, body: str) -> str:
    """An inline drawing that explains itself to those who cannot see it."""
    width, height = size
    key = name.replace(" ", "-")  # classes are several words, an id is one
    return (
        f'<svg class="{name}" viewBox="0 0 {at(width)} {at(height)}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
        f"{body}</svg>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{at(x1)}" y1="{at(y1)}" x2="{at(x2)}" y2="{at(y2)}"/>'


def path(points: list[tuple[float, float]], kind: str, *, closed: bool = False) -> str:
    """A line through points."""
    steps = "L".join(f"{at(x)} {at(y)}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>' if points else ""


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Text that is already escaped, its baseline at y."""
    classes = f' class="{kind}"' if kind else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text{classes} x="{at(x)}" y="{at(y)}"{where}>{content}</text>'


def text_width(content: str, size: float = FONT_SIZE) -> float:
    """About how wide a text is in a sans-serif face; rather too wide than too narrow."""
    return size * sum(_WIDTHS.get(c, 0.72 if c.isupper() else 0.6) for c in content)


_WIDTHS = (
    dict.fromkeys("iljI.,:;|!' ()[]", 0.32) | dict.fromkeys("ftr-/", 0.42) | dict.fromkeys("mwMW%", 0.92)
)


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels.

    Attributes:
        low, high: the values at the ends; positive if ``log``.
        start, end: their pixels.
        log: whether equal ratios have equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are put at the nearer end."""
        if not value > self.low:
            return self.start
        share = self._place(min(value, self.high)) / self._place(self.high)
        return self.start + share * (self.end - self.start)

    def _place(self, value: float) -> float:
        return math.log10(value) - math.log10(self.low) if self.log else value - self.low

    def ticks(self, wanted: int = 5) -> list[float]:
        """About ``wanted`` round values inside the axis."""
        if self.log:
            decades = math.log10(self.high) - math.log10(self.low)
            for multiples in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 6, 8)):
                every = max(1, math.ceil(decades / (1.5 * wanted)))
                first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
                exact = (
                    float(f"{m}e{e}") for e in range(first, last + 1) if e % every == 0 for m in multiples
                )
                found = [v for v in exact if self.low <= v <= self.high]
                if len(found) >= min(wanted, 3):
                    return found
        return self._linear_ticks(wanted)

    def _linear_ticks(self, wanted: int) -> list[float]:
        rough = (self.high - self.low) / wanted
        power = math.floor(math.log10(rough))
        steps = (0.5, 1, 2, 5, 10)
        at = next(i for i, m in enumerate(steps) if m * 10.0**power >= rough * 0.999)
        found = self._multiples(steps[at], power)
        # A step that just misses may be far too long.
        return found if 2 * len(found) >= wanted or at == 0 else self._multiples(steps[at - 1], power)

    def _multiples(self, step: float, power: int) -> list[float]:
        unit = step * 10.0**power
        first, last = math.ceil(self.low / unit), math.floor(self.high / unit)
        found = [float(f"{i * step}e{power}") for i in range(first, last + 1)]
        return [value for value in found if self.low <= value <= self.high]


def log_axis(
    values: list[float], start: float, end: float, *, pad: float = 0.1, decades: float = math.inf
) -> Axis:
    """A logarithmic axis around the positive ones of some values, cut to so many decades from the top."""
    usable = [min(max(v, _SMALLEST), 1 / _SMALLEST) for v in values if 0 < v < math.inf]
    high, low = max(usable, default=1.0), min(usable, default=1e-3)
    top, bottom = math.log10(high), math.log10(low)
    bottom = max(bottom, top - decades)
    room = max(pad * (top - bottom), 0.12)
    return Axis(10.0 ** (bottom - room), 10.0 ** (top + room), start, end, log=True)


def linear_axis(values: list[float], start: float, end: float, *, pad: float = 0.1) -> Axis:
    """A linear axis around some values."""
    usable = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(usable), max(usable)
    if high == low:
        room = 0.1 * abs(high) or 1.0
    else:
        room = max(pad * (high - low), _NARROWEST * max(abs(low), abs(high)))
    return Axis(low - room, high + room, start, end)


def tick_text(value: float) -> str:
    """How a tick is labelled: ``0.01``, ``10⁻⁷``."""
    written = typeset(f"{value:g}")
    return written.removeprefix(f"1{TIMES}")
