"""What ``mqnative solve`` prints: the mix, why it is as it is, and every solver side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mqnative.app.memory_table import print_memory
from mqnative.app.output import facts_table, size_text
from mqnative.jobs.tell import knee_text
from mqnative.report.choices import MIB, ChoiceFacts, MoveRow
from mqnative.report.choices_json import choice_values
from mqnative.report.numbers import significant
from mqnative.report.why import sentences

if TYPE_CHECKING:
    from mqnative.jobs.choose import Chosen
    from mqnative.jobs.solver_table import Row


def facts_of(chosen: Chosen, output: Path | None) -> dict[str, Any]:
    """The mix as a JSON object."""
    found = chosen.fit
    knee = chosen.knee
    memory = {"launch_flags": []} if chosen.memory is None else chosen.memory.values()
    return memory | {
        "recipe_path": None if output is None else str(output),
        "method": found.solution.method,
        "budget_bytes": found.budget_bytes,
        "knee": None
        if knee is None
        else {
            "rule": knee.rule,
            "size_bytes": knee.size_bytes,
            "size_bytes_ci95": None if knee.ci95_bytes is None else list(knee.ci95_bytes),
            "predicted_kld": knee.damage,
            "reason": knee.reason,
        },
        "importance": chosen.weighing,
        "select_kld": dict(chosen.select_klds) or None,
        "constraints": list(found.restricted.constraints.texts),
        "size_bytes": found.plan.file_bytes,
        "bpw": found.plan.bpw,
        "bpw_file": found.plan.bpw_file,
        "predicted_kld": found.solution.damage,
        "lower_bound": found.solution.lower_bound,
        "gap": found.solution.gap,
        "tensors": [
            {"name": t.name, "type": t.qtype, "size_bytes": t.size_bytes} for t in found.plan.tensors
        ],
    }


def explain_values(why: ChoiceFacts) -> dict[str, Any]:
    """Why, as a JSON object."""
    return choice_values(why)


def table_values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every solver's answer as JSON objects."""
    best = _best(rows)
    return [
        {
            "method": row.method,
            "size_bytes": None if row.solution is None else row.solution.size_bytes,
            "bpw": row.bpw,
            "predicted_kld": None if row.solution is None else row.solution.damage,
            "of_exact": None if row.solution is None or not best else row.solution.damage / best,
            "gap": None if row.solution is None else row.solution.gap,
            "problem": row.problem or None,
        }
        for row in rows
    ]


def _best(rows: Sequence[Row]) -> float:
    return next((r.solution.damage for r in rows if r.method == "exact" and r.solution is not None), 0.0)


def print_solved(
    out: Console, chosen: Chosen, output: Path | None, why: ChoiceFacts | None, rows: Sequence[Row]
) -> None:
    """Everything, for people."""
    found = chosen.fit
    shown = {
        "method": found.solution.method,
        "size": f"{size_text(found.plan.file_bytes)} ({found.plan.file_bytes:,} bytes)",
        "bpw": f"{found.plan.bpw:.3f}",
        "predicted KLD": f"{found.solution.damage:.6f}",
        "optimality gap": f"{100 * found.solution.gap:.4f} %",
    }
    out.print(facts_table("" if output is None else str(output), shown))
    if chosen.memory is not None:
        print_memory(out, chosen.memory.values())
    if chosen.knee is not None and why is None:
        out.print(Text(knee_text(chosen)))
    if why is not None:
        for sentence in sentences(why):
            out.print(Text(sentence))
        out.print(_why_table(why))
    if rows:
        out.print(_solver_rows(rows))


def _why_table(why: ChoiceFacts) -> Table:
    table = Table(
        title="Why these types: damage in nats per token, prices in nats per MiB", title_justify="left"
    )
    for name, justify in (
        ("tensor", "left"), ("type", "left"), ("damage", "right"), ("up", "left"), ("saves/MiB", "right"),
        ("down", "left"), ("costs/MiB", "right"), ("held by", "left"),
    ):  # fmt: skip
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for row in why.tensors:
        more = f" +{len(row.tensors) - 1}" if len(row.tensors) > 1 else ""
        held = "" if row.wanted is None else f"{' and '.join(row.limits)} (else {row.wanted})"
        table.add_row(
            Text(row.name + more),
            row.qtype,
            significant(row.damage),
            *_move(row.up),
            *_move(row.down),
            Text(held),
        )
    return table


def _move(move: MoveRow | None) -> tuple[str, str]:
    if move is None:
        return "", ""
    return (
        f"{move.qtype} {'+' if move.more_bytes >= 0 else '-'}{size_text(abs(move.more_bytes))}",
        significant(move.price * MIB),
    )


def _solver_rows(rows: Sequence[Row]) -> Table:
    table = Table(title="Every solver on the same problem", title_justify="left")
    table.add_column("method", no_wrap=True)
    for name in ("size", "bpw", "predicted KLD", "of exact", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    best = _best(rows)
    for row in rows:
        if row.solution is None:
            table.add_row(row.method, Text(row.problem), "", "", "", "")
            continue
        s = row.solution
        table.add_row(
            row.method,
            f"{s.size_bytes:,}",
            f"{row.bpw:.3f}",
            significant(s.damage, 4),
            f"{s.damage / best:.3f}" if best else "",
            f"{100 * s.gap:.3g} %",
        )
    return table
