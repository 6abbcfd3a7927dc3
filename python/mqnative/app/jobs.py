"""``mqnative jobs``: look at long commands and steer them."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.options import json_option
from mqnative.store.job_tables import CANCELLED, DONE, STATES

if TYPE_CHECKING:
    from mqnative.store.job_rows import Job

_JOB = click.argument("job", type=click.IntRange(min=1))
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


class Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """``30d``, ``12h``, ``5m``."""

    name = "N[d|h|m]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse."""
        if isinstance(value, timedelta):
            return value
        text = str(value).strip()
        try:
            age = timedelta(seconds=float(text[:-1]) * _UNITS[text[-1:]])
        except (KeyError, ValueError, OverflowError):
            age = timedelta(-1)
        if age < timedelta(0):
            self.fail(f"{value!r} is no age such as 30d, 12h or 5m", param, ctx)
        return age


@click.group(
    short_help="List, follow, pause, resume and plan long commands.",
    epilog="Example: mqnative jobs list",
)
def jobs() -> None:
    """Look at long commands and steer them.

    Every command that computes or downloads for long is a job: it can be paused and resumed at any moment,
    and the same command given again continues it.
    """


@jobs.command("list", short_help="All jobs.", epilog="Example: mqnative jobs list --state running")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only these; repeatable.")
@json_option
def list_command(states: tuple[str, ...], as_json: bool) -> None:
    """List jobs, the oldest first, with how far each is."""
    from mqnative.app.job_views import listed_json, print_list
    from mqnative.jobs.look import look_after
    from mqnative.store import Store

    with Store.open() as store:
        look_after(store)
        found, steps = store.jobs.all(states), store.jobs.current_steps()
    if as_json:
        from mqnative.app.output import print_json

        print_json({"jobs": [listed_json(job, steps.get(job.id)) for job in found]})
    else:
        print_list(found, steps)


@jobs.command(short_help="One job: steps, costs, inputs.", epilog="Example: mqnative jobs show 3")
@_JOB
@json_option
def show(job: int, as_json: bool) -> None:
    """Show a job: its steps, what it cost, what it reads, what happened."""
    from mqnative.app.job_views import print_snapshot, snapshot_json
    from mqnative.jobs import control

    found = control.show(job)
    if as_json:
        from mqnative.app.output import print_json

        print_json(snapshot_json(found))
    else:
        print_snapshot(found)


@jobs.command(short_help="A job's log.", epilog="Example: mqnative jobs log 3 --tail 20")
@_JOB
@click.option("--tail", type=click.IntRange(min=1), help="Only the last lines.")
@json_option
def log(job: int, tail: int | None, as_json: bool) -> None:
    """Print a job's log."""
    from mqnative.app.output import print_json
    from mqnative.jobs.joblog import log_path
    from mqnative.store import Store

    with Store.open() as store:
        store.jobs.get(job)
        path = log_path(store.folder, job)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.splitlines()[-tail if tail else 0 :]
    if as_json:
        print_json({"job": job, "log": str(path), "lines": lines})
        return
    for line in lines:
        click.echo(line)


@jobs.command(short_help="Follow a job that runs elsewhere.", epilog="Example: mqnative jobs attach 3")
@_JOB
@json_option
def attach(job: int, as_json: bool) -> None:
    """Show a job's progress until it ends; Ctrl-C only ends the watching."""
    from mqnative.app.follow import Follower
    from mqnative.app.job_views import snapshot_json
    from mqnative.app.output import print_json
    from mqnative.jobs import control

    with Follower() as follower:
        for now in control.watch(job):
            if now.job.state == "running":
                follower.show_steps(now.job, now.steps)
    final = control.show(job)
    if as_json:
        print_json(snapshot_json(final))
    else:
        click.echo(_ending(final.job))
    if final.job.state == "failed":
        sys.exit(1)


