"""``mqnative frontier``: the best mix of every size, and where it stops being worth it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.demands import constraint_options, keep_tied_option
from mqnative.app.long_command import long_command
from mqnative.app.options import (
    PATH,
    ctx_option,
    fast_option,
    force_option,
    imatrix_option,
    json_option,
    model_argument,
    study_options,
)

if TYPE_CHECKING:
    from mqnative.jobs.choose import Importance
    from mqnative.jobs.speed_frontier import SpeedPoint
    from mqnative.measure.study import Compute
    from mqnative.report.choices import FrontierFacts
    from mqnative.solve.constraints import Constraints

_FORMATS = (".html", ".svg", ".json")
_SHOWN = 14


@click.command(
    short_help="Show size against damage, with its knee.",
    epilog="Example: mqnative frontier model-bf16.gguf -f calibration.txt -o frontier.html",
)
@model_argument
@click.option("-f", "--file", "text", type=PATH, help="The text to measure on.")
@click.option("--damages", "table", type=PATH, help="Use a damage table instead of measuring on a text.")
@imatrix_option
@click.option(
    "--importance",
    type=click.Choice(("imatrix", "none")),
    default="imatrix",
    show_default=True,
    help="Use the imatrix or not.",
)
@constraint_options
@keep_tied_option
@click.option(
    "--candidate",
    "candidates",
    type=PATH,
    multiple=True,
    help="Place a mix (recipe, manifest, GGUF) on it; repeatable.",
)
@click.option(
    "--points",
    "n_points",
    type=click.IntRange(min=2, max=2000),
    default=200,
    show_default=True,
    help="Budgets.",
)
@click.option(
    "--speed", "with_speed", is_flag=True, help="Also: what tokens per second cost at the knee's size."
)
@fast_option
@click.option(
    "--probe-chunks", type=click.IntRange(min=2), default=16, show_default=True, help="At most, for each."
)
@click.option(
    "-o", "--output", "outputs", type=PATH, multiple=True, help="Plot (.html, .svg) or .json; repeatable."
)
@ctx_option
@study_options
@force_option
@long_command
@json_option
def frontier(
    model: Path,
    text: Path | None,
    table: Path | None,
    imatrix_path: Path | None,
    importance: Importance,
    constraints: Constraints,
    targets: tuple[str, ...],
    keep_tied: bool,
    candidates: tuple[Path, ...],
    n_points: int,
    with_speed: bool,
    fast: bool,
    probe_chunks: int,
    outputs: tuple[Path, ...],
    n_ctx: int,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Solve MODEL for every size at once: the least predicted damage, its knees with their reasons.

    llama.cpp's presets, and candidates if given, are placed on the same axes. `mqnative solve` and `mqnative
    auto` without a budget take the first knee.
    """
    if text is None and table is None:
        raise click.UsageError("give a text with -f, or a damage table with --damages")
    for path in outputs:
        if path.suffix.lower() not in _FORMATS:
            raise click.BadParameter(f"{path} ends in none of {', '.join(_FORMATS)}", param_hint="--output")
    from mqnative.app.memory_table import print_speeds
    from mqnative.app.models import local_model, shown_model
    from mqnative.app.output import ProgressMonitor, console, print_json
    from mqnative.formats.atomic import check_output, write_text_atomic
    from mqnative.formats.imatrix import read_imatrix
    from mqnative.jobs.curve import curve_of
    from mqnative.jobs.frontier_facts import frontier_facts
    from mqnative.jobs.incumbents import planned
    from mqnative.jobs.obtain import obtain
    from mqnative.jobs.options import Options
    from mqnative.jobs.presets import presets_of
    from mqnative.jobs.run import IMATRIX_NAME, Run
    from mqnative.jobs.speed_frontier import speed_frontier
    from mqnative.measure.corpus import read_text
    from mqnative.measure.study import Study
    from mqnative.store import Store

    for path in outputs:
        check_output(path, force=force)
    if text is not None and table is None:
        read_text(text)
    imatrix = None if imatrix_path is None else read_imatrix(imatrix_path)
    options = Options(
        None,
        None,
        n_ctx,
        targets,
        probe_chunks,
        fast=fast,
        compute=compute,
        constraints=constraints,
        importance=importance,
        keep_tied=keep_tied,
        incumbents=candidates,
    )
    name, reference = shown_model(model), local_model(model)
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(reference, store, compute=options.compute, monitor=monitor) as study,
    ):
        run = Run(study, options, monitor)
        (damages,) = obtain(run, text, imatrix, table).known.values()
        presets = presets_of(study.file, damages.imatrix, damages.importances)
        placed = planned(study, run.incumbents, damages.tensors, damages.imatrix, IMATRIX_NAME)
        curve = curve_of(run.case(damages), options.demand, presets, placed, n_points=n_points)
        speeds: list[SpeedPoint] = []
        if with_speed:
            size = curve.knees[0].size_bytes if curve.knees else curve.points[-1].size_bytes
            speeds = speed_frontier(
                run.case(damages), constraints, size, n_threads=compute.n_threads, monitor=monitor
            )
    facts = frontier_facts(curve)
    weighing = "none" if damages.imatrix is None else "imatrix"
    values = _values(facts, weighing, constraints, [p.gap for p in curve.points])
    if with_speed:
        values |= {"speed": [p.values() for p in speeds]}
    for path in outputs:
        write_text_atomic(path, _rendered(path, facts, values, name, speeds))
    if as_json:
        print_json(values | {"files": [str(p) for p in outputs]})
        return
    _print(console(), facts, name)
    if with_speed:
        print_speeds(console(), speeds)


