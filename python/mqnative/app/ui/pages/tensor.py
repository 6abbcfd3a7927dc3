"""One tensor: its curves over all types, knees marked; a click on a type gives the tensor that type."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

from nicegui import ui
from nicegui.events import GenericEventArguments

from mqnative.app.ui.following import following
from mqnative.app.ui.frame import drawn, empty, frame, page, telling
from mqnative.app.ui.workspace import Session, Workspace, loaded
from mqnative.app.views.curve_plot import Kind, curve_plot
from mqnative.app.views.draft import override, pin
from mqnative.app.views.histogram import histogram_plot
from mqnative.app.views.resolve import tensor_knees
from mqnative.app.views.tensor_table import tensor_facts, type_table
from mqnative.app.views.tiles import tiles
from mqnative.jobs.stored_model import error_histogram
from mqnative.report.svg import escape
from mqnative.store import Store

# The figures are on their way to the browser before the drawings are made.
_FIGURES_FIRST_S = 0.01


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/model/{key}/tensor", title="Tensor")
    async def tensor_page(key: str, name: str = "") -> None:
        async with page("Tensor", "Models"):
            session = await workspace.session(key)
            with frame(name or "Tensor", "Models", session.view, "Tensor"):
                await _content(session, name)


async def _content(session: Session, name: str) -> None:
    view = session.view
    known = [t.name for t in view.tensors if t.curve]
    if not known:
        empty(
            "No curves yet",
            "A run measures what every type costs every tensor; its curves appear here as it goes.",
            ("Start a run", f"/jobs?model={view.key}"),
        )
        return
    if name not in view.by_name:
        name = known[0]
    tensor = view.by_name[name]
    at = known.index(name) if name in known else 0
    with ui.element("div").classes("line chooser"):
        with ui.element("div").classes("chooser-main"):
            ui.button(icon="chevron_left", on_click=lambda: _go(view.key, known[at - 1])).props(
                'outline dense aria-label="Previous tensor"'
            )
            ui.select(known, value=name, label="Tensor", with_input=True).props(
                "dense outlined options-dense"
            ).style("flex: 1 1 auto; min-width: 0").on_value_change(
                lambda e: _go(view.key, e.value) if e.value else None
            )
            ui.button(
                icon="chevron_right", on_click=lambda: _go(view.key, known[(at + 1) % len(known)])
            ).props('outline dense aria-label="Next tensor"')
        ui.button("Undo", icon="undo", on_click=session.undo).props("flat dense no-caps")
        ui.button("Redo", icon="redo", on_click=session.redo).props("flat dense no-caps")
        pinned = ui.switch("Pinned", value=name in session.draft.pins)
    summary = drawn(tiles(view, session.draft))
    if not tensor.curve:
        empty("This tensor keeps its type", f"{name} is never quantized, or was not measured yet.")
        return
    knees = tensor_knees(tensor)
    plots: dict[Kind, ui.html] = {}
    with ui.element("div").classes("even"):
        for kind, title in (("damage", "Damage"), ("error", "Weight error")):
            with ui.element("section").classes("card"):
                ui.html(f"<h2>{title}</h2>", sanitize=False)
                plots[kind] = drawn("")  # type: ignore[index]  # the two literals of Kind
    ui.html(
        '<p class="soft">Filled: measured by a probe; hollow: scaled from one. Whiskers: 95 %. Dotted lines: '
        "where each rule finds the knee. Click a type, or Tab to it and press Enter, to choose it; the "
        "tensor is pinned then.</p>",
        sanitize=False,
    )
    with ui.element("div").classes("columns"):
        with ui.element("section").classes("card"):
            ui.html("<h2>Every type</h2>", sanitize=False)
            table = drawn("")
        with ui.element("div").classes("stack"):
            with ui.element("section").classes("card"):
                ui.html(f"<h2>{escape(name)}</h2>", sanitize=False)
                facts = drawn("")
            with ui.element("section").classes("card") as histogram_card:
                ui.html("<h2>Errors of single weights</h2>", sanitize=False)
                histogram = drawn("")

    async def show(_: list[str]) -> None:
        chosen = session.draft.types[name]
        summary.set_content(tiles(view, session.draft))
        pinned.set_value(name in session.draft.pins)
        await asyncio.sleep(_FIGURES_FIRST_S)
        for kind, area in plots.items():
            wide = curve_plot(tensor, chosen, kind, knees, name=f"{kind}-wide wide-only")
            narrow = curve_plot(
                tensor, chosen, kind, knees, width=370, height=340, name=f"{kind}-narrow narrow-only"
            )
            area.set_content((wide + narrow) or '<p class="soft">Not measured yet.</p>')
        table.set_content(type_table(tensor, chosen, knees))
        facts.set_content(tensor_facts(view, tensor, session.draft))
        bins = [] if view.source is None else await loaded(_histogram, view.source, name, chosen)
        drawing = histogram_plot(bins, chosen)
        histogram_card.set_visibility(bool(drawing))
        histogram.set_content(drawing)

    def choose(event: GenericEventArguments) -> None:
        with telling():
            session.change(override(view, session.draft, [name], str(event.args["type"])))

    def set_pin(wanted: bool) -> None:
        if wanted != (name in session.draft.pins):
            session.change(pin(session.draft, [name], wanted))

    pinned.on_value_change(lambda e: set_pin(bool(e.value)))
    ui.on("pick", choose)
    ui.on("undo", session.undo)
    ui.on("redo", session.redo)
    session.changed.subscribe(following(show))
    await show([])


def _histogram(path: Path, name: str, chosen: str) -> list[tuple[float, float, int]]:
    with Store.open() as store:
        return error_histogram(path, store, name, chosen)


def _go(key: str, name: str) -> None:
    ui.navigate.to(f"/model/{key}/tensor?name={quote(name)}")