@jobs.command(short_help="Let a job go on.", epilog="Example: mqnative jobs resume 3 --detach")
@_JOB
@click.option("--detach", is_flag=True, help="In the background.")
@click.option("--logged", is_flag=True, hidden=True, help="The log takes what would be shown.")
@json_option
def resume(job: int, detach: bool, logged: bool, as_json: bool) -> None:
    """Let a job go on that was paused, interrupted, cancelled or has failed, where it was."""
    from mqnative.app.cli import run_again
    from mqnative.app.output import print_json
    from mqnative.errors import JobError
    from mqnative.jobs import control

    if detach:
        found = control.resume(job)
        if as_json:
            print_json({"job": job, "state": found.state})
        else:
            click.echo(f"job {job} runs in the background: mqnative jobs attach {job}")
        return
    found = control.resumable(job)
    try:
        os.chdir(found.folder)
    except OSError as error:
        raise JobError(f"job {job} was given in {found.folder}, which is gone: {error.strerror}") from error
    sys.exit(run_again(found, logged=logged, as_json=as_json))


def _stopped(job: Job, wanted: str, as_json: bool) -> None:
    from mqnative.app.output import print_json

    if as_json:
        print_json({"job": job.id, "state": job.state})
    elif job.state == wanted:
        click.echo(f"job {job.id} is {job.state}")
    else:
        click.echo(f"job {job.id} is {job.state}; it was asked to be {wanted}")


@jobs.command(short_help="Stop a job; it can go on later.", epilog="Example: mqnative jobs pause 3")
@_JOB
@json_option
def pause(job: int, as_json: bool) -> None:
    """Stop a job so that `mqnative jobs resume` or its command continues it."""
    from mqnative.jobs import control

    _stopped(control.pause(job), "paused", as_json)


@jobs.command(short_help="Give a job up.", epilog="Example: mqnative jobs cancel 3")
@_JOB
@json_option
def cancel(job: int, as_json: bool) -> None:
    """End a job for good; what was measured is kept."""
    from mqnative.jobs import control

    _stopped(control.cancel(job), CANCELLED, as_json)


@jobs.command(short_help="Forget jobs that are over.", epilog="Example: mqnative jobs prune --older-than 30d")
@click.argument("numbers", metavar="[JOB]...", type=click.IntRange(min=1), nargs=-1)
@click.option(
    "--state",
    "states",
    type=click.Choice([state for state in STATES if state != "running"]),
    multiple=True,
    default=(DONE, CANCELLED),
    show_default=True,
    help="Which, where no JOB is given; repeatable.",
)
@click.option("--older-than", type=Age(), default="0d", help="Only those that ended so long ago: 30d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@json_option
def prune(
    numbers: tuple[int, ...], states: tuple[str, ...], older_than: timedelta, dry_run: bool, as_json: bool
) -> None:
    """Forget jobs and their logs; measurements and output files stay."""
    from mqnative.app.output import print_json
    from mqnative.jobs import control

    gone = control.prune(numbers, states=states, older_than=older_than, dry_run=dry_run)
    if as_json:
        print_json({"jobs": [job.id for job in gone], "dry_run": dry_run})
        return
    which = ", ".join(f"{job.id} ({job.kind})" for job in gone)
    click.echo(f"{'would forget' if dry_run else 'forgot'} {len(gone)} jobs{': ' if which else ''}{which}")


@jobs.command(short_help="Work the queue off.", epilog="Example: mqnative jobs run --detach")
@click.option("--device", help="Only jobs of this device; default: all, one at a time on each.")
@click.option("--detach", is_flag=True, help="In the background.")
@json_option
def run(device: str | None, detach: bool, as_json: bool) -> None:
    """Run the queued jobs in order, one at a time on each device, until none is left.

    One that fails does not stop those behind it.
    """
    from mqnative.app.follow import follow_queue
    from mqnative.app.output import print_json
    from mqnative.jobs.queue import run_in_background, run_queue

    if detach:
        log = run_in_background(device)
        if as_json:
            print_json({"log": str(log)})
        else:
            click.echo(f"the queue is worked off in the background: {log}")
        return
    done = []
    for job in run_queue(device, follow_queue()):
        done.append(job)
        click.echo(_ending(job), err=True)
    if as_json:
        print_json({"jobs": [{"job": job.id, "state": job.state} for job in done]})
    else:
        click.echo(f"{len(done)} jobs were run")
    if any(job.state == "failed" for job in done):
        sys.exit(1)


def _ending(job: Job) -> str:
    why = f": {job.error['message']}" if job.error else ""
    return f"job {job.id} is {job.state}{why}"
