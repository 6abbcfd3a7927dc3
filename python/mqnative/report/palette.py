"""Colours: one ordered ramp for bits per weight, one accent for the result, light and dark.

The ramps were drawn in OKLCH with even steps of lightness, yellow over green to navy, so that they keep their
order in greyscale and for every kind of colour vision. In the dark theme more bits are brighter.
"""

from __future__ import annotations

import math
from typing import Literal

RAMP_LIGHT = (
    "#f8f6d0", "#e2ecb5", "#c6e39f", "#a4db92", "#7cd38d", "#49c98f", "#15bb95", "#0baa99",
    "#0c9a98", "#018a94", "#007b8f", "#006b8a", "#185b7f", "#2b4c6b", "#2e3e58", "#29314d",
)  # fmt: skip
RAMP_DARK = (
    "#242a50", "#203664", "#0f4376", "#00537d", "#00617f", "#046f84", "#007e88", "#008d8b",
    "#099b8b", "#0bab86", "#43b77e", "#72c07b", "#98c87d", "#b7cf86", "#d2d795", "#e8e0aa",
)  # fmt: skip
INK, PAPER = "#000000", "#ffffff"
# The ramp's ends: below the smallest type in use, and Q8_0; more bits look the same.
BPW_LOW, BPW_HIGH = 1.5, 9.0

_LIGHT = {
    "page": "#fcfcfa", "panel": "#f3f4f1", "ink": "#16191d", "soft": "#565d66", "line": "#d9dcd8",
    "grid": "#e6e8e4", "accent": "#c2410c", "halo": "#fcfcfa", "rival": "#3f4a57",
    "good": "#0b6b57", "bad": "#a3195b", "band": "#0c9a98", "time": "#7fa6ad",
}  # fmt: skip
_DARK = {
    "page": "#14171b", "panel": "#1d2126", "ink": "#e9ebe8", "soft": "#a3abb3", "line": "#3a4047",
    "grid": "#2a2f35", "accent": "#ff9a56", "halo": "#14171b", "rival": "#c3ccd6",
    "good": "#5fd0a8", "bad": "#ff8fb8", "band": "#2bb5a8", "time": "#4d7178",
}  # fmt: skip


def step(bpw: float) -> int:
    """The ramp's step for a number of bits per weight."""
    if not bpw > BPW_LOW:
        return 0
    position = math.log2(min(bpw, BPW_HIGH) / BPW_LOW) / math.log2(BPW_HIGH / BPW_LOW)
    return min(int(position * len(RAMP_LIGHT)), len(RAMP_LIGHT) - 1)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio as WCAG 2 defines it, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def text_on(colour: str) -> str:
    """Black or white, whichever is easier to read on ``colour``."""
    return max((INK, PAPER), key=lambda text: contrast(text, colour))


def stylesheet() -> str:
    """The colours as CSS variables; paper is always light."""
    light = _variables(_LIGHT, RAMP_LIGHT)
    dark = _variables(_DARK, RAMP_DARK)
    cells = "".join(f".q{i}{{background:var(--q{i});color:var(--t{i})}}" for i in range(len(RAMP_LIGHT)))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{cells}\n"


def theme_variables(theme: Literal["light", "dark"]) -> str:
    """One theme's colours as CSS declarations, for pages that switch by themselves."""
    return _variables(_LIGHT, RAMP_LIGHT) if theme == "light" else _variables(_DARK, RAMP_DARK)


def theme_colours(theme: Literal["light", "dark"]) -> dict[str, str]:
    """One theme's colours by the names of their variables."""
    return _values(_LIGHT, RAMP_LIGHT) if theme == "light" else _values(_DARK, RAMP_DARK)


def _variables(named: dict[str, str], ramp: tuple[str, ...]) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in _values(named, ramp).items())


def _values(named: dict[str, str], ramp: tuple[str, ...]) -> dict[str, str]:
    values = dict(named)
    for i, colour in enumerate(ramp):
        values[f"q{i}"] = colour
        values[f"t{i}"] = text_on(colour)
    return values
