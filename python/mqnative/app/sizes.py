"""Sizes as people write them: ``2.4GiB``, ``500 MB``, ``5342592``."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """Bytes; a bare number is bytes, kB MB GB are decimal, KiB MiB GiB binary."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse."""
        found = _SIZE.fullmatch(str(value))
        unit = _UNITS.get(found.group(2).lower()) if found else None
        if found is None or unit is None:
            self.fail(f"{value!r} is not a size; write 2.4GiB, 500MB or a number of bytes", param, ctx)
        return int(float(found.group(1)) * unit) if "." in found.group(1) else int(found.group(1)) * unit
