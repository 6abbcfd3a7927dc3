"""The page's table of memory."""

from __future__ import annotations

from mqnative.report.memory import HEAD, MemoryFacts, sentences, start_command, table_rows
from mqnative.report.numbers import plain_lines, typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table


def memory_part(found: MemoryFacts) -> str:
    """Bytes by device and kind, and the command that starts llama.cpp so."""
    rows = [[Cell(escape(typeset(text))) for text in row] for row in table_rows(found)]
    said = "".join(f"<p>{escape(typeset(text))}</p>" for text in sentences(found))
    command = escape(plain_lines(start_command(found)))
    drawn = table("Memory by device", HEAD, rows, "steps")
    return f'{said}{drawn}<pre tabindex="0"><code>{command}</code></pre>'
