"""Jobs: all of them, one at a time with live progress, and the forms that start them."""

from __future__ import annotations

import html
from pathlib import Path
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from mqnative.app.ui import runner
from mqnative.app.ui.frame import done, drawn, empty, fail, frame, page
from mqnative.app.ui.pages.start_form import start_form
from mqnative.app.ui.workspace import Workspace, loaded
from mqnative.app.views.job_page import badge, can, events, facts, job_line, progress, title_of
from mqnative.app.views.paths import short
from mqnative.errors import MQNativeError
from mqnative.jobs import control
from mqnative.jobs.joblog import log_path
from mqnative.jobs.look import look_after
from mqnative.report.numbers import plain_lines
from mqnative.report.svg import escape
from mqnative.store import Store
from mqnative.store.job_rows import Job, Step
from mqnative.store.paths import home

# How often a page looks at the store.
_LOOK_S = 0.5
_LOG_BYTES = 20_000


def register(workspace: Workspace) -> None:
    """Make the routes."""

    @ui.page("/jobs", title="Jobs")
    async def jobs_page(request: Request, model: str = "", kind: str = "auto") -> None:
        async with page("Jobs", "Jobs"):
            with frame("Jobs", "Jobs"):
                with ui.element("section").classes("card stack"):
                    start_form(workspace, model, kind, dict(request.query_params))
                await _list()

    @ui.page("/jobs/{job}", title="Job")
    async def job_page(job: int) -> None:
        async with page("Job", "Jobs"):
            first = await loaded(control.show, job)
            with frame(f"Job {job}", "Jobs"):
                await _one(workspace, job, first)


async def _list() -> None:
    area = ui.element("section").classes("stack")
    seen: list[object] = []

    async def look() -> None:
        try:
            found = await loaded(_jobs)
        except MQNativeError as error:
            found = []
            fail(error)
        if found == seen and seen:
            return
        seen[:] = found
        area.clear()
        with area:
            if not found:
                empty("No job yet", "Fill in the form above; its cost is shown before anything runs.")
            for job, step in reversed(found):
                drawn(job_line(job, step), "model-card job-card")

    await look()
    ui.timer(_LOOK_S * 2, look)


def _jobs() -> list[tuple[Job, Step | None]]:
    with Store.open() as store:
        look_after(store)
        steps = store.jobs.current_steps()
        return [(job, steps.get(job.id)) for job in store.jobs.all()]


async def _one(workspace: Workspace, number: int, first: control.Snapshot) -> None:
    with ui.element("div").classes("line"):
        heading = drawn("")
        pause = ui.button("Pause", icon="pause").props("outline dense")
        resume = ui.button("Resume", icon="play_arrow").props("unelevated dense")
        cancel = ui.button("Cancel", icon="close").props("outline dense")
    problem = drawn("")
    with ui.element("div").classes("columns"):
        with ui.element("div").classes("stack"):
            with ui.element("section").classes("card"):
                ui.html("<h2>Progress</h2>", sanitize=False)
                bars = drawn("")
            result = ui.element("section").classes("card stack")
            with ui.element("section").classes("card"):
                ui.html("<h2>Log</h2>", sanitize=False)
                log = ui.html("", sanitize=False, tag="pre").classes("log").props("tabindex=0")
        with ui.element("div").classes("stack"):
            with ui.element("section").classes("card"):
                ui.html("<h2>Job</h2>", sanitize=False)
                about = drawn("")
            with ui.element("section").classes("card"):
                ui.html("<h2>Events</h2>", sanitize=False)
                happened = drawn("")
    shown: dict[str, object] = {}

    def show(now: control.Snapshot, text: str) -> None:
        if shown.get("all") == (now, text):
            return
        before, shown["all"], shown["state"] = shown.get("state"), (now, text), now.job.state
        job = now.job
        heading.set_content(f"<h1>{escape(f'{job.id}. {title_of(job)}')} {badge(job.state)}</h1>")
        bars.set_content(progress(job, now.steps))
        about.set_content(facts(job))
        happened.set_content(events(now.events))
        log.set_content(escape_lines(short(text)) or "Nothing was written yet.")
        why = "" if job.error is None else str(job.error.get("message", ""))
        problem.set_content(
            f'<div class="empty"><h2>It failed</h2><p>{escape(why)}</p>'
            "<p>What was measured is kept. Mend the cause, then resume.</p></div>"
            if why
            else ""
        )
        for button, name in ((pause, "pause"), (resume, "resume"), (cancel, "cancel")):
            button.set_visibility(can(job.state)[name])
        if before != job.state:
            result.clear()
            with result:
                _result(workspace, job)
        result.set_visibility(job.state == "done")

    async def look() -> None:
        try:
            now, text = await loaded(_look, number)
        except MQNativeError as error:
            fail(error)
            return
        show(now, text)

    async def steer(what: str) -> None:
        try:
            if what == "resume":
                await loaded(control.resume, number)
            elif what == "pause":
                await loaded(lambda: control.pause(number, wait_s=0))
            else:
                await loaded(lambda: control.cancel(number, wait_s=0))
            done({"resume": "It goes on", "pause": "It pauses", "cancel": "It ends"}[what])
        except MQNativeError as error:
            fail(error)
        await look()

    pause.on_click(lambda: steer("pause"))
    resume.on_click(lambda: steer("resume"))
    cancel.on_click(lambda: steer("cancel"))
    show(first, "")
    await look()
    ui.timer(_LOOK_S, look)


