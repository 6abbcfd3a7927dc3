"""What a file takes of the machine that it was made for: bytes by device and kind, and how to start it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mqnative.report.numbers import size_text

if TYPE_CHECKING:
    from mqnative.core.memory import MemoryRow

KINDS = ("weights", "cache", "compute", "total")
HEAD = ("device", "memory", "weights:", "KV cache:", "compute buffers:", "total:")


@dataclass(frozen=True)
class MemoryFacts:
    """A machine, and what a file takes of it.

    Attributes:
        budget: the machine as it was asked for: ``--vram 8589934592 --ctx 16384``.
        lines: by llama.cpp's own accounting, one for each kind of memory.
        launch_flags: llama.cpp's, for this layout and context.
        predicted_tps, measured_tps: generated tokens per second; None where speed was not asked for.
    """

    budget: str
    lines: tuple[MemoryRow, ...]
    launch_flags: tuple[str, ...]
    predicted_tps: float | None = None
    measured_tps: float | None = None


def table_rows(found: MemoryFacts) -> list[tuple[str, ...]]:
    """Cells as text under `HEAD`, and the sums where there are several lines."""
    rows = [
        (line.device, line.buffer, *(_bytes(getattr(line, f"{kind}_bytes")) for kind in KINDS))
        for line in found.lines
    ]
    if len(found.lines) > 1:
        sums = [sum(getattr(line, f"{kind}_bytes") for line in found.lines) for kind in KINDS]
        rows.append(("all", "", *map(_bytes, sums)))
    return rows


def _bytes(n: int) -> str:
    return f"{size_text(n)} ({n:,})" if n else "-"


def sentences(found: MemoryFacts) -> list[str]:
    """What goes with the table."""
    said = [f"For {found.budget}, by llama.cpp's own accounting of the planned file."]
    if found.predicted_tps is not None:
        ran = "" if found.measured_tps is None else f", {found.measured_tps:.1f} measured without its weights"
        said.append(f"Generation: {found.predicted_tps:.1f} tokens per second predicted{ran}.")
    return said


def start_command(found: MemoryFacts) -> str:
    """How llama.cpp is started for it."""
    return f"llama-server -m FILE {' '.join(found.launch_flags)}"
