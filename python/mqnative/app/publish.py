"""``mqnative publish``: a finished folder to a repository on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import PATH, hub_options, json_option

if TYPE_CHECKING:
    from mqnative.jobs.publication import Publication
    from mqnative.jobs.upload import Uploaded


@click.command(
    short_help="Upload a finished folder to the hub, with a model card.",
    epilog="Example: mqnative publish out/ me/Qwen3-0.6B-mqnative-GGUF --dry-run",
)
@click.argument("folder", type=PATH)
@click.argument("repo")
@click.option("--base-model", default="", help="Hub id of the original; default: as recorded.")
@click.option("--license", "license_id", default="", help="Licence on the card; default: what the GGUF says.")
@click.option("--private", is_flag=True, help="If the repository is made, make it private.")
@click.option("-m", "--message", default="", help="Of the commit.")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded; open no socket.")
@hub_options
@long_command
@json_option
def publish(
    folder: Path,
    repo: str,
    base_model: str,
    license_id: str,
    private: bool,
    message: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upload FOLDER, as `mqnative auto` leaves it, to REPO (org/name), which is made if it is not there.

    Published are the model, what belongs to it, recipe, report, manifest, importances, and a model card with
    the table, plots and how to make the same bytes again; a README.md in the folder is taken instead. All
    files are checked against the manifest first, and appear in one commit. A run that broke off goes on with
    the first file that the hub does not have.
    """
    from mqnative.app.models import hub_access
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.jobs.publication import plan_publication
    from mqnative.source.argument import HubModel, parse_source

    wanted = parse_source(f"hf:{repo.removeprefix('hf:').lstrip('/')}")
    if not isinstance(wanted, HubModel) or wanted.file is not None or wanted.revision is not None:
        raise click.UsageError(f"{repo!r} is no repository; write org/name")
    publication = plan_publication(folder, wanted.repo, base_model=base_model, license_id=license_id)
    done = None
    if not dry_run:
        from mqnative.jobs.upload import upload
        from mqnative.source.hub import Hub

        with ProgressMonitor() as monitor:
            done = upload(publication, Hub(hub_access()), private=private, message=message, monitor=monitor)
    if as_json:
        print_json(_json(publication, done))
    else:
        _print(publication, done)


def _json(publication: Publication, done: Uploaded | None) -> dict[str, Any]:
    sent = () if done is None else done.sent
    return {
        "repo": publication.repo,
        "commit": None if done is None else done.commit,
        "created": None if done is None else done.created,
        "size_bytes": publication.size_bytes,
        "sent_bytes": 0 if done is None else done.sent_bytes,
        "files": [
            {
                "name": f.name,
                "size_bytes": f.size_bytes,
                "sha256": f.sha256,
                "path": None if f.path is None else str(f.path),
                "sent": None if done is None else f.name in sent,
            }
            for f in publication.files
        ],
        "card": publication.card,
    }


def _print(publication: Publication, done: Uploaded | None) -> None:
    from rich.table import Table
    from rich.text import Text

    from mqnative.app.output import console, facts_table, size_text

    out = console()
    rows = Table("file", box=None)
    rows.add_column("size", justify="right")
    rows.add_column("sha256")
    for file in publication.files:
        rows.add_row(file.name, size_text(file.size_bytes), file.sha256[:16])
    total = f"{size_text(publication.size_bytes)} in {len(publication.files)} files"
    if done is None:
        shown = {"status": f"would be uploaded: {total}"}
    elif done.sent:
        new = ", a new repository" if done.created else ""
        sent = f"{size_text(done.sent_bytes)} in {len(done.sent)} files"
        shown = {"status": f"uploaded {sent}{new}", "commit": done.commit}
    else:
        shown = {"status": "already there, unchanged", "commit": done.commit}
    out.print(facts_table(publication.repo, shown))
    out.print(rows)
    if done is None:
        out.print(Text(f"\nREADME.md\n\n{publication.card}"))
