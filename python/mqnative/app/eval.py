"""``mqnative eval``: perplexity, and KL divergence from a reference."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import (
    chunks_option,
    compute_options,
    ctx_option,
    json_option,
    model_argument,
    texts_option,
)

if TYPE_CHECKING:
    from mqnative.measure.evaluate import Evaluation


@click.command(
    short_help="Measure perplexity and KL divergence.",
    epilog="Example: mqnative eval model-q4.gguf --reference model-bf16.gguf -f held-out.txt",
)
@model_argument
@texts_option
@click.option("--reference", type=click.Path(path_type=Path), help="The unquantized model, for the KLD.")
@ctx_option
@chunks_option
@click.option(
    "--compat", is_flag=True, help="llama-perplexity's own arithmetic, for numbers to put beside its output."
)
@compute_options
@long_command
@json_option
def evaluate_command(
    model: Path,
    texts: tuple[Path, ...],
    reference: Path | None,
    n_ctx: int,
    chunks: int | None,
    compat: bool,
    n_threads: int | None,
    device: str,
    n_gpu_layers: int | None,
    as_json: bool,
) -> None:
    """Measure MODEL on a text: perplexity, and with --reference the KL divergence from it.

    Intervals are 95 % and come from a block bootstrap over chunks; with --compat they are llama-perplexity's.
    Several texts are measured as one, with figures for each besides.
    """
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.core.model import Model
    from mqnative.formats.gguf import GGUFFile
    from mqnative.measure.corpus import read_text, require_same_tokens, require_same_vocabulary
    from mqnative.measure.domains import by_text, read_texts
    from mqnative.measure.evaluate import evaluate

    for text in texts:
        read_text(text)
    model = local_model(model)
    reference = None if reference is None else local_model(reference)
    with ExitStack() as stack:
        monitor = stack.enter_context(ProgressMonitor())

        def load(path: Path) -> Model:
            loaded = Model(
                path, device=device, n_gpu_layers=n_gpu_layers, n_threads=n_threads, monitor=monitor
            )
            return stack.enter_context(loaded)

        candidate = load(model)
        read = read_texts(candidate, texts, n_ctx=n_ctx, chunks=chunks)
        corpus = read.corpus
        other = None if reference is None else load(reference)
        if other is not None:
            require_same_vocabulary(candidate, other)
            require_same_tokens(corpus, read_texts(other, texts, n_ctx=n_ctx, chunks=chunks).corpus)
        result, scores = evaluate(
            candidate, corpus, other, mode="compat" if compat else "exact", monitor=monitor
        )
    if as_json:
        with GGUFFile.open(model) as file:
            size = file.file_bytes
        paths = {"model_path": str(model), "reference_path": None if reference is None else str(reference)}
        facts = paths | {"size_bytes": size, "text_sha256": corpus.content_hash()} | result.to_dict()
        print_json(facts | by_text(scores, read))
        return
    _print(model, result)
    _print_texts(by_text(scores, read))


def _print_texts(found: dict[str, Any]) -> None:
    if not found:
        return
    from rich.table import Table

    from mqnative.app.output import console

    table = Table("text", box=None, title="text by text", title_justify="left")
    for name in ("chunks", "PPL", "KLD", "same top token"):
        table.add_column(name, justify="right")
    for row in (*found["texts"], {"text": "mean of the texts", **found["macro"]}):
        kld, same = row.get("kld_mean"), row.get("top1_agreement")
        table.add_row(
            row["text"],
            str(row.get("n_chunks", "")),
            f"{row['ppl']:.4f}",
            "-" if kld is None else f"{kld:.6f}",
            "-" if same is None else f"{100 * same:.2f} %",
        )
    console().print(table)


def _print(model: Path, e: Evaluation) -> None:
    from mqnative.app.output import console, facts_table, with_error

    shown: dict[str, object] = {
        "text": f"{e.n_tokens:,} scored tokens in {e.n_chunks} chunks of {e.n_ctx}",
        "PPL": f"{with_error(e.ppl, e.ppl_se)}   95 % {e.ppl_ci95[0]:.4f} .. {e.ppl_ci95[1]:.4f}",
    }
    if e.kld_mean is not None and e.kld_ci95 is not None:
        low, high = e.kld_ci95
        shown |= {
            "PPL of the reference": f"{e.ppl_ref:.4f}",
            "PPL ratio": with_error(e.ppl_ratio or 0.0, e.ppl_ratio_se or 0.0, 6),
            "correlation of ln PPL": f"{100 * (e.ppl_cor_ln or 0.0):.3f} %",
            "KLD": f"{with_error(e.kld_mean, e.kld_se or 0.0, 6)}   95 % {low:.6f} .. {high:.6f}",
            "KLD median": f"{e.kld_median:.6f}",
            "KLD 90 % / 99 % / max": f"{e.kld_p90:.6f} / {e.kld_p99:.6f} / {e.kld_max:.6f}",
            "same top token": with_error(100 * (e.top1_agreement or 0), 100 * (e.top1_agreement_se or 0), 2)
            + " %",
        }
    console().print(facts_table(f"{model} ({e.mode})", shown))