def escape_lines(text: str) -> str:
    """A log's text, its lines kept, as HTML."""
    return html.escape(plain_lines(text))


def _look(number: int) -> tuple[control.Snapshot, str]:
    snapshot = control.show(number)
    path = log_path(home(), number)
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        text = ""
    return snapshot, text


def _add_button(workspace: Workspace, path: Path) -> None:
    async def add() -> None:
        try:
            key = await loaded(workspace.add, path.resolve())
        except MQNativeError as error:
            fail(error)
            return
        ui.navigate.to(f"/model/{key}")

    ui.button(f"Add {path.name}", icon="add", on_click=add).props("unelevated")


def _result(workspace: Workspace, job: Job) -> None:
    """Where a finished job's results are."""
    ui.html("<h2>Results</h2>", sanitize=False)
    if job.kind == "fetch":
        model = str(job.options.get("model"))

        async def add() -> None:
            try:
                path = await runner.fetched(model, home())
                key = await loaded(workspace.add, path)
            except MQNativeError as error:
                fail(error)
                return
            ui.navigate.to(f"/model/{key}")

        ui.button(f"Add {model}", icon="add", on_click=add).props("unelevated")
        return
    output = job.options.get("output")
    path = Path(str(output)) if output else None
    if job.kind == "convert" and path is not None and path.is_file():
        _add_button(workspace, path)
        return
    if path is None or not path.exists():
        ui.html("<p>The store has what was measured; the model's pages show it.</p>", sanitize=False)
        return
    ui.html(f"<p>{escape(short(path))}</p>", sanitize=False)

    async def show() -> None:
        try:
            key = await loaded(workspace.add, path.resolve())
        except MQNativeError as error:
            fail(error)
            return
        ui.navigate.to(f"/model/{key}/frontier")

    if path.is_file() and job.kind == "build":
        source = Path(str(job.options.get("model"))).resolve()
        key = next((k for k, p in workspace.models().items() if p == source), "")
        query = {"model": key, "kind": "compare", "Files to compare": str(path)}
        ui.button(
            "Verify and compare",
            icon="fact_check",
            on_click=lambda: ui.navigate.to(f"/jobs?{urlencode(query)}"),
        ).props("unelevated")
    if path.is_dir() and (path / "report.json").is_file():
        with ui.element("div").classes("line"):
            ui.button("Look at the results", icon="insights", on_click=show).props("unelevated")
            ui.button(
                "Save the report",
                icon="download",
                on_click=lambda: ui.download.content((path / "report.html").read_bytes(), "report.html"),
            ).props("outline")