def _values(
    facts: FrontierFacts, importance: str, constraints: Constraints, gaps: list[float]
) -> dict[str, Any]:
    from mqnative.report.choices_json import frontier_values

    values = frontier_values(facts)
    for point, gap in zip(values["points"], gaps, strict=True):
        point["gap"] = gap
    knee = values["knees"][0] if values["knees"] else None
    return {"importance": importance, "constraints": list(constraints.texts), "knee": knee, **values}


def _rendered(
    path: Path, facts: FrontierFacts, values: dict[str, Any], name: str, speeds: list[SpeedPoint]
) -> str:
    import json

    from mqnative.report.frontier_page import frontier_page, frontier_svg
    from mqnative.report.speed_table import SpeedRow

    if path.suffix.lower() == ".json":
        return json.dumps(values, indent=2, allow_nan=False) + "\n"
    if path.suffix.lower() == ".svg":
        return frontier_svg(facts)
    rows = [SpeedRow(p.tps, p.damage, p.size_bytes) for p in speeds]
    return frontier_page(facts, f"{name}: size against damage", rows)


def _print(out: Any, facts: FrontierFacts, name: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from mqnative.app.output import size_text
    from mqnative.report.frontier_part import knee_sentences
    from mqnative.report.numbers import measured, significant

    table = Table(title=Text(f"{name}: the best mix of every size"), title_justify="left")
    for column in ("size", "bpw", "predicted KLD, 95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    step = max(1, len(facts.points) // _SHOWN)
    for p in facts.points[::step]:
        table.add_row(size_text(p.size_bytes), f"{p.bpw:.2f}", measured(p.kld, *p.ci95).bracketed)
    out.print(table)
    others = Table(title="Others' mixes", title_justify="left")
    others.add_column("mix", overflow="fold")
    for column in ("size", "bpw", "predicted KLD", "best of its size", "ratio"):
        others.add_column(column, justify="right", no_wrap=True)
    for row in facts.placed:
        ratio = "" if row.kld is None or not row.best else f"{row.kld / row.best:.2f}"
        others.add_row(
            Text(row.name),
            size_text(row.size_bytes),
            f"{row.bpw:.2f}",
            "" if row.kld is None else significant(row.kld),
            "" if row.best is None else significant(row.best),
            ratio,
        )
    if facts.placed:
        out.print(others)
    for sentence in knee_sentences(facts):
        out.print(Text(sentence))
