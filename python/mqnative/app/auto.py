"""``mqnative auto`` and ``mqnative demo``: the main job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.demands import constraint_options, keep_tied_option, method_options
from mqnative.app.long_command import long_command
from mqnative.app.memory_options import memory_options
from mqnative.app.options import (
    PATH,
    ctx_option,
    fast_option,
    force_option,
    json_option,
    model_argument,
    study_options,
)
from mqnative.app.sizes import Size

if TYPE_CHECKING:
    from mqnative.jobs.choose import Importance
    from mqnative.jobs.memory_budget import MemoryBudget
    from mqnative.jobs.options import Options
    from mqnative.measure.study import Compute
    from mqnative.solve.constraints import Constraints
    from mqnative.solve.solvers import Settings

_REFINE_ROUNDS = 2
_DEMO_BPW = 4.5
# Enough text for a clear answer in under two minutes on two cores; refinement would gain little here.
_DEMO_PROBE_CHUNKS = 6
_DEMO_SELECT_CHUNKS = 4
_DEMO_REFINE_ROUNDS = 0
_DEMO_VERIFY_CHUNKS = 20


def effort_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much text each step uses."""
    verify = click.option(
        "--verify-chunks",
        type=click.IntRange(min=2),
        help="Held-out chunks; default: until +-3 %, at least 20; with --fast 20.",
    )
    probes = click.option(
        "--probe-chunks",
        type=click.IntRange(min=2),
        default=16,
        show_default=True,
        help="At most, for each.",
    )
    precision = click.option(
        "--precision",
        type=click.FloatRange(0, 1),
        default=0.1,
        show_default=True,
        help="Probe with fewer chunks where the 95 % interval is this narrow already, as a share; 0: all.",
    )
    refine = click.option(
        "--refine",
        "refine_rounds",
        type=click.IntRange(min=0),
        help="At most so many rounds of moves measured on the solved mix; default: 2, with --like 0.",
    )
    return verify(probes(precision(refine(command))))


def incumbent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Others' mixes as rivals, and a sibling's measurements."""
    incumbent = click.option(
        "--incumbent",
        "incumbents",
        type=PATH,
        multiple=True,
        help="Another's mix (recipe, manifest, GGUF) to measure as a rival; repeatable.",
    )
    like = click.option(
        "--like", type=PATH, help="A sibling's manifest: its damage table is used, checked by a few probes."
    )
    return incumbent(like(command))


@click.command(
    short_help="Find, build and prove the best mix of a size.",
    epilog="Example: mqnative auto model-bf16.gguf --bpw 4.5 --calib calibration.txt -o out/",
)
@model_argument
@click.option("--size", "size_bytes", type=Size(), help="Budget for the whole file: 2.4GiB, 500MB, bytes.")
@click.option("--bpw", type=click.FloatRange(min=0, min_open=True), help="Budget in bits per weight.")
@click.option("--calib", type=PATH, required=True, help="Calibration text.")
@click.option(
    "--eval", "evaluation", type=PATH, help="Held-out text; default: a part of the calibration text."
)
@click.option("-o", "--output", type=PATH, required=True, help="Folder for model, recipe and report.")
@method_options
@constraint_options
@keep_tied_option
@fast_option
@click.option(
    "--gptq", is_flag=True, help="Round with error feedback on the calibration text, if that does better."
)
@incumbent_options
@ctx_option
@effort_options
@study_options
@memory_options
@force_option
@long_command
@json_option
def auto(
    model: Path,
    size_bytes: int | None,
    bpw: float | None,
    calib: Path,
    evaluation: Path | None,
    output: Path,
    method: str,
    settings: Settings,
    importance: Importance,
    constraints: Constraints,
    targets: tuple[str, ...],
    keep_tied: bool,
    fast: bool,
    gptq: bool,
    incumbents: tuple[Path, ...],
    like: Path | None,
    n_ctx: int,
    memory: MemoryBudget | None,
    probe_chunks: int,
    precision: float,
    refine_rounds: int | None,
    verify_chunks: int | None,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on a text, choose the best type for every tensor under a budget, build, verify, report.

    Without a budget, the knee of the frontier is taken, and the report says why. A run that was stopped goes
    on where it was when the same command is given again; a finished one reports again.
    """
    if size_bytes is not None and bpw is not None:
        raise click.UsageError("give at most one of --size and --bpw")
    from mqnative.app.demand_text import command_words
    from mqnative.app.models import shown_model
    from mqnative.jobs.options import Options

    if refine_rounds is None:
        # Measuring moves costs more than all the probes that a sibling's table saves.
        refine_rounds = _REFINE_ROUNDS if like is None else 0
    options = Options(
        size_bytes,
        bpw,
        n_ctx,
        targets,
        probe_chunks=probe_chunks,
        precision=precision,
        verify_chunks=verify_chunks,
        fast=fast,
        refine_rounds=refine_rounds,
        compute=compute,
        incumbents=incumbents,
        like=like,
        constraints=constraints,
        method=method,
        settings=settings,
        importance=importance,
        keep_tied=keep_tied,
        memory=memory,
        gptq=gptq,
    )
    budget = "" if size_bytes is None else f" --size {size_bytes}"
    budget = budget if bpw is None else f" --bpw {bpw:g}"
    budget += "" if memory is None else f" {memory.text}"
    texts = f"--calib {calib.name}" + (f" --eval {evaluation.name}" if evaluation else "")
    probes = (
        "--fast"
        if fast
        else f"--probe-chunks {probe_chunks} --precision {precision:g} --refine {refine_rounds}"
    )
    context = "" if memory is not None else f"--ctx {n_ctx} "
    effort = f"{context}{probes}{command_words(method, settings, importance, constraints)}"
    others = "".join(f" --incumbent {path.name}" for path in incumbents)
    others += f" --like {like.name}" if like else ""
    others += " --keep-tied" if keep_tied else ""
    others += " --gptq" if gptq else ""
    command = f"mqnative auto {shown_model(model)} {texts}{budget} {effort}{others} -o OUT"
    _run(model, calib, evaluation, output, options, command, force=force, as_json=as_json)


