"""``mqnative hybrids``: the mixes of a model that are worth their size, as a release folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import (
    PATH,
    ctx_option,
    force_option,
    json_option,
    model_argument,
    study_options,
    type_list,
)
from mqnative.app.sizes import Size

if TYPE_CHECKING:
    from mqnative.jobs.hybrids.request import External, HybridOptions
    from mqnative.measure.study import Compute
    from mqnative.solve.constraints import Constraints


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    return tuple(Size().convert(text, param, ctx) for text in _names(ctx, param, value))


@click.command(
    short_help="Mix, judge and publish the files worth their size.",
    epilog="Example: mqnative hybrids model-bf16.gguf --calib text.txt --eval held-out.txt -o release/",
)
@model_argument
@click.option(
    "--external",
    "externals",
    multiple=True,
    metavar="FILE|REPO",
    help="Others' mixes as baselines: GGUF, recipe, manifest, org/name, org/name/file.gguf; repeatable.",
)
@click.option(
    "--presets", callback=_names, help="llama.cpp's presets as baselines, comma-separated; default: 20."
)
@click.option(
    "--sizes",
    callback=_sizes,
    help="Sizes that must have a file, a baseline where no hybrid is better: 2.4GiB,3GB.",
)
@click.option("--calib", type=PATH, help="Calibration text; default: the built-in one.")
@click.option(
    "--eval", "evaluation", type=PATH, help="Held-out text; default: a part of the calibration text."
)
@click.option("-o", "--output", type=PATH, help="The release folder.")
@click.option("--types", callback=type_list, help="Types allowed, comma-separated; default: all ggml writes.")
@click.option("--pin", "pins", multiple=True, metavar="PATTERN=TYPE", help="Exactly this type; repeatable.")
@click.option(
    "--floor", "floors", multiple=True, metavar="PATTERN=TYPE", help="At least its bits; repeatable."
)
@click.option("--collapse", type=click.IntRange(min=1), help="Publish at most so many files.")
@click.option("--max-bytes", type=Size(), help="Publish no larger file: 8GiB.")
@click.option("--providers", callback=_names, help="Publish only files of these: LM, MQ, UD, EXT.")
@click.option(
    "--spacing",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Files whose sizes differ by less, as a share, are too close.",
)
@click.option(
    "--probe-chunks",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="At most, for each probe and sample.",
)
@click.option(
    "--select-chunks",
    type=click.IntRange(min=2),
    default=24,
    show_default=True,
    help="At most, that mixes are judged on.",
)
@click.option(
    "--verify-chunks",
    type=click.IntRange(min=2),
    help="Held-out chunks; default: until +-3 %, at least 20.",
)
@click.option(
    "--refine",
    "refine_rounds",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="At most so many rounds of moves measured on each candidate that would survive.",
)
@ctx_option
@study_options
@force_option
@long_command
@json_option
def hybrids(
    model: Path,
    externals: tuple[str, ...],
    presets: tuple[str, ...],
    sizes: tuple[int, ...],
    calib: Path | None,
    evaluation: Path | None,
    output: Path | None,
    types: tuple[str, ...],
    pins: tuple[str, ...],
    floors: tuple[str, ...],
    collapse: int | None,
    max_bytes: int | None,
    providers: tuple[str, ...],
    spacing: float,
    probe_chunks: int,
    select_chunks: int,
    verify_chunks: int | None,
    refine_rounds: int,
    n_ctx: int,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Judge presets, others' mixes and our own hybrids of MODEL together, and publish those worth their size.

    The release says for each file why it is there and what it replaced, and for each that is not there who
    took its place and by how much. Nothing is written before it has survived. A run that was stopped goes on
    where it was when the same command is given again; a finished one reports again.
    """
    if calib is None and evaluation is not None:
        raise click.UsageError("--eval needs --calib; without both, the built-in texts are used")
    if output is None:
        raise click.UsageError("give the release folder with -o")
    from mqnative.jobs.hybrids.request import PRESETS, HybridOptions

    options = HybridOptions(
        presets=presets or PRESETS,
        sizes=sizes,
        n_ctx=n_ctx,
        targets=types,
        probe_chunks=probe_chunks,
        select_chunks=select_chunks,
        verify_chunks=verify_chunks,
        refine_rounds=refine_rounds,
        spacing=spacing,
        collapse=collapse,
        max_bytes=max_bytes,
        providers=tuple(p.upper() for p in providers),
        constraints=_constraints(pins, floors),
        compute=compute,
        externals=tuple(found for text in externals for found in _external(text)),
    )
    options.check()
    _run(model, calib, evaluation, output, options, force=force, as_json=as_json)


def _constraints(pins: tuple[str, ...], floors: tuple[str, ...]) -> Constraints:
    from mqnative.solve.constraints import Constraints
    from mqnative.solve.limits import Floor, Pin

    limits: list[Any] = []
    for kind, option, texts in ((Pin, "--pin", pins), (Floor, "--floor", floors)):
        for text in texts:
            match, equals, qtype = text.rpartition("=")
            if not (match and equals and qtype):
                raise click.BadParameter(f"{text!r} is not PATTERN=TYPE", param_hint=option)
            limits.append(kind(match, qtype))
    return Constraints(tuple(limits))


def _external(text: str) -> list[External]:
    """Another's file on this machine, or those of a repository on the hub, of which headers are enough."""
    from mqnative.app.models import hub_access
    from mqnative.app.output import ProgressMonitor
    from mqnative.errors import SourceError
    from mqnative.hybrids.remote import learn_repository
    from mqnative.jobs.hybrids.request import External
    from mqnative.source.argument import FolderPath, HubModel, parse_source
    from mqnative.source.hub import Hub

    source = parse_source(text)
    if isinstance(source, FolderPath):
        raise SourceError(f"--external {text} is a folder; give one of its files", path=text)
    if isinstance(source, HubModel):
        with ProgressMonitor() as monitor:
            found = learn_repository(source, Hub(hub_access()), monitor=monitor)
        return [External(Path(name), f"{source.repo}/{name}", config) for name, config in found.items()]
    return [External(source.path, text)]


def _run(
    model: Path,
    calib: Path | None,
    evaluation: Path | None,
    output: Path,
    options: HybridOptions,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from mqnative.app.hybrids_output import command_text, release_json
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, console, print_json
    from mqnative.builtin import CALIB_TEXT, EVAL_TEXT
    from mqnative.jobs.hybrids.run import hybrids as run_job
    from mqnative.report.hybrid_pages import print_text

    texts = (CALIB_TEXT, EVAL_TEXT) if calib is None else (calib, evaluation)
    command = command_text(model, calib, evaluation, options)
    path = local_model(model)
    with ProgressMonitor() as monitor:
        done = run_job(path, *texts, output, options, command=command, force=force, monitor=monitor)
    if as_json:
        print_json(release_json(done, output))
        return
    out = console()
    print_text(done.report, out)
    out.print(f"\nrelease {output}\ncard    {output / 'README.md'}\nreport  {output / 'report.html'}")
