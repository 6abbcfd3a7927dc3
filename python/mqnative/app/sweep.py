"""``mqnative sweep``: what every type costs every tensor in weight error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import imatrix_option, json_option, model_argument, study_options, type_list

if TYPE_CHECKING:
    from mqnative.measure.study import Compute
    from mqnative.measure.weight_error import TensorSweep

_COLUMNS_WITHOUT_TYPES = (
    "Q8_0",
    "Q6_K",
    "Q5_K",
    "Q4_K",
    "IQ4_XS",
    "Q3_K",
    "IQ3_XXS",
    "Q2_K",
    "IQ2_XXS",
    "IQ1_S",
)


@click.command(
    short_help="Measure the weight error of every tensor at every type.",
    epilog="Example: mqnative sweep model-bf16.gguf --imatrix imatrix.gguf --types Q4_K,Q6_K",
)
@model_argument
@imatrix_option
@click.option("--types", callback=type_list, help="Comma-separated; default: every type ggml writes.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Relative half-width of the 95 % interval to reach by sampling rows; 0 takes every row.",
)
@study_options
@long_command
@json_option
def sweep(
    model: Path,
    imatrix_path: Path | None,
    types: tuple[str, ...],
    tolerance: float,
    compute: Compute,
    as_json: bool,
) -> None:
    """Quantize and decode a sample of each tensor's rows at many types; no forward pass is needed.

    The error is sum v dW^2 / sum v W^2 with the imatrix' importances v. Results are kept: a second call
    measures only what is new.
    """
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.build.plan import model_tensors
    from mqnative.formats.imatrix import read_imatrix
    from mqnative.jobs.candidates import candidate_types, default_targets, importances_of
    from mqnative.measure.stored_sweep import sweep as run_sweep
    from mqnative.measure.study import Study
    from mqnative.store import Store

    imatrix = None if imatrix_path is None else read_imatrix(imatrix_path)
    model = local_model(model)
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(model, store, compute=compute, monitor=monitor) as study,
    ):
        tensors = model_tensors(study.file)
        importances = importances_of(tensors, imatrix)
        targets = candidate_types(tensors, importances, types or default_targets())
        found = run_sweep(study, targets, importances, tolerance=tolerance)
    if as_json:
        print_json({"model_path": str(model), "tolerance": tolerance, "tensors": _json(found)})
        return
    _print(found, types)


def _json(found: dict[str, TensorSweep]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from mqnative.formats.qtypes import qtype

    return [
        {
            "name": name,
            "energy": s.energy,
            "importance": s.importance,
            "errors": [asdict(e) | {"bpw": qtype(e.qtype).bpw} for e in s.errors.values()],
        }
        for name, s in found.items()
    ]


def _print(found: dict[str, TensorSweep], types: tuple[str, ...]) -> None:
    from rich.table import Table

    from mqnative.app.output import console

    columns = types or _COLUMNS_WITHOUT_TYPES
    table = Table(
        "tensor", box=None, title="relative weight error, sum v dW^2 / sum v W^2", title_justify="left"
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, s in found.items():
        cells = (f"{s.errors[c].weighted:.2e}" if c in s.errors else "-" for c in columns)
        table.add_row(name, *cells)
    console().print(table)
