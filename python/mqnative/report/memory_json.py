"""The table of memory as JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqnative.report.jsonobject import JSONObject
from mqnative.report.memory import KINDS, MemoryFacts


def memory_values(found: MemoryFacts) -> dict[str, Any]:
    """As JSON values."""
    return {
        "budget": found.budget,
        "launch_flags": list(found.launch_flags),
        "memory": [
            {
                "device": line.device,
                "buffer": line.buffer,
                "is_host": line.is_host,
                **{f"{kind}_bytes": getattr(line, f"{kind}_bytes") for kind in KINDS},
            }
            for line in found.lines
        ],
        "predicted_tps": found.predicted_tps,
        "measured_tps": found.measured_tps,
    }


def read_memory(source: JSONObject) -> MemoryFacts:
    """What `memory_values` wrote.

    Raises:
        FormatError: a key is missing or holds something else.
    """
    # Reports without a machine, most of them, are read without NumPy.
    from mqnative.core.memory import MemoryRow

    flags = [source.of(f"launch_flags[{i}]", f, str) for i, f in enumerate(source.array("launch_flags"))]
    return MemoryFacts(
        source.text("budget"),
        tuple(
            MemoryRow(
                line.text("device"),
                line.text("buffer"),
                line.flag("is_host"),
                *(line.integer(f"{kind}_bytes") for kind in KINDS[:3]),
            )
            for line in source.objects("memory")
        ),
        tuple(flags),
        source.optional("predicted_tps"),
        source.optional("measured_tps"),
    )


def memory_facts(budget: str, values: Mapping[str, Any]) -> MemoryFacts:
    """Of a solved machine budget's JSON values."""
    return read_memory(JSONObject({**values, "budget": budget}, "memory"))
