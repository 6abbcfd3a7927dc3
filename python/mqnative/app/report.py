"""``mqnative report``: the report of a finished job again, in any form."""

from __future__ import annotations

from pathlib import Path

import click

from mqnative.app.options import PATH, force_option, json_option

_FORMATS = ("html", "md", "json", "svg", "png")


@click.command(
    short_help="Write a finished job's report: HTML, Markdown, plots, JSON.",
    epilog="Example: mqnative report out/ -o report/ --format html --format md --format svg",
)
@click.argument("source", metavar="JOB|DIR")
@click.option("-o", "--output", type=PATH, help="Folder to write to; default: where the results are.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(_FORMATS),
    multiple=True,
    help="Repeatable; default: html, md, json and svg.",
)
@force_option
@json_option
def report(source: str, output: Path | None, formats: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write the report of the job of this number, or of the results in DIR.

    One self-contained HTML page, Markdown for a model card, plots as SVG and PNG, JSON: all from the same
    figures, which are measured or computed nowhere else.
    """
    from mqnative.app.output import console, print_json
    from mqnative.report.folder import read_results, write_report

    named = "" if output is None or output.is_dir() else output.suffix.removeprefix(".")
    if named in _FORMATS:
        raise click.BadParameter(
            f"takes a folder; give --format {named} for one form", param_hint=f"-o {output}"
        )
    folder = _folder(source)
    found = read_results(folder)
    target = output or folder
    written = write_report(found, target, formats or _FORMATS[:4], force=force)
    if as_json:
        print_json({"source": str(folder), "files": [str(path) for path in written]})
        return
    for path in written:
        console().print(str(path))


def _folder(source: str) -> Path:
    """Where the results are; a number is a job's unless a folder has that name."""
    from mqnative.errors import SourceError

    path = Path(source)
    if path.is_dir() or not source.isdecimal():
        return path
    from mqnative.jobs import control

    job = control.show(int(source)).job
    folder = job.options.get("output")
    if not folder:
        raise SourceError(f"job {source} ({job.kind}) leaves no report; take one of auto, compare or hybrids")
    return Path(str(folder))
