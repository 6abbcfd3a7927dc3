"""Jobs as the page shows them: a line each, steps with bars, what it will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mqnative.app.views.paths import short
from mqnative.jobs.estimate import Plan
from mqnative.report.numbers import duration, size_text, typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table
from mqnative.store.job_rows import Event, Job, Step

GOING = ("running", "queued")
_BADGES = {"done": "good", "running": "good", "failed": "bad"}
_BASES = {
    "kept": "measured already",
    "measured": "from earlier jobs",
    "calibrated": "from a short trial",
    "assumed": "assumed",
}


def badge(state: str) -> str:
    """A state as a small word in a frame."""
    return f'<span class="badge {_BADGES.get(state, "")}">{escape(state)}</span>'


def title_of(job: Job) -> str:
    """What a job is, in a few words: its kind and its model or first input."""
    names = [Path(word).name for word in job.argv if not str(word).startswith("-")]
    models = [name for name in names if name.endswith(".gguf")]
    return " ".join(dict.fromkeys([job.kind, *(models or names)[:1]]))


def job_line(job: Job, step: Step | None) -> str:
    """A job in the list of all: what it is, where it is, why it failed."""
    at = ""
    if step is not None:
        share = percent(step)
        at = f"{step.name}{'' if share is None else f' {share:.0f} %'}"
    why = "" if job.error is None else str(job.error.get("message", ""))
    said = " · ".join(text for text in (at, duration(job.wall_s)) if text)
    problem = f"<div>{escape(why)}</div>" if why else ""
    return (
        f'<div class="job-line"><h2><a href="/jobs/{job.id}">{escape(f"{job.id}. {title_of(job)}")}</a></h2>'
        f'<span class="soft">{escape(said)}</span>{badge(job.state)}</div>{problem}'
    )


def can(state: str) -> dict[str, bool]:
    """Which buttons make sense in a state."""
    return {
        "pause": state in GOING,
        "resume": state in ("paused", "failed", "cancelled", "queued"),
        "cancel": state not in ("done", "cancelled"),
    }


def percent(step: Step) -> float | None:
    """How much of a step is done, 0 to 100; None where its end is not known."""
    if step.state == "done":
        return 100.0
    return min(100.0, 100.0 * step.done / step.total) if step.total else None


def progress(job: Job, steps: Sequence[Step]) -> str:
    """The steps of the last attempt as bars, with rate and time left."""
    last = [s for s in steps if s.attempt == job.attempts]
    if not last:
        said = {"queued": "It waits for its turn.", "running": "It is starting."}.get(job.state, "")
        return f'<p class="soft">{escape(said)}</p>' if said else ""
    rows = []
    for step in last:
        share = percent(step)
        width = 100.0 if share is None else share
        total = f" of {step.total:,}" if step.total else ""
        amount = f"{step.done:,}{total} {step.unit}"
        facts = [amount, duration(step.elapsed_s)]
        if step.state == "running":
            if step.rate:
                facts.append(f"{step.rate:,.3g} {step.unit}/s")
            if step.eta_s is not None:
                facts.append(f"{duration(step.eta_s)} left")
        elif step.state == "stopped":
            facts.append("stopped")
        kind = f"step {step.state}" + (" unknown" if share is None else "")
        label = "" if share is None else f' aria-valuenow="{share:.0f}"'
        rows.append(
            f'<div class="{kind}"><div class="step-name"><b>{escape(step.name)}</b>'
            f'<span class="soft">{escape(" · ".join(facts))}</span></div>'
            f'<div class="step-bar" role="progressbar" aria-label="{escape(step.name)}" aria-valuemin="0" '
            f'aria-valuemax="100"{label}><i style="width:{width:.1f}%"></i></div></div>'
        )
    return f'<div class="steps-list">{"".join(rows)}</div>'


def facts(job: Job) -> str:
    """What a job is and has cost, as a list."""
    shown = {
        "command": short("mqnative " + " ".join([job.kind, *map(str, job.argv)])),
        "started": _time(job.started) if job.started else "not yet",
        "time": f"{duration(job.wall_s)}, {duration(job.cpu_s)} of processors",
        "attempts": str(job.attempts),
        "folder": short(str(job.folder)),
        "versions": ", ".join(f"{k} {v}" for k, v in job.versions.items()),
    }
    if job.ended:
        shown["ended"] = _time(job.ended)
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in shown.items() if v)
    return f'<dl class="facts-list">{body}</dl>'


def events(found: Sequence[Event]) -> str:
    """What happened, newest first."""
    rows = "".join(
        f'<li><span class="soft">{escape(_time(e.at))}</span> {escape(e.kind)}: {escape(e.text)}</li>'
        for e in reversed(found)
    )
    return f'<ol class="events">{rows}</ol>' if rows else '<p class="soft">Nothing yet.</p>'


def plan_table(plan: Mapping[str, Any]) -> str:
    """What a command will cost, step by step, from ``--plan --json``."""
    found = Plan.from_dict(plan)
    rows = [
        [
            Cell(escape(step.name)),
            Cell(escape(f"{step.amount:,} {step.unit}")),
            Cell(escape(duration(step.seconds)), step.seconds),
            Cell(escape(size_text(step.size_bytes)) if step.size_bytes else "", step.size_bytes),
            Cell(escape(_BASES[step.basis])),
        ]
        for step in found.steps
    ]
    price, size = duration(found.seconds), size_text(found.size_bytes)
    notes = "".join(f"<li>{escape(typeset(note))}</li>" for note in found.notes)
    head = ("step", "about:", "time:", "bytes:", "time is")
    return (
        f'<p class="cost">About <b>{escape(price)}</b>, <b>{escape(size)}</b> to write or fetch.</p>'
        f"{table('What it will cost', head, rows, 'dense sortable')}"
        f"{f'<ul>{notes}</ul>' if notes else ''}"
    )


def _time(text: str) -> str:
    return text.replace("T", " ").partition(".")[0] + " UTC"
