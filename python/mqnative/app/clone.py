"""``mqnative clone``: another model's mix on this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import (
    PATH,
    ctx_option,
    force_option,
    hub_options,
    imatrix_option,
    json_option,
    study_options,
)

if TYPE_CHECKING:
    from mqnative.jobs.main_job import Finished
    from mqnative.measure.study import Compute


@click.command(
    short_help="Build and verify another model's mix on a finetune.",
    epilog="Example: mqnative clone out/manifest.json finetune-bf16.gguf --calib calibration.txt -o clone/",
)
@click.argument("mix", type=PATH, metavar="MANIFEST")
@click.argument("model", type=PATH)
@hub_options
@click.option("-o", "--output", type=PATH, required=True, help="Folder for model, recipe and report.")
@click.option("--calib", type=PATH, help="Calibration text; default: the built-in one.")
@click.option(
    "--eval", "evaluation", type=PATH, help="Held-out text; default: a part of the calibration text."
)
@imatrix_option
@click.option("--artifact", help="Which file of a clone config with several.")
@click.option(
    "--missing",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Tensors of the manifest that MODEL lacks.",
)
@click.option(
    "--extra",
    type=click.Choice(["base", "keep", "refuse"]),
    default="base",
    show_default=True,
    help="Tensors of MODEL that the manifest does not name: give them the base, keep their type, or refuse.",
)
@click.option("--base", help="The type of extra tensors; default: the recipe's base, or Q8_0.")
@click.option(
    "--verify-chunks",
    type=click.IntRange(min=2),
    help="Held-out chunks; default: until +-3 %, at least 20.",
)
@ctx_option
@study_options
@force_option
@long_command
@json_option
def clone(
    mix: Path,
    model: Path,
    output: Path,
    calib: Path | None,
    evaluation: Path | None,
    imatrix_path: Path | None,
    artifact: str | None,
    missing: str,
    extra: str,
    base: str | None,
    verify_chunks: int | None,
    n_ctx: int,
    compute: Compute,
    force: bool,
    as_json: bool,
) -> None:
    """Give MODEL the types of MANIFEST, with an imatrix of its own, and measure what that costs it.

    MANIFEST is a manifest, a recipe, a published clone config, or a GGUF by anyone. There is no search; the
    parent is named in all that is written.
    """
    from mqnative.app.models import local_model, shown_model
    from mqnative.app.output import ProgressMonitor
    from mqnative.builtin import CALIB_TEXT, EVAL_TEXT
    from mqnative.hybrids.carry import Policy
    from mqnative.jobs.clone import CloneOptions
    from mqnative.jobs.publish_clone import clone as run_job

    if calib is None and evaluation is not None:
        raise click.UsageError("--eval needs --calib; without both, the built-in texts are used")
    texts = (CALIB_TEXT, EVAL_TEXT) if calib is None else (calib, evaluation)
    options = CloneOptions(
        Policy(missing, extra, base),  # type: ignore[arg-type] # choices of the options above
        imatrix_path,
        n_ctx,
        verify_chunks,
        compute,
    )
    command = f"mqnative clone {mix.name} {shown_model(model)}" + (f" --calib {calib.name}" if calib else "")
    command += (f" --eval {evaluation.name}" if evaluation else "") + " -o OUT"
    reference = local_model(model)
    with ProgressMonitor() as monitor:
        done = run_job(
            mix,
            reference,
            *texts,
            output,
            options,
            artifact=artifact,
            command=command,
            force=force,
            monitor=monitor,
        )
    _tell(done, output, as_json=as_json)


def _tell(done: Finished, output: Path, *, as_json: bool) -> None:
    from mqnative.app.output import console, print_json
    from mqnative.report.jsonform import to_json
    from mqnative.report.text import print_text

    extra = done.manifest["extra"]
    if extra:
        shown = ", ".join(f"{name}: {t}" for name, t in list(extra.items())[:3])
        click.echo(f"warning: {len(extra)} tensors not in the manifest follow the base: {shown}", err=True)
    if as_json:
        paths = {
            "model_path": str(done.model_path),
            "recipe_path": str(output / "recipe.yaml"),
            "manifest_path": str(output / "manifest.json"),
            "report_path": str(output / "report.html"),
            "files": [str(output / name) for name in done.manifest["files"]],
            "launch_flags": [],
            "reused": done.reused,
            "parent": done.manifest["parent"],
            "missing": done.manifest["missing"],
            "extra": extra,
        }
        report = to_json(done.report)
        tensors = [{k: v for k, v in t.items() if k != "curve"} for t in report["tensors"]]
        print_json(paths | report | {"tensors": tensors})
        return
    out = console()
    print_text(done.report, out)
    out.print(f"\nmodel   {done.model_path}\nreport  {output / 'report.html'}")
