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
@click.argument("source", metavar="DIR", type=PATH)
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
def report(source: Path, output: Path | None, formats: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write the report of the results in DIR.

    One self-contained HTML page, Markdown for a model card, plots as SVG and PNG, JSON: all from the same
    figures, which are measured or computed nowhere else.
    """
    from mqnative.app.output import console, print_json
    from mqnative.report.folder import read_report, write_report

    folder = source
    found = read_report(folder)
    target = output or folder
    written = write_report(found, target, formats or _FORMATS[:4], force=force)
    if as_json:
        print_json({"source": str(folder), "files": [str(path) for path in written]})
        return
    for path in written:
        console().print(str(path))
