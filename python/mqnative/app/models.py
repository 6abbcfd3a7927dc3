"""From a MODEL argument to the file that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.options import HUB_META

if TYPE_CHECKING:
    from mqnative.source.hub import Access
    from mqnative.source.local import Reference


def hub_access() -> Access:
    """What ``--token`` and ``--offline`` of the running command say; outside of one: the environment."""
    from mqnative.source.hub import Access

    context = click.get_current_context(silent=True)
    token, offline = (None, False) if context is None else context.meta.get(HUB_META, (None, False))
    return Access(token, offline)


def local_model(model: str | Path) -> Path:
    """The GGUF that a MODEL argument names: fetched and converted if that is what it takes.

    Raises:
        as `mqnative.jobs.reference.find_reference`.
    """
    return local_reference(model).path


def local_reference(model: str | Path) -> Reference:
    """The same with the projector that belongs to it, if there is one."""
    from mqnative.app.command_job import command_job
    from mqnative.app.output import ProgressMonitor
    from mqnative.jobs.reference import find_reference

    with ProgressMonitor() as monitor:
        job = command_job()
        tell = None if job is None else lambda choice: job.source_found(model, choice)
        found = find_reference(model, hub_access(), monitor, on_found=tell)
        if job is not None:
            job.reference_there(model, found.path)
    for note in found.notes:
        click.echo(f"note: {model}: {note}", err=True)
    return found


def shown_model(model: Path) -> str:
    """A MODEL argument as reports show it: a hub id as it is, a path by its name."""
    from mqnative.source.argument import HubModel, parse_source

    source = parse_source(model)
    return str(source) if isinstance(source, HubModel) else model.name
