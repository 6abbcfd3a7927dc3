"""``mqnative compare``: files side by side on the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.options import (
    PATH,
    chunks_option,
    compute_options,
    ctx_option,
    force_option,
    json_option,
    text_option,
)

if TYPE_CHECKING:
    from mqnative.jobs.verify import Judged
    from mqnative.report.summary import Report


@click.command(
    short_help="Compare files with the unquantized model and each other.",
    epilog="Example: mqnative compare model-bf16.gguf mix.gguf model-Q4_K_M.gguf -f held-out.txt -o compare/",
)
@click.argument("reference", type=PATH)
@click.argument("candidates", type=PATH, nargs=-1, required=True)
@text_option
@click.option("-o", "--output", type=PATH, help="Folder for report.html, report.md and report.json.")
@ctx_option
@chunks_option
@compute_options
@force_option
@json_option
def compare(
    reference: Path,
    candidates: tuple[Path, ...],
    text: Path,
    output: Path | None,
    n_ctx: int,
    chunks: int | None,
    n_threads: int | None,
    device: str,
    n_gpu_layers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure CANDIDATES against REFERENCE on a text; differences from the first candidate are paired.

    All files are scored on the same tokens, in the same order.
    """
    from mqnative.app.output import ProgressMonitor, console, print_json
    from mqnative.core.model import Model
    from mqnative.formats.atomic import check_output
    from mqnative.formats.gguf import GGUFFile
    from mqnative.jobs.verify import judge
    from mqnative.measure.corpus import read_corpus, read_text
    from mqnative.measure.evaluate import evaluate
    from mqnative.report.jsonform import to_json
    from mqnative.report.text import print_text

    if output is not None and not output.is_dir():
        check_output(output, force=force)
    read_text(text)
    for path in candidates:
        GGUFFile.open(path).close()
    scores = {}
    with ProgressMonitor() as monitor:

        def load(path: Path) -> Model:
            return Model(path, device=device, n_gpu_layers=n_gpu_layers, n_threads=n_threads, monitor=monitor)

        with load(reference) as ref:
            corpus = read_corpus(ref, text, n_ctx=n_ctx)
            corpus = corpus if chunks is None else corpus.head(chunks)
            for path in candidates:
                with load(path) as candidate:
                    _, scores[str(path)] = evaluate(candidate, corpus, ref, monitor=monitor)
    report = _report(reference, candidates, judge(scores, str(candidates[0]), n_ctx), text)
    if output is not None:
        _write(output, report, force=force)
    if as_json:
        print_json(to_json(report))
    else:
        print_text(report, console())


def _report(reference: Path, candidates: tuple[Path, ...], judged: dict[str, Judged], text: Path) -> Report:
    from mqnative.formats.gguf import GGUFFile
    from mqnative.report.summary import Figures, MixRow, Report

    rows = []
    for i, path in enumerate(candidates):
        with GGUFFile.open(path) as file:
            size, bpw = file.file_bytes, file.bpw
        found = judged[str(path)]
        difference = found.difference
        rows.append(
            MixRow(
                path.name,
                "result" if i == 0 else "preset",
                size,
                bpw,
                Figures(**{n: getattr(found.figures, n) for n in Figures.__dataclass_fields__}),
                verdict=found.verdict,
                kld_difference=None if difference is None else (difference.value, *difference.ci95),
            )
        )
    return Report(
        title=f"{len(candidates)} files against {reference.name}",
        model={"file": reference.name},
        target="comparison",
        ppl_ref=judged[str(candidates[0])].figures.ppl_ref or 0.0,
        mixes=tuple(rows),
        provenance={"text": text.name},
    )


def _write(folder: Path, report: Report, *, force: bool) -> None:
    from mqnative.formats.atomic import check_output, write_text_atomic
    from mqnative.report.html import to_html
    from mqnative.report.jsonform import to_json
    from mqnative.report.markdown import to_markdown

    folder.mkdir(exist_ok=True)
    texts = {
        "report.json": json.dumps(to_json(report), indent=2) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    for name in texts:
        check_output(folder / name, force=force)
    for name, content in texts.items():
        write_text_atomic(folder / name, content)
