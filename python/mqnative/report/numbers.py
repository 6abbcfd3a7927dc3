"""How figures are written: no more digits than their uncertainty supports, in units people read."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

# Outside these powers of ten, a figure is written with an exponent.
_FIXED_FROM, _FIXED_TO = -5, 7
_MAX_DIGITS = 6
TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Control characters, lone surrogates and direction overrides can hide or forge what stands beside them.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


class Measured(NamedTuple):
    """A figure and its interval, written to the same decimal."""

    value: str
    low: str
    high: str

    @property
    def interval(self) -> str:
        """The interval alone: ``0.0035 to 0.0037``."""
        return f"{self.low} to {self.high}"

    @property
    def bracketed(self) -> str:
        """``0.0036 [0.0035, 0.0037]``."""
        return f"{self.value} [{self.low}, {self.high}]"


def measured(value: float, low: float, high: float) -> Measured:
    """A figure and its interval with as many digits as the interval supports."""
    half = high / 2 - low / 2
    half = half if math.isfinite(half) else 0.0
    # A difference that is nothing beside its interval needs no digits of its own.
    scale = max(abs(value), abs(half) / 50)
    decimals = _decimals(scale, half)
    fixed = _is_fixed(scale)
    return Measured(*(_write(v, decimals, fixed) for v in (value, low, high)))


def with_error(value: float, se: float) -> str:
    """``16.659 ± 0.031``: a figure and its standard error."""
    scale = abs(value) or abs(se)
    decimals = _decimals(scale, se)
    return f"{_write(value, decimals, _is_fixed(scale))} ± {_write(se, decimals, _is_fixed(scale))}"


def significant(value: float, digits: int = 3) -> str:
    """A figure without known uncertainty, to ``digits`` significant digits."""
    if not math.isfinite(value) or value == 0:
        return _write(value, 0, True)
    rounded = float(f"{value:.{digits - 1}e}")
    if not 0 < abs(rounded) < math.inf:
        rounded = value
    return _write(value, digits - 1 - _exponent(rounded), _is_fixed(rounded))


def correlation(value: float) -> str:
    """``0.9985``: two digits of what is missing to 1."""
    missing = 1.0 - value
    decimals = 1 - _exponent(missing) if 0 < missing < 1 else 2
    return f"{value:.{min(max(decimals, 2), 8)}f}"


def share(value: float, se: float | None = None) -> str:
    """``95.8 ± 0.2 %``, of a share between 0 and 1."""
    return f"{significant(100 * value)} %" if se is None else f"{with_error(100 * value, 100 * se)} %"


def change(ratio: float) -> str:
    """``+0.7 %``: what a ratio near 1 adds."""
    percent = 100.0 * (ratio - 1.0)
    return f"{'+' if percent >= 0 else '-'}{significant(abs(percent), 2)} %"


def size_text(n_bytes: float) -> str:
    """Bytes in the unit people read: ``5.34 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 999.5:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{significant(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{significant(n_bytes)} TB"


def duration(seconds: float) -> str:
    """``0.8 s``, ``12 s``, ``3 min 12 s``, ``2 h 05 min``."""
    if not seconds < 59.5:
        minutes, rest = divmod(round(seconds), 60) if math.isfinite(seconds) else (0, 0)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def plain(text: str) -> str:
    """Text on one line, without characters that could hide or forge what stands beside it."""
    return plain_lines(" ".join(text.split()))


def plain_lines(text: str) -> str:
    """The same, keeping line breaks."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def typeset(number: str) -> str:
    """A number as print sets it: a true minus sign, a power of ten for ``1.2e-07``, kept with its unit."""

    def power(match: re.Match[str]) -> str:
        return f"{TIMES}10{str(int(match[1])).translate(_SUPERSCRIPTS)}"

    number = re.sub(r"(?<=\d)e([+-]\d+)", power, number)
    number = re.sub(r"(?<=\d) (?=[%kMGTB]|nats)", "\N{NO-BREAK SPACE}", number)
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, number)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _is_fixed(scale: float) -> bool:
    return scale == 0 or not math.isfinite(scale) or _FIXED_FROM <= _exponent(scale) < _FIXED_TO


def _decimals(scale: float, uncertainty: float) -> int:
    # Two digits of an uncertainty that begins with 1 or 2, else one; at least one digit of the figure itself.
    if scale == 0 or not math.isfinite(scale):
        return 0
    first = -_exponent(scale)
    if not 0 < uncertainty < math.inf:
        return first + 2
    two = f"{uncertainty:.1e}" < "3"
    wanted = -int(f"{uncertainty:.1e}".partition("e")[2]) + (1 if two else 0)
    return min(max(wanted, first), first + _MAX_DIGITS - 1)


def _write(value: float, decimals: int, fixed: bool) -> str:
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    if fixed:
        text = f"{round(value, decimals):.{max(decimals, 0)}f}"
    else:
        text = f"{value:.{max(decimals + _exponent(value), 0)}e}"
    # An end of an interval that rounds to nothing still shows on which side of zero it lies.
    return f"{value:.0e}" if float(text) == 0 else text
