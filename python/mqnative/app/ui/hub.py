"""Repositories on the hub: what would be fetched is shown first, the download is a job."""

from __future__ import annotations

from nicegui import ui

from mqnative.app.ui import runner
from mqnative.app.ui.frame import fail
from mqnative.app.ui.workspace import Workspace
from mqnative.errors import MQNativeError
from mqnative.report.numbers import size_text
from mqnative.report.svg import escape


async def fetch_dialog(workspace: Workspace, model: str) -> None:
    """Ask whether to download a repository, its size first.

    Args:
        workspace: takes the model when it is here.
        model: ``org/name``, with revision or file.
    """
    try:
        found = await runner.dry_fetch(model, workspace.home.parent)
    except MQNativeError as error:
        fail(error)
        return
    missing = int(found.get("remaining_bytes") or 0)
    names = ", ".join(str(f.get("name")) for f in found.get("files", ())[:6])

    async def download() -> None:
        dialog.close()
        try:
            number = await runner.start(["fetch", "--", model], workspace.home.parent)
        except MQNativeError as error:
            fail(error)
            return
        ui.navigate.to(f"/jobs/{number}")

    with ui.dialog() as dialog, ui.card():
        ui.html(
            f"<h2>Download {escape(model)}?</h2><p>{escape(size_text(missing))} of "
            f"{escape(size_text(int(found.get('size_bytes') or 0)))} are missing here: {escape(names)}.</p>",
            sanitize=False,
        )
        with ui.element("div").classes("line"):
            ui.button("Download", icon="download", on_click=download).props("unelevated")
            ui.button("Not now", on_click=dialog.close).props("flat")
    dialog.open()
