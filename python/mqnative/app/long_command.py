"""What makes a command a long one: it is a job, and can run in the background or wait in the queue."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from mqnative.app.job_request import Request

Command = TypeVar("Command", bound=Callable[..., Any])


def long_command(command: Command) -> Command:
    """Make a command a job, with ``--plan``, ``--detach`` and ``--queue``; a line above its function."""

    @functools.wraps(command)
    def run(*args: Any, detach: bool, queue: bool, plan: bool, **others: Any) -> Any:
        if detach + queue + plan > 1:
            raise click.UsageError("give one of --plan, --detach and --queue")
        if plan:
            from mqnative.app.plan_views import show_plan

            show_plan(click.get_current_context(), as_json=bool(others.get("as_json")))
            return None
        if others.get("dry_run"):
            return command(*args, **others)
        from mqnative.app.cli import RESUMED
        from mqnative.app.command_job import CommandJob

        request = _request()
        if detach or queue:
            put_aside(request, queue=queue, as_json=bool(others.get("as_json")))
            return None
        job, logged = click.get_current_context().meta.get(RESUMED, (None, False))
        with CommandJob(request, expected=job, quiet=logged):
            return command(*args, **others)

    detach = click.option("--detach", is_flag=True, help="Run in the background; print the job's number.")
    queue = click.option("--queue", is_flag=True, help="Put into the queue, for `mqnative jobs run`.")
    plan = click.option("--plan", is_flag=True, help="Print the steps, with time and bytes; run nothing.")
    return plan(detach(queue(cast(Command, run))))


def put_aside(request: Request, *, queue: bool, as_json: bool) -> None:
    """Make the job, start it in the background or leave it queued, and say where to find it."""
    from mqnative.app.output import print_json
    from mqnative.jobs.control import resume
    from mqnative.jobs.joblog import log_path
    from mqnative.jobs.look import settle
    from mqnative.store import Store
    from mqnative.store.job_tables import QUEUED, RUNNING

    with Store.open() as store:
        job = settle(store, request.asked().job(store))
        if job.state not in (QUEUED, RUNNING):
            store.jobs.move(job.id, QUEUED)
        log = log_path(store.folder, job.id)
    if not queue and job.state != RUNNING:
        resume(job.id, token=next(iter(request.secrets), None))
    if as_json:
        print_json({"job": job.id, "state": "running" if job.state == RUNNING else QUEUED, "log": str(log)})
        return
    how = "runs already" if job.state == RUNNING else "is queued" if queue else "runs in the background"
    way = "jobs run" if queue and job.state != RUNNING else f"jobs attach {job.id}"
    click.echo(f"job {job.id} {how}: mqnative {way}")


def _request() -> Request:
    from mqnative.app.cli import ARGUMENTS
    from mqnative.app.job_request import Request

    context = click.get_current_context()
    arguments = context.meta.get(ARGUMENTS, ())
    return Request.of(context, arguments[1:])
