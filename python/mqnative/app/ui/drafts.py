"""Recipes being edited, kept in a folder: one small file for each model on the page."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from nicegui import background_tasks, run

from mqnative.app.views.draft import Draft
from mqnative.app.views.draft_file import draft_from, draft_values
from mqnative.app.views.model_view import ModelView
from mqnative.errors import MQNativeError
from mqnative.formats.atomic import write_text_atomic

# Edits follow each other quickly; so long the last one waits for the next.
_QUIET_S = 0.3


class Drafts:
    """Keeps the last state of every recipe.

    Args:
        folder: made when the first one is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: dict[str, Draft] = {}

    def load(self, view: ModelView) -> Draft | None:
        """What was kept of a model; None if nothing was, or it does not fit any more."""
        try:
            value = json.loads(self._path(view.key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return draft_from(view, value)

    def keep(self, key: str, draft: Draft) -> None:
        """Write a draft soon, on another thread."""
        self._waiting[key] = draft
        background_tasks.create_lazy(self._write_soon(), name="drafts")

    async def _write_soon(self) -> None:
        await asyncio.sleep(_QUIET_S)
        await run.io_bound(self.write)

    def write(self) -> None:
        """Write what waits; a full disk loses the draft, not the page."""
        while self._waiting:
            key, draft = self._waiting.popitem()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text_atomic(self._path(key), json.dumps(draft_values(draft)) + "\n")
            except (OSError, MQNativeError):
                return

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
