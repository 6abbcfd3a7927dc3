"""One module for each page."""

from __future__ import annotations

from nicegui import app, ui

from mqnative.app.ui.frame import head
from mqnative.app.ui.pages import compare, frontier, jobs, models, recipe, structure, tensor
from mqnative.app.ui.workspace import Workspace


def register(workspace: Workspace) -> None:
    """Make the routes."""
    app.on_shutdown(workspace.drafts.write)
    ui.add_head_html(head(), shared=True)
    for module in (models, structure, tensor, recipe, frontier, jobs, compare):
        module.register(workspace)
