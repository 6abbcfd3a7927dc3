"""``mqnative solve``: the best recipe for a budget, without building it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.options import (
    PATH,
    ctx_option,
    fast_option,
    force_option,
    imatrix_option,
    json_option,
    model_argument,
    study_options,
    text_option,
    type_list,
)
from mqnative.app.sizes import Size

if TYPE_CHECKING:
    from mqnative.measure.study import Compute


@click.command(
    short_help="Find the best recipe for a budget.",
    epilog="Example: mqnative solve model-bf16.gguf --bpw 4.5 -f calibration.txt -o recipe.yaml",
)
@model_argument
@text_option
@click.option("--size", "size_bytes", type=Size(), help="Budget for the whole file: 2.4GiB, 500MB, bytes.")
@click.option("--bpw", type=click.FloatRange(min=0, min_open=True), help="Budget in bits per weight.")
@click.option("--method", type=click.Choice(["exact"]), default="exact", show_default=True)
@imatrix_option
@click.option(
    "--types", callback=type_list, help="Types allowed, comma-separated; default: every type ggml writes."
)
@fast_option
@click.option("--probe-chunks", type=click.IntRange(min=2), default=16, show_default=True)
@click.option("-o", "--output", type=PATH, required=True, help="Where to write the recipe (YAML, or .json).")
@ctx_option
@study_options
@force_option
@json_option
def solve(
    model: Path,
    text: Path,
    size_bytes: int | None,
    bpw: float | None,
    method: str,
    imatrix_path: Path | None,
    types: tuple[str, ...],
    fast: bool,
    probe_chunks: int,
    output: Path,
    n_ctx: int,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on a text and write the recipe with the least predicted damage under the budget.

    The text is dealt to the imatrix and the probes as `mqnative auto` deals it, and what was measured before
    is used again.
    """
    if (size_bytes is None) == (bpw is None):
        raise click.UsageError("give exactly one of --size and --bpw")
    from mqnative.app.output import ProgressMonitor, console, facts_table, print_json, size_text
    from mqnative.formats.atomic import check_output
    from mqnative.formats.imatrix import read_imatrix
    from mqnative.formats.recipe import write_recipe
    from mqnative.jobs.auto import Options, Run, recipe_of
    from mqnative.measure.corpus import read_text
    from mqnative.measure.study import Study
    from mqnative.store import Store

    check_output(output, force=force)
    read_text(text)
    imatrix = None if imatrix_path is None else read_imatrix(imatrix_path)
    options = Options(size_bytes, bpw, n_ctx, types, probe_chunks, fast=fast, compute=compute)
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(model, store, compute=options.compute, monitor=monitor) as study,
    ):
        run = Run(study, options, monitor)
        measured = run.measure(run.parts(text, None), imatrix)
        found = run.choose(measured)
        recipe = recipe_of(study, found, measured)
    write_recipe(output, recipe, force=force)
    facts = {
        "recipe_path": str(output),
        "method": method,
        "size_bytes": found.plan.file_bytes,
        "bpw": found.plan.bpw,
        "bpw_file": found.plan.bpw_file,
        "predicted_kld": found.solution.damage,
        "gap": found.solution.gap,
        "tensors": [
            {"name": t.name, "type": t.qtype, "size_bytes": t.size_bytes} for t in found.plan.tensors
        ],
    }
    if as_json:
        print_json(facts)
        return
    shown = {
        "size": f"{size_text(found.plan.file_bytes)} ({found.plan.file_bytes:,} bytes)",
        "bpw": f"{found.plan.bpw:.3f}",
        "predicted KLD": f"{found.solution.damage:.6f}",
        "optimality gap": f"{100 * found.solution.gap:.4f} %",
    }
    console().print(facts_table(str(output), shown))
