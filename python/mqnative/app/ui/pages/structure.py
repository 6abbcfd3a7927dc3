"""A model's structure: facts, a map of layers and roles, a grid of tensors, a tree, its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from nicegui import ui
from nicegui.events import GenericEventArguments

from mqnative.app.ui.frame import drawn, empty, frame, page
from mqnative.app.ui.grid import tensor_grid
from mqnative.app.ui.workspace import Session, Workspace
from mqnative.app.views.heat import MEASURES, Measure, layer_map
from mqnative.app.views.structure import grid_rows, tree
from mqnative.report.summary import TensorRow
from mqnative.report.svg import escape


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
                f"<dd>{escape(view.state)}</dd></dl>",
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

        def show(chosen: Measure) -> None:
            area.set_content(layer_map(view, session.draft, chosen) or "<p>Nothing to show.</p>")

        measure.on_value_change(lambda e: show(e.value))
    with ui.element("section").classes("card stack"):
        ui.html(f"<h2>{len(view.tensors)} tensors</h2>", sanitize=False)
        grid = tensor_grid(grid_rows(view, session.draft), select=False)

        def open_tensor(event: GenericEventArguments) -> None:
            ui.navigate.to(tensor_address(view.key, event.args["rowId"]))

        grid.on("cellDoubleClicked", open_tensor, ["rowId"])
        ui.html('<span class="soft">Double-click a row for its curves.</span>', sanitize=False)
    with ui.element("section").classes("card stack"):
        ui.html("<h2>Tree</h2>", sanitize=False)
        search = ui.input("Search").props("dense outlined clearable").style("max-width: 320px")
        nodes = ui.tree(tree(view), on_select=lambda e: _select(view.key, e.value, view.by_name))
        search.bind_value_to(nodes, "filter")

    def refresh(_names: object = None) -> None:
        show(measure.value)
        grid.run_grid_method("applyTransaction", {"update": grid_rows(view, session.draft)})

    session.changed.subscribe(refresh)


def _select(key: str, name: str | None, known: Mapping[str, TensorRow]) -> None:
    if name is not None and name in known:
        ui.navigate.to(tensor_address(key, name))


def tensor_address(key: str, name: str) -> str:
    """Where a tensor's curves are."""
    return f"/model/{key}/tensor?name={quote(name)}"
