"""Starting long commands from Python, as user interfaces do: a kind and options instead of a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from mqnative.app.cli import COMMANDS, cli
from mqnative.app.job_request import Request
from mqnative.errors import JobError
from mqnative.jobs import control
from mqnative.jobs.look import settle
from mqnative.store import Store
from mqnative.store.job_tables import QUEUED, RUNNING


def start(kind: str, options: Mapping[str, Any], *, queue: bool = False, token: str | None = None) -> int:
    """Run a long command in a process of its own.

    Args:
        kind: its name: ``auto``, ``sweep``, ...
        options: by the names of the command's parameters, as `mqnative.store.job_rows.Job.options` has them;
            lists for what may be repeated. Relative paths start from this process' folder.
        queue: leave it in the queue, which `mqnative.jobs.queue` works off.
        token: for the hub; never stored.

    Returns:
        The job's number. A command that is not done yet keeps its job: one that runs is left alone.

    Raises:
        JobError: there is no such command or option, or a value is none.
        StoreError: the store cannot be used.
    """
    request = request_of(kind, options)
    with Store.open() as store:
        job = settle(store, request.asked().job(store))
        if job.state == RUNNING:
            return job.id
        if job.state != QUEUED:
            store.jobs.move(job.id, QUEUED)
    if not queue:
        control.resume(job.id, token=token)
    return job.id


def plan(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a command is going to cost, as ``--plan --json`` prints it; arguments as `start`.

    Raises:
        JobError: as `start`, or the model is not on this machine yet.
        Any error of reading the model or its texts.
    """
    from mqnative.app.plan_views import required_plan

    return {"kind": kind, **required_plan(kind, request_of(kind, options).params).to_dict()}


def request_of(kind: str, options: Mapping[str, Any]) -> Request:
    """The request of a command and its options.

    Raises:
        JobError: as `start`.
    """
    command = cli.get_command(click.Context(cli), kind) if kind in COMMANDS else None
    if command is None or not any(param.name == "detach" for param in command.params):
        raise JobError(f"{kind!r} is no long command")
    argv = list(_words(command, options))
    try:
        with command.make_context(kind, list(argv)) as context:
            return Request.of(context, argv)
    except click.ClickException as error:
        raise JobError(f"{kind}: {error.format_message()}") from error


def _words(command: click.Command, options: Mapping[str, Any]) -> Iterator[str]:
    """The options as a command line; arguments last, behind two dashes."""
    params = {param.name: param for param in command.params}
    if unknown := sorted(set(options) - set(params)):
        raise JobError(f"{command.name} has no option {', '.join(unknown)}")
    positional = []
    for param in command.params:
        value = options.get(param.name or "")
        if value is None:
            continue
        if isinstance(param, click.Option):
            yield from _option(param, value)
        else:
            positional += [str(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    if positional:
        yield "--"
        yield from positional


def _option(param: click.Option, value: Any) -> Iterator[str]:
    name = max(param.opts, key=len)
    if param.is_flag:
        if value:
            yield name
        elif param.secondary_opts:
            yield param.secondary_opts[0]
    elif param.multiple:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            yield f"{name}={_value(one, '=')}"
    else:
        yield f"{name}={_value(value, ',')}"


def _value(value: Any, between: str) -> str:
    """A value as a word: lists of names are joined by commas, a file and its weight by an equals sign."""
    if isinstance(value, (list, tuple)):
        return between.join(str(part) for part in value if part is not None)
    return str(value)
