"""How the errors of a tensor's weights are spread: a histogram over their size, in octaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mqnative.report.numbers import significant, typeset
from mqnative.report.svg import escape, figure, line, text

_WIDTH, _HEIGHT = 370.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 8.0, 362.0, 22.0, 156.0
# Of one in a table.
_SMALL_WIDTH, _SMALL_HEIGHT = 56, 20
# Bars narrower than this many to the octave tell no more.
_PER_OCTAVE = 4
_MOST_OCTAVES = 12


def bars_of(bins: Sequence[tuple[float, float, int]]) -> dict[int, int]:
    """Counts by quarter octaves: bar i holds errors from 2^(i/4) to 2^((i+1)/4); zero errors are left out."""
    found: dict[int, int] = {}
    for low, high, count in bins:
        middle = math.sqrt(low * high)
        if middle > 0:
            bar = math.floor(math.log2(middle) * _PER_OCTAVE)
            found[bar] = found.get(bar, 0) + count
    return found


def small_histograms(errors: Mapping[str, Sequence[tuple[float, float, int]]]) -> dict[str, str]:
    """Name -> a drawing without words, all with the same axis; by half octaves.

    Args:
        errors: name -> (from, to, count) of |error|.
    """
    bars = {name: _halves(bars_of(bins)) for name, bins in errors.items()}
    bars = {name: found for name, found in bars.items() if found}
    last = max((max(found) for found in bars.values()), default=0)
    first = max(min((min(found) for found in bars.values()), default=0), last - 2 * _MOST_OCTAVES)
    return {name: _small(found, first, last) for name, found in bars.items()}


def _halves(bars: Mapping[int, int]) -> dict[int, int]:
    """Counts by half octaves."""
    found: dict[int, int] = {}
    for bar, count in bars.items():
        found[bar // (_PER_OCTAVE // 2)] = found.get(bar // (_PER_OCTAVE // 2), 0) + count
    return found


def _small(bars: Mapping[int, int], first: int, last: int) -> str:
    most = max(bars.values())
    step = _SMALL_WIDTH / (last - first + 1)
    corners = [f"M0 {_SMALL_HEIGHT}"]
    for bar in range(first, last + 1):
        top = _SMALL_HEIGHT * (1 - bars.get(bar, 0) / most)
        corners.append(f"V{top:.1f}H{step * (bar - first + 1):.1f}")
    return (
        f'<svg class="small-bars" viewBox="0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}" aria-hidden="true">'
        f'<path d="{"".join(corners)}V{_SMALL_HEIGHT}Z"/></svg>'
    )


def histogram_plot(bins: Sequence[tuple[float, float, int]], qtype: str) -> str:
    """The histogram; empty without counts.

    Args:
        bins: (from, to, count) of |error|, in units of the weights.
        qtype: the type.
    """
    bars = bars_of(bins)
    if not bars:
        return ""
    last = max(bars)
    first = max(min(bars), last - _MOST_OCTAVES * _PER_OCTAVE)
    shown = {bar: n for bar, n in bars.items() if bar >= first}
    most, total = max(shown.values()), sum(bars.values())
    step = (_RIGHT - _LEFT) / (last - first + 1)
    parts = []
    for bar, count in sorted(shown.items()):
        height = (_BOTTOM - _TOP) * count / most
        low, high = (2.0 ** (b / _PER_OCTAVE) for b in (bar, bar + 1))
        said = typeset(f"{significant(low, 2)} to {significant(high, 2)}: {100 * count / total:.1f} %")
        parts.append(
            f'<rect x="{_LEFT + step * (bar - first):.1f}" y="{_BOTTOM - height:.1f}" '
            f'width="{max(step - 1, 1):.1f}" height="{height:.1f}"><title>{escape(said)}</title></rect>'
        )
    body = f'<g class="bars">{"".join(parts)}</g>' + line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis")
    ticks = range(math.ceil(first / _PER_OCTAVE), last // _PER_OCTAVE + 1, 3)
    for octave in ticks:
        at = _LEFT + step * (octave * _PER_OCTAVE - first)
        body += line(at, _BOTTOM, at, _BOTTOM + 4, "axis")
        body += text(at, _BOTTOM + 17, escape(typeset(significant(2.0**octave, 2))), "tick", "middle")
    body += text(0, 12, escape(f"share of weights by their error at {qtype}"), "name")
    body += text(_RIGHT, _BOTTOM + 32, "size of the error, units of the weights", "name", "end")
    said = f"Most errors lie near {significant(2.0 ** (max(shown, key=lambda b: shown[b]) / _PER_OCTAVE), 2)}"
    return figure("histogram", (_WIDTH, _HEIGHT), f"Errors of single weights at {qtype}", said, body)
