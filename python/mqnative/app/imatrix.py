"""``mqnative imatrix``: collect an importance matrix."""

from __future__ import annotations

from pathlib import Path

import click

from mqnative.app.options import (
    chunks_option,
    compute_options,
    ctx_option,
    force_option,
    json_option,
    model_argument,
    text_option,
)


@click.command(
    short_help="Collect an importance matrix from a text.",
    epilog="Example: mqnative imatrix model-bf16.gguf -f calibration.txt -o imatrix.gguf",
)
@model_argument
@text_option
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where to write it.")
@ctx_option
@chunks_option
@click.option(
    "--process-output/--no-process-output", default=True, help="Measure the output head too (default)."
)
@click.option("--legacy", is_flag=True, help="Write the older .dat form that ik_llama.cpp reads.")
@compute_options
@force_option
@json_option
def imatrix(
    model: Path,
    text: Path,
    output: Path,
    n_ctx: int,
    chunks: int | None,
    process_output: bool,
    legacy: bool,
    n_threads: int | None,
    device: str,
    n_gpu_layers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run the unquantized MODEL over a text and write which activations matter.

    The result equals llama-imatrix's; llama-quantize and mqnative build take it.
    """
    from mqnative.app.output import ProgressMonitor, console, facts_table, print_json
    from mqnative.core.model import Model
    from mqnative.errors import OutputError
    from mqnative.formats.atomic import check_output
    from mqnative.formats.imatrix import write_imatrix
    from mqnative.measure.corpus import read_corpus, read_text
    from mqnative.measure.imatrix import collect_imatrix

    check_output(output, force=force)
    if output.exists() and model.exists() and output.samefile(model):
        raise OutputError(
            f"cannot write {output}: it is the model itself, choose another name", path=str(output)
        )
    read_text(text)
    with (
        ProgressMonitor() as monitor,
        Model(
            model, device=device, n_gpu_layers=n_gpu_layers, n_threads=n_threads, monitor=monitor
        ) as loaded,
    ):
        corpus = read_corpus(loaded, text, n_ctx=n_ctx)
        corpus = corpus if chunks is None else corpus.head(chunks)
        found = collect_imatrix(loaded, corpus, process_output=process_output, monitor=monitor)
    write_imatrix(output, found, legacy=legacy, force=force)
    unseen = [name for name, entry in found.entries.items() if not entry.counts.all()]
    facts = {
        "imatrix_path": str(output),
        "size_bytes": output.stat().st_size,
        "n_entries": len(found.entries),
        "n_chunks": corpus.n_chunks,
        "n_ctx": n_ctx,
        "n_tokens": corpus.n_chunks * n_ctx,
        "content_sha256": found.content_hash(),
        "partly_unseen": unseen,
    }
    if as_json:
        print_json(facts)
        return
    shown = {
        "tensors": len(found.entries),
        "text": f"{corpus.n_chunks} chunks of {n_ctx} tokens from {text}",
        "experts never seen": f"in {len(unseen)} tensor(s)" if unseen else "none",
    }
    console().print(facts_table(str(output), shown))
