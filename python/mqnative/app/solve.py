"""``mqnative solve``: the best recipe for a budget, without building it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.demands import constraint_options, keep_tied_option, method_options
from mqnative.app.long_command import long_command
from mqnative.app.memory_options import memory_options
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
from mqnative.app.sizes import Size

if TYPE_CHECKING:
    from mqnative.jobs.choose import Importance
    from mqnative.jobs.memory_budget import MemoryBudget
    from mqnative.jobs.solver_table import Row
    from mqnative.measure.study import Compute
    from mqnative.solve.constraints import Constraints
    from mqnative.solve.solvers import Settings


@click.command(
    short_help="Find the best recipe for a budget.",
    epilog="Example: mqnative solve model-bf16.gguf --bpw 4.5 -f calibration.txt -o recipe.yaml",
)
@model_argument
@click.option("-f", "--file", "text", type=PATH, help="The text to measure on.")
@click.option("--size", "size_bytes", type=Size(), help="Budget for the whole file: 2.4GiB, 500MB, bytes.")
@click.option("--bpw", type=click.FloatRange(min=0, min_open=True), help="Budget in bits per weight.")
@method_options
@constraint_options
@keep_tied_option
@imatrix_option
@click.option("--damages", "table", type=PATH, help="Use a damage table instead of measuring on a text.")
@click.option("--save-damages", type=PATH, help="Write the damage table (JSON).")
@click.option("--save-imatrix", type=PATH, help="Write the imatrix that the recipe is to be built with.")
@click.option("--explain", "explained", is_flag=True, help="Say for every tensor why it has its type.")
@click.option("--compare", "compared", is_flag=True, help="Show every solver on the same problem.")
@fast_option
@click.option(
    "--probe-chunks", type=click.IntRange(min=2), default=16, show_default=True, help="At most, for each."
)
@click.option("-o", "--output", type=PATH, help="Where to write the recipe (YAML, or .json).")
@ctx_option
@study_options
@memory_options
@force_option
@long_command
@json_option
def solve(
    model: Path,
    text: Path | None,
    size_bytes: int | None,
    bpw: float | None,
    method: str,
    settings: Settings,
    importance: Importance,
    constraints: Constraints,
    targets: tuple[str, ...],
    keep_tied: bool,
    imatrix_path: Path | None,
    table: Path | None,
    save_damages: Path | None,
    save_imatrix: Path | None,
    explained: bool,
    compared: bool,
    fast: bool,
    probe_chunks: int,
    output: Path | None,
    n_ctx: int,
    memory: MemoryBudget | None,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on a text and write the recipe with the least predicted damage under the budget.

    Without a budget, the knee of the frontier is taken. A machine is a budget too: with --vram or --ram
    the mix is the best that fits there beside a context of --ctx tokens. The text
    is dealt to the imatrix, the probes and the selection as `mqnative auto` deals it, and what was measured
    before is used again.

    Constraints name tensors by a pattern (a regular expression for the whole name, as in recipes) or speak
    of all. One that matches nothing or contradicts another is refused.
    """
    if size_bytes is not None and bpw is not None:
        raise click.UsageError("give at most one of --size and --bpw")
    if text is None and table is None:
        raise click.UsageError("give a text with -f, or a damage table with --damages")
    if output is None and not (explained or compared):
        raise click.UsageError("give --output, --explain or --compare")
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, console, print_json
    from mqnative.app.solved import explain_values, facts_of, print_solved, table_values
    from mqnative.formats.atomic import check_output
    from mqnative.formats.damage_file import write_damages
    from mqnative.formats.imatrix import read_imatrix, write_imatrix
    from mqnative.formats.recipe import write_recipe
    from mqnative.jobs.choose import recipe_of
    from mqnative.jobs.damage_table import to_file
    from mqnative.jobs.obtain import obtain
    from mqnative.jobs.options import Options
    from mqnative.jobs.presets import presets_of
    from mqnative.jobs.run import Run
    from mqnative.jobs.solver_table import solver_table
    from mqnative.jobs.tell import choice_facts
    from mqnative.measure.corpus import read_text
    from mqnative.measure.study import Study
    from mqnative.store import Store

    for path in filter(None, (output, save_damages, save_imatrix)):
        check_output(path, force=force)
    if text is not None and table is None:
        read_text(text)
    imatrix = None if imatrix_path is None else read_imatrix(imatrix_path)
    model = local_model(model)
    options = Options(
        size_bytes,
        bpw,
        n_ctx,
        targets,
        probe_chunks,
        fast=fast,
        compute=compute,
        constraints=constraints,
        method=method,
        settings=settings,
        importance=importance,
        keep_tied=keep_tied,
        memory=memory,
    )
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(model, store, compute=options.compute, monitor=monitor) as study,
    ):
        run = Run(study, options, monitor)
        run.bpw()  # refuses a machine that nothing fits before anything is measured
        obtained = obtain(run, text, imatrix, table)
        chosen = run.choose(obtained.parts, obtained.known)
        recipe = recipe_of(study, chosen, chosen.damages.imatrix)
        explanation = chosen.fit.explanation() if explained else None
        rows: tuple[Row, ...] = ()
        if compared:
            damages = chosen.damages
            presets = presets_of(study.file, damages.imatrix, damages.importances)
            rows = solver_table(run.case(damages), options.demand, chosen, presets)
        saved = to_file(chosen.damages, study.identity.model, study.build)
    if output is not None:
        write_recipe(output, recipe, force=force)
    if save_damages is not None:
        write_damages(save_damages, saved, force=force)
    if save_imatrix is not None and chosen.damages.imatrix is not None:
        write_imatrix(save_imatrix, chosen.damages.imatrix, force=force)
    facts = facts_of(chosen, output)
    asked = "" if bpw is None else f"{bpw:g} bits per weight"
    why = None if explanation is None else choice_facts(chosen, explanation, asked)
    if as_json:
        if why is not None:
            facts |= {"explanation": explain_values(why)}
        if compared:
            facts |= {"solvers": table_values(rows)}
        print_json(facts)
        return
    print_solved(console(), chosen, output, why, rows)
