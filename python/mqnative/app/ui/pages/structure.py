"""A model's structure: facts, a map of layers and roles, a grid of tensors, a tree, its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from nicegui import ui
from nicegui.events import GenericEventArguments

from mqnative.app.ui.following import following
from mqnative.app.ui.frame import drawn, empty, frame, page
from mqnative.app.ui.grid import tensor_grid
from mqnative.app.ui.reading import files_in
from mqnative.app.ui.workspace import Session, Workspace, loaded
from mqnative.app.views.heat import MEASURES, Histograms, Measure, layer_map
from mqnative.app.views.model_view import ModelView
from mqnative.app.views.structure import grid_row, grid_rows, tree
from mqnative.jobs.stored_model import error_histograms
from mqnative.report.numbers import size_text
from mqnative.report.summary import TensorRow
from mqnative.report.svg import escape
from mqnative.store import Store

_MOST_FILES = 8
# The map of a large model takes a while.
_PAUSE_S = 0.3
_NOTHING = '<p class="soft">Nothing of this is known yet; a run measures it.</p>'


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/model/{key}", title="Model")
    async def structure_page(key: str) -> None:
        async with page("Model", "Models"):
            session = await workspace.session(key)
            with frame(session.view.name, "Models", session.view, "Structure"):
                _content(session)


def _content(session: Session) -> None:
    view = session.view
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in view.facts.items())
    with ui.element("div").classes("even"):
        with ui.element("section").classes("card"):
            ui.html(
                f'<h2>Facts</h2><dl class="facts-list">{facts}<dt>measured</dt>'
                f"<dd>{escape(view.state)}</dd></dl>{_files(view)}",
                sanitize=False,
            )
        with ui.element("section").classes("card"):
            settings = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in view.metadata.items())
            ui.html(
                f'<h2>Config and tokenizer</h2><div class="meta" tabindex="0" role="region" '
                f'aria-label="Config and tokenizer"><dl class="facts-list">{settings}</dl></div>',
                sanitize=False,
            )
    if not view.is_measured:
        empty(
            "Nothing is measured yet",
            "Sizes are known, damages are not. A run measures every tensor at every type, shown as it goes.",
            ("Start a run", f"/jobs?model={view.key}"),
        )
    with ui.element("section").classes("card stack"):
        with ui.element("div").classes("line"):
            ui.html("<h2>Layers and roles</h2>", sanitize=False)
            measure = ui.toggle({m: m for m in MEASURES}, value="type").props(
                'dense no-caps unelevated toggle-color=primary aria-label="What the map shows"'
            )
        area = drawn(layer_map(view, session.draft, "type"), "map")

        async def show() -> None:
            chosen: Measure = measure.value
            errors = await loaded(_errors, view.source, session.draft.types) if chosen == "errors" else None
            if chosen == measure.value:  # another was chosen meanwhile
                area.set_content(layer_map(view, session.draft, chosen, errors) or _NOTHING)

        measure.on_value_change(show)
    with ui.element("section").classes("card stack"):
        ui.html(f"<h2>{len(view.tensors)} tensors</h2>", sanitize=False)
        grid = tensor_grid(grid_rows(view, session.draft), select=False)

        def open_tensor(event: GenericEventArguments) -> None:
            ui.navigate.to(tensor_address(view.key, event.args["rowId"]))

        def press(event: GenericEventArguments) -> None:
            if event.args["key"] == "enter" and event.args["name"] in view.by_name:
                ui.navigate.to(tensor_address(view.key, event.args["name"]))

        grid.on("cellDoubleClicked", open_tensor, ["rowId"])
        ui.on("row", press)
        ui.html(
            '<span class="soft">Double-click a row, or press Enter on it, for its curves.</span>',
            sanitize=False,
        )
    with ui.element("section").classes("card stack"):
        ui.html("<h2>Tree</h2>", sanitize=False)
        search = ui.input("Search").props("dense outlined clearable").style("max-width: 320px")
        nodes = ui.tree(tree(view), on_select=lambda e: _select(view.key, e.value, view.by_name))
        search.bind_value_to(nodes, "filter")

    async def refresh(names: list[str]) -> None:
        rows = [grid_row(view, view.by_name[name], session.draft) for name in names if name in view.by_name]
        grid.run_grid_method("applyTransaction", {"update": rows})
        await show()

    session.changed.subscribe(following(refresh, _PAUSE_S))


def _files(view: ModelView) -> str:
    """The repository's files: those in the folder of the model, or of the run."""
    files = files_in(view.path)
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(size_text(size))}</dd>" for name, size in files[:_MOST_FILES]
    )
    more = len(files) - _MOST_FILES
    rest = f'<p class="soft">and {more} more</p>' if more > 0 else ""
    return (
        f'<h3 class="apart">Files in its folder</h3><dl class="facts-list">{rows}</dl>{rest}' if rows else ""
    )


def _errors(source: Path | None, types: Mapping[str, str]) -> Histograms:
    if source is None:
        return {}
    with Store.open() as store:
        return error_histograms(source, store, types)


def _select(key: str, name: str | None, known: Mapping[str, TensorRow]) -> None:
    if name is not None and name in known:
        ui.navigate.to(tensor_address(key, name))


def tensor_address(key: str, name: str) -> str:
    """Where a tensor's curves are."""
    return f"/model/{key}/tensor?name={quote(name)}"
