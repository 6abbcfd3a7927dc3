"""``mqnative probe``: what each tensor costs the model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.options import (
    ctx_option,
    imatrix_option,
    json_option,
    model_argument,
    study_options,
    text_option,
    type_list,
)

if TYPE_CHECKING:
    from mqnative.measure.study import Compute


@click.command(
    short_help="Measure the KL divergence that quantizing each tensor causes.",
    epilog="Example: mqnative probe model-bf16.gguf -f text.txt --imatrix imatrix.gguf --types Q3_K",
)
@model_argument
@text_option
@imatrix_option
@click.option("--types", callback=type_list, default="Q3_K", show_default=True, help="Comma-separated.")
@click.option(
    "--chunks", type=click.IntRange(min=2), default=8, show_default=True, help="Chunks of text to use."
)
@ctx_option
@study_options
@json_option
def probe(
    model: Path,
    text: Path,
    imatrix_path: Path | None,
    types: tuple[str, ...],
    chunks: int,
    n_ctx: int,
    compute: Compute,
    as_json: bool,
) -> None:
    """Swap one tensor at a time for its quantized self and measure the KL divergence of the answers.

    All other tensors stay unquantized. Chunks are taken in a fixed random order, so that few of them are a
    fair sample. Results are kept: a second call measures only what is new.
    """
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.build.plan import model_tensors
    from mqnative.formats.imatrix import read_imatrix
    from mqnative.formats.qtypes import qtype
    from mqnative.jobs.candidates import candidate_types, importances_of
    from mqnative.measure.corpus import read_corpus, read_text
    from mqnative.measure.parts import shuffled
    from mqnative.measure.stored_scores import probe as run_probe
    from mqnative.measure.study import Study
    from mqnative.measure.uncertainty import Resamples, mean_estimate
    from mqnative.store import Store

    read_text(text)
    imatrix = None if imatrix_path is None else read_imatrix(imatrix_path)
    rows: list[dict[str, Any]] = []
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(model, store, compute=compute, monitor=monitor) as study,
    ):
        corpus = shuffled(read_corpus(study.model, text, n_ctx=n_ctx)).head(chunks)
        tensors = model_tensors(study.file)
        importances = importances_of(tensors, imatrix)
        resamples = Resamples.of(corpus.n_chunks)
        for target in types:
            legal = candidate_types(tensors, importances, [target])
            wanted = {name: found[0] for name, found in legal.items() if found}
            for name, klds in run_probe(study, corpus, wanted, importances).items():
                kld = mean_estimate(klds[:, None], resamples)
                rows.append(
                    {
                        "tensor": name,
                        "type": wanted[name],
                        "bpw": qtype(wanted[name]).bpw,
                        "kld_mean": kld.value,
                        "kld_se": kld.se,
                        "kld_ci95": kld.ci95,
                        "n_tokens": corpus.n_chunks * corpus.n_scored,
                    }
                )
    rows.sort(key=lambda row: -float(row["kld_mean"]))
    if as_json:
        print_json({"model_path": str(model), "n_ctx": n_ctx, "n_chunks": corpus.n_chunks, "probes": rows})
        return
    _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from mqnative.app.output import console

    table = Table(
        "tensor", "type", box=None, title="KLD of one swapped tensor, nats/token", title_justify="left"
    )
    table.add_column("KLD", justify="right")
    table.add_column("95 %", justify="right")
    for row in rows:
        low, high = row["kld_ci95"]
        table.add_row(row["tensor"], row["type"], f"{row['kld_mean']:.6f}", f"{low:.6f} .. {high:.6f}")
    console().print(table)
