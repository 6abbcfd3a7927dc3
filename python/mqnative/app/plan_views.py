"""Plans, and what became of them, as tables and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mqnative.jobs.estimate import Compared, Plan

_BASES = {
    "kept": "measured already",
    "measured": "from earlier jobs",
    "calibrated": "from a short trial on this machine",
    "assumed": "assumed",
}


def show_plan(context: click.Context, *, as_json: bool) -> None:
    """Print what the command of a context is going to do; nothing of it is run.

    Raises:
        JobError: nobody can tell what it takes.
        Any error of reading the model's header, here or on the hub.
    """
    from mqnative.app.output import print_json

    kind = context.command.name or ""
    plan = required_plan(kind, context.params)
    if as_json:
        print_json({"kind": kind, **plan.to_dict()})
    else:
        print_plan(plan)


def required_plan(kind: str, params: Mapping[str, Any]) -> Plan:
    """The plan of a command; units that are not known yet are measured now, for about a second.

    Raises:
        JobError: nobody can tell what it takes.
        Any error of reading the model's header, here or on the hub.
    """
    from mqnative.app.plans import plan_of
    from mqnative.errors import JobError
    from mqnative.store import Store

    with Store.open() as store:
        plan = plan_of(kind, params, store, measure=True, ask=True)
    if plan is None:
        raise JobError(
            f"nobody can tell what this {kind} takes; run it with --detach and look at it as it goes"
        )
    return plan


def print_plan(plan: Plan) -> None:
    """The steps as a table."""
    from rich.table import Table

    from mqnative.app.output import console, size_text
    from mqnative.report.numbers import duration

    table = Table("step", box=None)
    for title in ("about", "time", "bytes"):
        table.add_column(title, justify="right")
    table.add_column("time is")
    for step in plan.steps:
        size = size_text(step.size_bytes) if step.size_bytes else ""
        table.add_row(
            step.name, f"{step.amount:,} {step.unit}", duration(step.seconds), size, _BASES[step.basis]
        )
    total = size_text(plan.size_bytes) if plan.size_bytes else ""
    table.add_row("in all", "", duration(plan.seconds), total, "")
    out = console()
    out.print(table)
    for note in plan.notes:
        out.print(f"note: {note}")


def compared_json(rows: Sequence[Compared]) -> list[dict[str, Any]]:
    """Estimate against reality, as ``jobs show --json`` prints it."""
    return [{"step": r.name, "expected_s": r.expected_s, "actual_s": r.actual_s} for r in rows]


def print_compared(rows: Sequence[Compared]) -> None:
    """The same as a table."""
    from mqnative.app.columns import print_columns
    from mqnative.report.numbers import duration

    lines = [("step", "expected", "real")]
    for row in rows:
        expected, actual = ("-" if s is None else duration(s) for s in (row.expected_s, row.actual_s))
        lines.append((row.name, expected, actual))
    whole = [
        sum(times) for times in zip(*((r.expected_s or 0.0, r.actual_s or 0.0) for r in rows), strict=True)
    ]
    click.echo("expected and real time")
    print_columns([*lines, ("in all", *map(duration, whole))], right={1, 2})
