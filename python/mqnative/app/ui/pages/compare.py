"""Finished runs side by side: their tables, and the sensitivity profiles of several models."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from mqnative.app.ui.frame import drawn, empty, fail, frame, page
from mqnative.app.ui.pages.frontier import measured, released
from mqnative.app.ui.workspace import Workspace, loaded
from mqnative.app.views.model_view import ModelView
from mqnative.app.views.profiles import legend, profile_plots
from mqnative.errors import MQNativeError
from mqnative.report.svg import escape


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/compare", title="Compare", response_timeout=30)
    async def compare_page() -> None:
        async with page("Compare", "Compare"):
            with frame("Compare", "Compare"):
                await _content(workspace)


async def _content(workspace: Workspace) -> None:
    views: dict[str, ModelView] = {}
    for path in workspace.models().values():
        try:
            view = await loaded(workspace.read, path)
        except MQNativeError as error:
            fail(error)
            continue
        name = view.name if view.name not in views else f"{view.name} ({workspace.folders.shown(path)})"
        views[name] = view
    known = {name: view for name, view in views.items() if view.is_measured and view.release is None}
    if not any(v.is_measured or v.report or v.release for v in views.values()):
        empty(
            "Nothing to compare yet",
            "Add models that were measured, or folders of finished runs, on the Models page.",
            ("Models", "/"),
        )
        return
    if known:
        _profiles(known)
    for name, view in views.items():
        if view.report is not None:
            measured(view.report, name)
        if view.release is not None:
            released(view.release)


def _profiles(known: Mapping[str, ModelView]) -> None:
    """How sensitive roles are by depth, of the models that are chosen."""
    with ui.element("section").classes("card stack"):
        ui.html("<h2>Sensitivity by role and depth</h2>", sanitize=False)
        chosen = (
            ui.select(list(known), value=list(known)[:6], multiple=True, label="Models and runs")
            .props("dense outlined options-dense use-chips")
            .style("width: 100%")
        )
        area = drawn("")

    def show() -> None:
        names = [str(name) for name in chosen.value or []]
        plots = profile_plots({name: known[name].tensors for name in names})
        drawing = "".join(
            f"<figure><figcaption>{escape(role)}</figcaption>{plot}</figure>" for role, plot in plots.items()
        )
        key = (
            '<p class="soft">Damage per million weights at Q3_K, nats per token, from the first to the last '
            "layer; all plots have the same axes.</p>"
        )
        area.set_content(f'{key}{legend(names)}<div class="multiples">{drawing}</div>')

    chosen.on_value_change(show)
    show()
