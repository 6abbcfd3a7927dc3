"""``mqnative fetch``: a model from the hub into its cache on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import hub_options, json_option

if TYPE_CHECKING:
    from mqnative.source.download import Plan
    from mqnative.source.fetch import Choice, Fetched


@click.command(
    "fetch",
    short_help="Download a model from the hub: what it takes, no more.",
    epilog="Example: mqnative fetch Qwen/Qwen3-0.6B",
)
@click.argument("model", metavar="MODEL")
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded.")
@hub_options
@long_command
@json_option
def fetch_command(model: str, dry_run: bool, as_json: bool) -> None:
    """Download MODEL (org/name, org/name@revision or org/name/file.gguf) into the hub's cache.

    Only what makes the model is fetched: an unquantized GGUF where there is one, else configuration,
    tokenizer and safetensors. Every file is checked against its hash. A download that broke off goes on where
    it was.
    """
    from mqnative.app.command_job import command_job
    from mqnative.app.models import hub_access
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.source.argument import HubModel, parse_source
    from mqnative.source.fetch import choose, fetch_choice, plan_fetch
    from mqnative.source.hub import Hub

    wanted = parse_source(model)
    if not isinstance(wanted, HubModel):
        raise click.UsageError(
            f"{model} is on this machine, or is no hub id; write org/name or org/name@revision"
        )
    hub = Hub(hub_access())
    with ProgressMonitor() as monitor:
        choice = choose(hub, wanted, monitor)
        plan = plan_fetch(hub, choice)
        if (job := command_job()) is not None:
            job.source_found(model, choice)
        fetched = None if dry_run else fetch_choice(hub, choice, monitor)
    if as_json:
        print_json(_json(choice, plan, fetched))
    else:
        _print(choice, plan, fetched)


def _json(choice: Choice, plan: Plan, fetched: Fetched | None) -> dict[str, Any]:
    repository = choice.repository
    folder = None if fetched is None else fetched.folder
    missing = {f.name for f in plan.missing}
    return {
        "repo": repository.model.repo,
        "revision": repository.model.revision,
        "commit": repository.commit,
        "kind": choice.selection.kind,
        "path": None if fetched is None else _path(fetched),
        "size_bytes": plan.total_bytes,
        "downloaded_bytes": 0 if fetched is None else plan.remaining_bytes,
        "remaining_bytes": plan.remaining_bytes if fetched is None else 0,
        "mmproj_path": str(fetched.mmproj[0]) if fetched and fetched.mmproj else None,
        "files": [
            {
                "name": f.name,
                "size_bytes": f.size,
                "sha256": f.sha256,
                "path": None if folder is None else str(folder / f.name),
                "was_cached": f.name not in missing,
            }
            for f in choice.files
        ],
    }


def _path(fetched: Fetched) -> str:
    """What other commands take as MODEL."""
    return str(fetched.weights[0] if fetched.choice.selection.kind == "gguf" else fetched.folder)


def _print(choice: Choice, plan: Plan, fetched: Fetched | None) -> None:
    from rich.table import Table

    from mqnative.app.output import console, facts_table, size_text

    out = console()
    if fetched is None:
        status = f"{size_text(plan.remaining_bytes)} of {size_text(plan.total_bytes)} to download"
    elif plan.missing:
        status = f"downloaded {size_text(plan.remaining_bytes)} in {len(plan.missing)} files"
    else:
        status = "already there"
    shown = {
        "commit": choice.repository.commit,
        "weights": f"{choice.selection.kind}, {size_text(sum(f.size for f in choice.selection.weights))}",
        "status": status,
    }
    out.print(facts_table(str(choice.repository.model), shown))
    if fetched is not None:
        out.print(_path(fetched))
        return
    table = Table("file", box=None)
    table.add_column("size", justify="right")
    for file in choice.files:
        table.add_row(file.name, size_text(file.size))
    out.print(table)
