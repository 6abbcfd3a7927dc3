"""``mqnative compare``: files side by side on the same tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import (
    PATH,
    chunks_option,
    ctx_option,
    force_option,
    hub_options,
    json_option,
    study_options,
    texts_option,
)

if TYPE_CHECKING:
    from mqnative.jobs.verify import Judged
    from mqnative.measure.study import Compute
    from mqnative.report.summary import Report


@click.command(
    short_help="Compare files with the unquantized model and each other.",
    epilog="Example: mqnative compare model-bf16.gguf mix.gguf model-Q4_K_M.gguf -f held-out.txt -o compare/",
)
@click.argument("reference", type=PATH)
@click.argument("candidates", type=PATH, nargs=-1, required=True)
@hub_options
@texts_option
@click.option("-o", "--output", type=PATH, help="Folder for report.html, report.md and report.json.")
@ctx_option
@chunks_option
@study_options
@force_option
@long_command
@json_option
def compare(
    reference: Path,
    candidates: tuple[Path, ...],
    texts: tuple[Path, ...],
    output: Path | None,
    n_ctx: int,
    chunks: int | None,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Measure CANDIDATES against REFERENCE on texts; differences from the first candidate are paired.

    All files are scored on the same tokens, in one pass. Every token's scores are kept, so that a file that
    was measured before is compared with a new one at no cost.
    """
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, console, print_json
    from mqnative.core.model import Model
    from mqnative.formats.atomic import check_output
    from mqnative.formats.gguf import GGUFFile
    from mqnative.jobs.verify import judge, text_rows
    from mqnative.measure.corpus import read_text, require_same_tokens
    from mqnative.measure.domains import by_text, read_texts
    from mqnative.measure.stored_files import score_files
    from mqnative.measure.study import Study
    from mqnative.report.jsonform import to_json
    from mqnative.report.text import print_text
    from mqnative.store import Store

    if output is not None and not output.is_dir():
        check_output(output, force=force)
    for text in texts:
        read_text(text)
    reference, candidates = local_model(reference), tuple(map(local_model, candidates))
    for path in candidates:
        GGUFFile.open(path).close()
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(reference, store, compute=compute, monitor=monitor) as study,
    ):
        read = read_texts(study.model, texts, n_ctx=n_ctx, chunks=chunks)

        def check(model: Model) -> None:
            require_same_tokens(read.corpus, read_texts(model, texts, n_ctx=n_ctx, chunks=chunks).corpus)

        files = {str(path): path for path in candidates}
        scores = score_files(study, "evaluate", read.corpus, files, check)
    report = _report(reference, candidates, judge(scores, str(candidates[0]), n_ctx), read.names)
    if len(texts) > 1:
        named = {name: scores[str(path)] for path, name in zip(candidates, _names(candidates), strict=True)}
        report = replace(report, texts=text_rows(named, read))
    if output is not None:
        _write(output, report, force=force)
    if as_json:
        domains = {name: by_text(s, read) for name, s in scores.items()} if len(texts) > 1 else {}
        print_json(to_json(report) | ({"by_text": domains} if domains else {}))
    else:
        print_text(report, console())


def _names(candidates: tuple[Path, ...]) -> list[str]:
    """The files' names, with their folders where two are called the same."""
    names = [path.name for path in candidates]
    return [
        name if names.count(name) == 1 else str(path) for path, name in zip(candidates, names, strict=True)
    ]


def _report(
    reference: Path, candidates: tuple[Path, ...], judged: dict[str, Judged], texts: tuple[str, ...]
) -> Report:
    from mqnative.formats.gguf import GGUFFile
    from mqnative.report.summary import Figures, MixRow, Report

    rows = []
    for i, (path, name) in enumerate(zip(candidates, _names(candidates), strict=True)):
        with GGUFFile.open(path) as file:
            size, bpw = file.file_bytes, file.bpw
        found = judged[str(path)]
        difference = found.difference
        rows.append(
            MixRow(
                name,
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
        provenance={"text": ", ".join(texts)},
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
