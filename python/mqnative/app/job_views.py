"""Jobs as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.columns import print_columns
from mqnative.app.plan_views import compared_json, print_compared
from mqnative.jobs.estimate import Compared, Plan, compare
from mqnative.jobs.joblog import amount, log_path
from mqnative.store import home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mqnative.jobs.control import Snapshot
    from mqnative.store.job_rows import Job, Step

_LISTED = ("id", "kind", "state", "device", "created", "started", "ended", "wall_s", "cpu_s", "attempts")


def listed_json(job: Job, step: Step | None) -> dict[str, Any]:
    """One entry of ``jobs list --json``."""
    return {
        **{name: getattr(job, name) for name in _LISTED},
        "argv": list(job.argv),
        "folder": job.folder,
        "error": None if job.error is None else job.error.get("message"),
        "step": None if step is None else asdict(step),
    }


def snapshot_json(found: Snapshot) -> dict[str, Any]:
    """What ``jobs show --json`` prints."""
    return {
        **asdict(found.job),
        "log": str(log_path(home(), found.job.id)),
        "compared": compared_json(compared(found)),
        "steps": [asdict(step) for step in found.steps],
        "events": [asdict(event) for event in found.events],
    }


def compared(found: Snapshot) -> list[Compared]:
    """A job's estimate beside what it took; empty where nothing was estimated."""
    if found.job.estimate is None:
        return []
    return compare(Plan.from_dict(found.job.estimate), found.steps)


def print_list(jobs: Sequence[Job], steps: Mapping[int, Step]) -> None:
    """Jobs as a table."""
    rows = [("job", "state", "time", "command", "at")]
    for job in jobs:
        at = str(job.error["message"]) if job.error else _at(steps.get(job.id))
        rows.append((str(job.id), job.state, _duration(job.wall_s), _command(job), at))
    print_columns(rows, right={2})


def print_snapshot(found: Snapshot) -> None:
    """A job as tables."""
    job = found.job
    click.echo(f"job {job.id}")
    shown = [
        ("command", _command(job)),
        ("folder", job.folder),
        ("state", job.state + (f" ({job.error['message']})" if job.error else "")),
        ("created", job.created),
        ("cost", f"{_duration(job.wall_s)}, {_duration(job.cpu_s)} of processors, {job.attempts} attempts"),
        ("versions", "  ".join(f"{name} {value}" for name, value in job.versions.items())),
    ]
    for name, inputs in job.inputs.items():
        lines = [line for one in inputs for line in _input(one)]
        shown += zip((name, *[""] * (len(lines) - 1)), lines, strict=True)
    print_columns(shown)
    if found.steps:
        rows = [("step", "done", "time", "rate", "left")]
        for step in found.steps:
            ending = " (stopped)" if step.state == "stopped" else ""
            rate = "" if step.rate is None else f"{step.rate:,.4g}/s"
            left = "" if step.eta_s is None else _duration(step.eta_s)
            rows.append((step.name + ending, amount(step), _duration(step.elapsed_s), rate, left))
        print_columns(rows, right={1, 2, 3, 4})
    if pairs := compared(found):
        print_compared(pairs)
    for event in found.events:
        click.echo(f"{event.at}  {event.kind}: {event.text}")


def _input(one: Mapping[str, Any]) -> Iterator[str]:
    """A file, or a model on the hub with its files."""
    from mqnative.report.numbers import size_text

    digest = one.get("sha256") or ("" if "commit" in one else "not hashed")
    yield f"{one['path']}  {size_text(one['size_bytes'])}  {digest}".rstrip()
    for file in one.get("files", ()):
        yield f"  {file['name']}  {file['sha256'] or file['git_blob']}"


def _command(job: Job) -> str:
    return " ".join(("mqnative", job.kind, *job.argv))


def _at(step: Step | None) -> str:
    if step is None:
        return ""
    left = "" if step.eta_s is None else f", {_duration(step.eta_s)} left"
    return f"{step.name}: {amount(step)}{left}"


def _duration(seconds: float) -> str:
    from mqnative.report.numbers import duration

    return duration(seconds)
