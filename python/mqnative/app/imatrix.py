"""``mqnative imatrix``: collect an importance matrix, from several texts and files if need be."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import (
    PATH,
    chunks_option,
    compute_options,
    ctx_option,
    force_option,
    json_option,
    model_argument,
)

if TYPE_CHECKING:
    from mqnative.measure.corpus import Corpus
    from mqnative.measure.partial_sums import PartialSums


class WeightedText(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A text and, after the last ``=``, its weight; a file that has the whole name goes first."""

    name = "FILE[=W]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, float | None]:
        """The path, and the weight or None."""
        path, equals, suffix = str(value).rpartition("=")
        weight = _number(suffix) if equals and path and not os.path.lexists(value) else None
        if weight is None:
            return Path(PATH.convert(value, param, ctx)), None
        if not 0.0 < weight < math.inf:
            self.fail(f"the weight of {path} is {suffix}, expected a positive number", param, ctx)
        return Path(PATH.convert(path, param, ctx)), weight


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@click.command(
    short_help="Collect an importance matrix from a text.",
    epilog="Example: mqnative imatrix model-bf16.gguf -f calibration.txt -o imatrix.gguf",
)
@model_argument
@click.option(
    "-f", "--file", "texts", type=WeightedText(), multiple=True, help="A text, and its weight; repeatable."
)
@click.option(
    "--in-file",
    "in_files",
    type=PATH,
    multiple=True,
    help="Add an existing imatrix file (GGUF or legacy); repeatable.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where to write it.")
@ctx_option
@chunks_option
@click.option(
    "--process-output/--no-process-output", default=True, help="Measure the output head too (default)."
)
@click.option("--legacy", is_flag=True, help="Write the older .dat form that ik_llama.cpp reads.")
@compute_options
@force_option
@long_command
@json_option
def imatrix(
    model: Path,
    texts: tuple[tuple[Path, float | None], ...],
    in_files: tuple[Path, ...],
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

    Several texts are added up, so that a longer one counts more. If any has a weight, as in
    -f code.txt -f prose.txt=2, their mean squared activations are averaged with these weights instead (1
    where none is given), whatever their length. --chunks limits every text.

    Files given with --in-file are added to that by their counts, as llama-imatrix does; without a text they
    are added up alone, and of MODEL only the header is read.
    """
    from mqnative.app.imatrix_tables import coverage_facts, coverage_json
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, console, facts_table, print_json
    from mqnative.core.model import Model
    from mqnative.formats.atomic import check_output
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import write_imatrix
    from mqnative.measure.blend import add_up, read_in_files
    from mqnative.measure.corpus import cut, read_text
    from mqnative.measure.coverage import coverage
    from mqnative.measure.imatrix import collect_texts

    if not texts and not in_files:
        raise click.UsageError("give a text with -f / --file, or imatrix files to add up with --in-file")
    check_output(output, force=force)
    _refuse_input(output, {"the model": [model], "a text": [path for path, _ in texts]})
    contents = [read_text(path) for path, _ in texts]
    model = local_model(model)
    parts = []
    if in_files:
        with GGUFFile.open(model) as file:
            shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
        parts.append(read_in_files(in_files, chunk_size=n_ctx, shapes=shapes))
    corpora: list[Corpus] = []
    partials: list[PartialSums | None] = []
    if texts:
        with (
            ProgressMonitor() as monitor,
            Model(
                model, device=device, n_gpu_layers=n_gpu_layers, n_threads=n_threads, monitor=monitor
            ) as loaded,
        ):
            for (path, _), content in zip(texts, contents, strict=True):
                corpus = cut(loaded, content, n_ctx=n_ctx, source=path.name)
                corpora.append(corpus if chunks is None else corpus.head(chunks))
            weighted = [(corpus, weight) for corpus, (_, weight) in zip(corpora, texts, strict=True)]
            partials = _partials(model, corpora, device, n_threads, process_output=process_output)
            parts.append(
                collect_texts(
                    loaded, weighted, process_output=process_output, partials=partials, monitor=monitor
                )
            )
    found = add_up(parts)
    write_imatrix(output, found, legacy=legacy, force=force)
    for partial in filter(None, partials):
        partial.remove()
    covered = coverage(found, _quantizable(model))
    n_chunks = sum(corpus.n_chunks for corpus in corpora)
    facts = {
        "imatrix_path": str(output),
        "size_bytes": output.stat().st_size,
        "n_entries": len(found.entries),
        "n_chunks": n_chunks,
        "n_ctx": n_ctx,
        "n_tokens": n_chunks * n_ctx,
        "texts": [
            {"path": str(path), "weight": weight, "n_chunks": corpus.n_chunks}
            for (path, weight), corpus in zip(texts, corpora, strict=True)
        ],
        "in_files": [str(path) for path in in_files],
        "content_sha256": found.content_hash(),
        "partly_unseen": [name for name, entry in found.entries.items() if not entry.counts.all()],
        "coverage": coverage_json(covered),
    }
    if as_json:
        print_json(facts)
        return
    lines = [
        f"{corpus.n_chunks} chunks of {n_ctx} tokens from {path}" + ("" if w is None else f", weight {w:g}")
        for (path, w), corpus in zip(texts, corpora, strict=True)
    ]
    shown = {
        "tensors": len(found.entries),
        **({"text": "\n".join(lines)} if lines else {}),
        **({"added": "\n".join(map(str, in_files))} if in_files else {}),
        **coverage_facts(covered),
    }
    console().print(facts_table(str(output), shown))


def _partials(
    model: Path, corpora: list[Corpus], device: str, n_threads: int | None, *, process_output: bool
) -> list[PartialSums | None]:
    """Where a killed run goes on from, for each text; None where there is no store to know the model by."""
    from mqnative.core.native import thread_count
    from mqnative.errors import StoreError
    from mqnative.formats.gguf import GGUFFile
    from mqnative.measure.partial_sums import PartialSums
    from mqnative.measure.study import identity_of
    from mqnative.store import Store

    try:
        with Store.open() as store, GGUFFile.open(model) as file:
            identity = identity_of(store, file, thread_count(n_threads)).model
            n_weights = file.n_weights
    except StoreError:
        return [None] * len(corpora)
    return [
        PartialSums.of(identity, n_weights, corpus, device, process_output=process_output)
        for corpus in corpora
    ]


def _refuse_input(output: Path, inputs: dict[str, list[Path]]) -> None:
    from mqnative.errors import OutputError

    for what, paths in inputs.items():
        for path in paths:
            if output.exists() and path.exists() and output.samefile(path):
                raise OutputError(
                    f"cannot write {output}: it is {what} itself, choose another name", path=str(output)
                )


def _quantizable(model: Path) -> list[str]:
    """The tensors of a model that should have importances."""
    from mqnative.build.plan import model_tensors
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix_data import EMBEDDINGS

    with GGUFFile.open(model) as file:
        tensors = model_tensors(file)
    return [name for name, tensor in tensors.items() if tensor.quantizable and name not in EMBEDDINGS]
