"""The forms that start work: what it costs is shown before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nicegui import ui

from mqnative.app.cli import COMMANDS
from mqnative.app.ui import runner
from mqnative.app.ui.frame import drawn, fail
from mqnative.app.ui.workspace import Workspace
from mqnative.app.views.job_forms import FORMS, Field, arguments, defaults
from mqnative.app.views.job_page import plan_table
from mqnative.app.views.paths import short
from mqnative.errors import MQNativeError
from mqnative.formats.qtypes import all_types
from mqnative.store.paths import home


def start_form(workspace: Workspace, model_key: str, kind: str, given: Mapping[str, str]) -> None:
    """Choose a model and a kind of work, fill in the form, see the cost, start.

    Args:
        workspace: with the models.
        model_key: of the model to begin with.
        kind: of work to begin with.
        given: label -> what stands in that entry at first.
    """
    models = {k: p for k, p in workspace.models().items() if p.is_file()}
    ui.html("<h2>Start a job</h2>", sanitize=False)
    if not models:
        ui.html('<p class="soft">Add a model on the <a href="/">Models</a> page first.</p>', sanitize=False)
        return
    kinds = {k: f.title for k, f in FORMS.items() if k in COMMANDS}
    with ui.element("div").classes("line"):
        model = (
            ui.select(
                {k: workspace.folders.shown(p) for k, p in models.items()},
                value=model_key if model_key in models else next(iter(models)),
                label="Model",
            )
            .props("dense outlined options-dense")
            .style("min-width: 280px")
        )
        what = (
            ui.select(kinds, value=kind if kind in kinds else "auto", label="Work")
            .props("dense outlined options-dense")
            .style("min-width: 190px")
        )
    area = ui.element("div").classes("stack start-form")

    def draw() -> None:
        area.clear()
        with area:
            _fields(workspace, models[str(model.value)], str(what.value), given)

    model.on_value_change(draw)
    what.on_value_change(draw)
    draw()


def _fields(workspace: Workspace, model: Path, kind: str, given: Mapping[str, str]) -> None:
    form = FORMS[kind]
    first = defaults(kind, model, home())
    first |= {label: text for label, text in given.items() if label in first}
    ui.html(f'<p class="soft">{form.text}</p>', sanitize=False)
    widgets: dict[str, Any] = {}
    with ui.element("div").classes("form-grid"):
        for field in form.fields:
            widgets[field.label] = _widget(field, short(first.get(field.label, "")))
    cost = drawn("", "cost-area")

    def command() -> list[str]:
        values = {}
        for field in form.fields:
            value = widgets[field.label].value
            if field.kind in ("file", "output") and value:
                parts = [p for p in str(value).split(",") if p.strip()] if field.many else [str(value)]
                found = [str(workspace.folders.path(part, must_exist=field.kind == "file")) for part in parts]
                value = "\n".join(found)
            values[field.label] = value
        return arguments(kind, str(model), values)

    async def show_cost() -> None:
        button.props("loading")
        try:
            cost.set_content(plan_table(await runner.plan(command(), home())))
            start.set_enabled(True)
        except MQNativeError as error:
            fail(error)
        finally:
            button.props(remove="loading")

    async def begin(queue: bool) -> None:
        start.props("loading")
        try:
            (home() / "runs").mkdir(exist_ok=True)
            number = await runner.start(command(), home(), queue=queue)
            ui.navigate.to(f"/jobs/{number}")
        except MQNativeError as error:
            fail(error)
        finally:
            start.props(remove="loading")

    with ui.element("div").classes("line"):
        button = ui.button("Show the cost", icon="schedule", on_click=show_cost).props("unelevated")
        start = ui.button("Start", icon="play_arrow", on_click=lambda: begin(False)).props("outline")
        start.set_enabled(False)
        start.tooltip("The cost is shown first")


def _widget(field: Field, value: str) -> Any:
    label = f"{field.label}{' *' if field.required else ''}"
    if field.kind == "flag":
        return ui.checkbox(label)
    if field.kind == "types":
        names = [t.name for t in all_types().values() if t.is_target and t.is_quantized]
        return ui.select(names, multiple=True, label=label, value=[]).props(
            "dense outlined options-dense use-chips"
        )
    return ui.input(label, value=value, placeholder=field.hint).props('dense outlined autocomplete="off"')