@click.command(
    short_help="Run the whole job on the built-in model.",
    epilog="Example: mqnative demo",
)
@click.option(
    "-o", "--output", type=PATH, default="mqnative-demo", show_default=True, help="Folder for the results."
)
@click.option("--bpw", type=click.FloatRange(min=0, min_open=True), default=_DEMO_BPW, show_default=True)
@study_options
@force_option
@long_command
@json_option
def demo(
    output: Path,
    bpw: float,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Run `mqnative auto` on the built-in 8 M model and texts: measure, choose, build, verify, report."""
    from mqnative.builtin import CALIB_TEXT, EVAL_TEXT, MODEL
    from mqnative.jobs.options import Options

    options = Options(
        None,
        bpw,
        probe_chunks=_DEMO_PROBE_CHUNKS,
        select_chunks=_DEMO_SELECT_CHUNKS,
        refine_rounds=_DEMO_REFINE_ROUNDS,
        verify_chunks=_DEMO_VERIFY_CHUNKS,
        compute=compute,
    )
    command = f"mqnative demo --bpw {bpw:g}"
    _run(MODEL, CALIB_TEXT, EVAL_TEXT, output, options, command, force=force, as_json=as_json)


def _run(
    model: Path,
    calib: Path,
    evaluation: Path | None,
    output: Path,
    options: Options,
    command: str,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from mqnative.app.memory_table import print_memory
    from mqnative.app.models import local_reference
    from mqnative.app.output import ProgressMonitor, console, print_json
    from mqnative.jobs.main_job import auto as run_job
    from mqnative.measure.corpus import read_text
    from mqnative.report.jsonform import to_json
    from mqnative.report.text import print_text

    # What is wrong with these shows before anything is fetched.
    for text in (calib, evaluation):
        if text is not None:
            read_text(text)
    source = local_reference(model)
    with ProgressMonitor() as monitor:
        done = run_job(
            source.path,
            calib,
            evaluation,
            output,
            options,
            mmproj=source.mmproj,
            origin="" if source.origin is None else str(source.origin),
            command=command,
            force=force,
            monitor=monitor,
        )
    memory = done.manifest.get("memory")
    launch_flags = list(memory["launch_flags"]) if memory else []
    launch_flags += [] if source.mmproj is None else ["--mmproj", str(output / source.mmproj.name)]
    if as_json:
        paths = {
            "model_path": str(done.model_path),
            "recipe_path": str(output / "recipe.yaml"),
            "manifest_path": str(output / "manifest.json"),
            "report_path": str(output / "report.html"),
            "files": [str(output / name) for name in done.manifest["files"]],
            "launch_flags": launch_flags,
            "memory": memory,
            "reused": done.reused,
        }
        print_json(_without_curves(to_json(done.report)) | paths)
        return
    out = console()
    print_text(done.report, out)
    if memory:
        print_memory(out, memory)
    out.print(f"\nmodel   {done.model_path}\nreport  {output / 'report.html'}")


def _without_curves(report: dict[str, Any]) -> dict[str, Any]:
    """The report's figures; the damage curves are in report.json."""
    tensors = [{k: v for k, v in t.items() if k != "curve"} for t in report["tensors"]]
    return report | {"tensors": tensors}
