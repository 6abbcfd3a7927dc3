"""What a mix takes of a machine, and the flags that start it so, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mqnative.app.output import size_text
from mqnative.jobs.memory_budget import cache_text

if TYPE_CHECKING:
    from mqnative.jobs.speed_frontier import SpeedPoint


def print_memory(out: Console, memory: Mapping[str, Any]) -> None:
    """The byte table, speed where it was asked for, and llama.cpp's flags."""
    table = Table(title="memory, by llama.cpp's accounting", title_justify="left")
    for column in ("where", "weights", "cache", "buffers", "total"):
        table.add_column(column, justify="left" if column == "where" else "right")
    for row in memory["memory"]:
        kinds = [row[f"{kind}_bytes"] for kind in ("weights", "cache", "compute", "total")]
        table.add_row(row["buffer"], *(f"{size_text(n)} ({n:,})" if n else "-" for n in kinds))
    out.print(table)
    if memory.get("predicted_tps") is not None:
        measured = memory.get("measured_tps")
        said = "" if measured is None else f", {measured:.1f} measured without its weights"
        out.print(Text(f"speed   {memory['predicted_tps']:.1f} tokens per second predicted{said}"))
    if said := cache_text(memory["kv_type"], memory["kv_damage"]):
        out.print(Text(f"cache   {said}"))
    out.print(Text(f"start   llama-server -m FILE {' '.join(memory['launch_flags'])}"))


def print_speeds(out: Console, points: Sequence[SpeedPoint]) -> None:
    """What speed costs at one size."""
    table = Table(title="speed against damage at the knee's size", title_justify="left")
    for column in ("tokens/s, predicted", "predicted KLD", "size"):
        table.add_column(column, justify="right")
    for p in points:
        table.add_row(f"{p.tps:.1f}", f"{p.damage:.6f}", size_text(p.size_bytes))
    out.print(table)
