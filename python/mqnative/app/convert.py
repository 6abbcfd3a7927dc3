"""``mqnative convert``: a Hugging Face checkpoint to GGUF, straight to the types of a recipe."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import PATH, force_option, imatrix_option, json_option, model_argument

if TYPE_CHECKING:
    from mqnative.jobs.conversions import Converted


@click.command(
    short_help="Convert a Hugging Face model to GGUF, straight to a recipe's types.",
    epilog="Example: mqnative convert ./Qwen3-0.6B -r recipe.yaml --imatrix imatrix.gguf -o model-mix.gguf",
)
@model_argument
@click.option(
    "-r", "--recipe", "recipe_path", type=PATH, help="Recipe to apply; default: the reference itself."
)
@click.option("--base", help="Type of tensors that the recipe does not name.")
@imatrix_option
@click.option(
    "--outtype",
    type=click.Choice(("auto", "bf16", "f16", "f32")),
    default="auto",
    show_default=True,
    help="Type of the reference; auto: what the weights are stored as.",
)
@click.option("-o", "--output", type=PATH, help="Where to write the model.")
@click.option("--no-mmproj", is_flag=True, help="Leave out the projector for images or sound.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Let Python code of the model's authors run; some tokenizers need it.",
)
@click.option("--allow-requantize", is_flag=True, help="Accept weights that are quantized already.")
@click.option("--dry-run", is_flag=True, help="Print the plan, read and write no weights.")
@click.option(
    "-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="Default: every usable processor."
)
@force_option
@long_command
@json_option
def convert(
    model: Path,
    recipe_path: Path | None,
    base: str | None,
    imatrix_path: Path | None,
    outtype: str,
    output: Path | None,
    no_mmproj: bool,
    trust_remote_code: bool,
    allow_requantize: bool,
    dry_run: bool,
    n_threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert MODEL (a folder with config.json, or a hub id) with llama.cpp's own converter.

    With a recipe every tensor gets its type on the way: no unquantized file is written, and the bytes are
    those of converting first and `mqnative build` then. A projector for images or sound is converted beside
    the model and left as it is.
    """
    if output is None and not dry_run:
        raise click.UsageError("give --output, or --dry-run to see the plan only")
    if recipe_path is None and (imatrix_path is not None or base is not None):
        raise click.UsageError("--imatrix and --base belong to a recipe; give --recipe")
    from mqnative.app.command_job import command_job
    from mqnative.app.models import hub_access
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.jobs.convert_model import Wanted, convert_model

    wanted = Wanted(
        recipe=recipe_path,
        base=base,
        imatrix=imatrix_path,
        outtype=outtype,
        mmproj=not no_mmproj,
        trust_remote_code=trust_remote_code,
        allow_requantize=allow_requantize,
        dry_run=dry_run,
        n_threads=n_threads,
    )
    with ProgressMonitor() as monitor:
        job = command_job()
        tell = None if job is None else lambda choice: job.source_found(model, choice)
        access = hub_access()
        done = convert_model(
            model, output, wanted, access=access, force=force, monitor=monitor, on_found=tell
        )
    for note in done.notes:
        click.echo(f"note: {model}: {note}", err=True)
    if as_json:
        print_json(_json(done, recipe_path))
    else:
        _print(done)


def _json(done: Converted, recipe_path: Path | None) -> dict[str, Any]:
    files = [p for p in (done.path, done.mmproj) if p is not None]
    return {
        "model_path": None if done.path is None else str(done.path),
        "mmproj_path": None if done.mmproj is None else str(done.mmproj),
        "recipe_path": None if recipe_path is None else str(recipe_path),
        "manifest_path": None,
        "report_path": None,
        "files": [str(p) for p in files],
        "launch_flags": [] if done.mmproj is None else ["--mmproj", str(done.mmproj)],
        "reused": done.reused,
        "bpw": done.bpw,
        "bpw_file": done.bpw_file,
        **done.facts,
    }


def _print(done: Converted) -> None:
    from mqnative.app.output import console, facts_table, size_text

    facts = done.facts
    counts = Counter(t["type"] for t in facts["tensors"])
    status = "planned" if done.path is None else "already there, unchanged" if done.reused else "written"
    shown: dict[str, object] = {
        "status": status,
        "architecture": facts["architecture"],
        "size": f"{size_text(facts['size_bytes'])} ({facts['size_bytes']:,} bytes)",
        "bpw": f"{done.bpw:.3f} ({done.bpw_file:.3f} counting the file)",
        "types": "  ".join(f"{name}: {n}" for name, n in counts.most_common()),
    }
    if done.mmproj is not None:
        shown["projector"] = done.mmproj
    console().print(facts_table(str(done.path or "plan"), shown))
