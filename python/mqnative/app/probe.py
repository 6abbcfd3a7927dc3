"""``mqnative probe``: what quantizing each tensor does to the model's answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
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
    from mqnative.measure.corpus import Corpus
    from mqnative.measure.probes import ProbeCost
    from mqnative.measure.stored_scores import ChunkMeans, Pair
    from mqnative.measure.study import Compute, Study

METRICS = ("kld", "ppl")


def types_or_all(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """The callback of ``--types``: names, or None for ``all``."""
    return None if value == "all" else type_list(ctx, param, value)


def metric_list(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    """The callback of ``--metric``."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in value.split(",")))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not a metric; choose among {', '.join(METRICS)}")
    return names


@click.command(
    short_help="Measure the KL divergence that quantizing each tensor causes.",
    epilog="Example: mqnative probe model-bf16.gguf -f text.txt --imatrix imatrix.gguf --types Q3_K",
)
@model_argument
@text_option
@imatrix_option
@click.option(
    "--types", callback=types_or_all, default="Q3_K", show_default=True, help="Comma-separated, or all."
)
@click.option("--metric", callback=metric_list, default="kld", show_default=True, help="kld, ppl or both.")
@click.option(
    "--chunks", type=click.IntRange(min=2), default=8, show_default=True, help="Chunks of text to use."
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Use fewer chunks where the 95 % interval is this narrow already, as a share of the KLD; 0: all.",
)
@ctx_option
@study_options
@long_command
@json_option
def probe(
    model: Path,
    text: Path,
    imatrix_path: Path | None,
    types: tuple[str, ...] | None,
    metric: tuple[str, ...],
    chunks: int,
    precision: float,
    n_ctx: int,
    compute: Compute,
    as_json: bool,
) -> None:
    """Swap one tensor at a time for its quantized self and measure what the answers lose.

    All other tensors stay unquantized. Chunks are taken in a fixed random order, so that few of them are a
    fair sample. Results are kept: a second call measures only what is new. `--types all` tries every type
    that each tensor can have, which takes long; the cost is printed first.
    """
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.build.plan import model_tensors
    from mqnative.formats.imatrix import read_imatrix
    from mqnative.jobs.candidates import candidate_types, default_targets, importances_of
    from mqnative.measure import probes
    from mqnative.measure.corpus import read_corpus, read_text
    from mqnative.measure.parts import shuffled
    from mqnative.measure.study import Study
    from mqnative.store import Store

    read_text(text)
    imatrix = None if imatrix_path is None else read_imatrix(imatrix_path)
    model = local_model(model)
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(model, store, compute=compute, monitor=monitor) as study,
    ):
        corpus = shuffled(read_corpus(study.model, text, n_ctx=n_ctx)).head(chunks)
        tensors = model_tensors(study.file)
        importances = importances_of(tensors, imatrix)
        legal = candidate_types(tensors, importances, types or default_targets())
        pairs = [(name, target) for name, found in legal.items() for target in found]
        if types is None:
            _tell_cost(study, corpus, probes.cost(study, corpus, pairs, importances))
        found = probes.probe_until(study, corpus, pairs, importances, precision=precision)
    rows = [_row(pair, means, metric, corpus.n_scored) for pair, means in found.items()]
    key = "kld_mean" if "kld" in metric else "ppl"
    rows.sort(key=lambda row: -float(row[key]))
    if as_json:
        print_json({"model_path": str(model), "n_ctx": n_ctx, "n_chunks": corpus.n_chunks, "probes": rows})
        return
    _print(rows, metric)


def _tell_cost(study: Study, corpus: Corpus, cost: ProbeCost) -> None:
    """On standard error, before hours are spent: the passes, and the time by one that is made now."""
    from mqnative.measure.scores import chunk_logits
    from mqnative.report.numbers import duration

    if not cost.n_passes:
        return
    chunk_logits(study.model, corpus, 0)
    started = time.monotonic()
    chunk_logits(study.model, corpus, 0)
    expected = duration((time.monotonic() - started) * cost.n_full_passes)
    click.echo(
        f"{cost.n_passes:,} passes, {cost.n_full_passes:,.0f} whole ones' work: about {expected}", err=True
    )


def _row(pair: Pair, means: ChunkMeans, metric: tuple[str, ...], n_scored: int) -> dict[str, Any]:
    from mqnative.formats.qtypes import qtype
    from mqnative.measure.evaluate import exp_estimate
    from mqnative.measure.uncertainty import Resamples, mean_estimate

    n_chunks = len(means.kld)
    resamples = Resamples.of(n_chunks)
    row: dict[str, Any] = {"tensor": pair[0], "type": pair[1], "bpw": qtype(pair[1]).bpw}
    if "kld" in metric:
        kld = mean_estimate(means.kld[:, None], resamples)
        row |= {"kld_mean": kld.value, "kld_se": kld.se, "kld_ci95": kld.ci95}
    if "ppl" in metric:
        ppl = exp_estimate(mean_estimate(means.nll[:, None], resamples))
        ratio = exp_estimate(mean_estimate((means.nll - means.nll_ref)[:, None], resamples))
        row |= {"ppl": ppl.value, "ppl_se": ppl.se, "ppl_ci95": ppl.ci95}
        row |= {"ppl_ratio": ratio.value, "ppl_ratio_se": ratio.se, "ppl_ratio_ci95": ratio.ci95}
    return row | {"n_chunks": n_chunks, "n_tokens": n_chunks * n_scored}


def _print(rows: list[dict[str, Any]], metric: tuple[str, ...]) -> None:
    from rich.table import Table

    from mqnative.app.output import console

    table = Table(
        "tensor", "type", box=None, title="one tensor swapped, all others whole", title_justify="left"
    )
    columns = {
        "kld": (("KLD, nats/token", "95 %"), ("kld_mean", "kld_ci95"), 6),
        "ppl": (("PPL ratio", "95 %"), ("ppl_ratio", "ppl_ratio_ci95"), 5),
    }
    for name in metric:
        for title in columns[name][0]:
            table.add_column(title, justify="right")
    for row in rows:
        cells = []
        for name in metric:
            _, (value, interval), digits = columns[name]
            low, high = row[interval]
            cells += [f"{row[value]:.{digits}f}", f"{low:.{digits}f} .. {high:.{digits}f}"]
        table.add_row(row["tensor"], row["type"], *cells)
    console().print(table)
