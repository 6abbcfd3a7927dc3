"""The first page: which models there are, and how to add one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import ui

from mqnative import builtin
from mqnative.app.ui.frame import done, drawn, empty, fail, frame, telling
from mqnative.app.ui.obtain import convert_dialog, hub_dialog, is_checkpoint
from mqnative.app.ui.reading import read_view
from mqnative.app.ui.workspace import Workspace, loaded
from mqnative.app.views.model_view import ModelView
from mqnative.app.views.paths import short
from mqnative.errors import MQNativeError
from mqnative.report.numbers import size_text
from mqnative.report.sentences import count
from mqnative.report.svg import escape

# Draws the cards anew.
Refresh = Callable[[], Any]


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/", title="Models")
    async def models_page() -> None:
        with frame("Models", "Models"):
            await _content(workspace)


async def _content(workspace: Workspace) -> None:
    with ui.element("section").classes("card stack"):
        ui.html("<h2>Add a model</h2>", sanitize=False)
        with ui.element("div").classes("line"):
            given = (
                ui.input("Hub id, folder or file", placeholder="org/name or models/model-bf16.gguf")
                .props('dense outlined clearable autocomplete="off"')
                .classes("add-path")
                .style("flex: 1 1 320px")
            )
            button = ui.button("Add", icon="add").props("unelevated")
        near = await loaded(workspace.folders.models)
        ui.html(
            f'<span class="soft">Paths may lie in: {escape(", ".join(_places(workspace)))}</span>',
            sanitize=False,
        )
        known = set(workspace.models().values())
        found = [path for path in near if path.resolve() not in known and path not in known]
        if found:
            options = {str(path): workspace.folders.shown(path) for path in found}
            ui.select(options, label=f"Found nearby ({len(found)})", with_input=True).props(
                "dense outlined options-dense"
            ).style("max-width: 560px; width: 100%").on_value_change(lambda e: given.set_value(e.value or ""))

    @ui.refreshable
    async def cards() -> None:
        await _cards(workspace, cards.refresh)

    async def add() -> None:
        text = str(given.value or "").strip()
        with telling():
            path = _local(workspace, text)
            button.props("loading")
            try:
                if path is None:
                    await hub_dialog(text)
                    return
                if is_checkpoint(path):
                    convert_dialog(path)
                    return
                key = await loaded(workspace.add, path)
            finally:
                button.props(remove="loading")
            given.set_value("")
            done(f"{path.name} is on the page")
            cards.refresh()
            ui.navigate.to(f"/model/{key}")

    button.on_click(add)
    given.on("keydown.enter", add)
    await cards()


def _local(workspace: Workspace, text: str) -> Path | None:
    """The path that a person typed; None for a repository on the hub."""
    from mqnative.source.argument import HubModel, parse_source

    try:
        return workspace.folders.path(text)
    except MQNativeError:
        if text and isinstance(parse_source(text), HubModel) and not text.startswith((".", "/", "~")):
            return None
        raise


async def _cards(workspace: Workspace, refresh: Refresh) -> None:
    models = workspace.models()
    if not models:
        empty(
            "No model yet",
            "Add an unquantized GGUF (BF16, F16 or F32), a Hugging Face folder or hub id, or a finished run. "
            "The built-in model is a good start: pick model.gguf from the list above.",
        )
        return
    with ui.element("div").classes("models"):
        for key, path in models.items():
            try:
                view = await loaded(read_view, path)
            except MQNativeError as error:
                _broken(workspace, key, path, error, refresh)
                continue
            _card(workspace, view, refresh)


def _card(workspace: Workspace, view: ModelView, refresh: Refresh) -> None:
    facts = view.facts
    parameters = f"{facts['parameters']} parameters" if facts.get("parameters") else ""
    line = " · ".join(part for part in (facts.get("architecture", ""), parameters, _size(view)) if part)
    state, what = ("good" if view.n_probed else ""), view.state
    if view.report is not None or view.release is not None:
        finished = "finished run" if view.tensors else "comparison"
        state, what = "good", "release of hybrids" if view.release else finished
    html = (
        f'<h2><a href="/model/{view.key}">{escape(view.name)}</a></h2><div>{escape(line)}</div>'
        f'<div class="path">{escape(workspace.folders.shown(view.path))}</div>'
        f'<span class="badge {state}">{escape(what)}</span>'
    )
    with ui.element("article").classes("model-card"):
        drawn(html)
        _remove_button(workspace, view.key, view.name, refresh)


def _size(view: ModelView) -> str:
    if view.release is not None:
        return count(len(view.release.files), "file")
    return size_text(view.report.result.size_bytes if view.report else view.path.stat().st_size)


def _broken(workspace: Workspace, key: str, path: Path, error: MQNativeError, refresh: Refresh) -> None:
    html = (
        f"<h2>{escape(path.name)}</h2><div>{escape(error.message)}</div>"
        '<span class="badge bad">cannot be read</span>'
    )
    with ui.element("article").classes("model-card"):
        drawn(html)
        _remove_button(workspace, key, path.name, refresh)


def _remove_button(workspace: Workspace, key: str, name: str, refresh: Refresh) -> None:
    def remove() -> None:
        try:
            workspace.remove(key)
        except MQNativeError as error:
            fail(error)
        refresh()

    ui.button(icon="close", on_click=remove).props(
        f'flat round dense size=sm aria-label="Take {escape(name)} off the page"'
    ).classes("remove").tooltip("Take off the page; the file stays")


def _places(workspace: Workspace) -> list[str]:
    """The folders that the page was given; where the built-in model lies is of no interest."""
    return [short(root) for root in workspace.folders.roots if root != builtin.MODEL.parent.resolve()]
