"""The card that says what the recipe takes of a machine, as it is edited."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from mqnative.app.ui.frame import drawn
from mqnative.app.ui.workspace import Session, loaded
from mqnative.app.views.memory import (
    CACHES,
    CONTEXTS,
    CPU,
    GPU,
    MixMemory,
    Setting,
    memory_of,
    memory_table,
    use_of,
)
from mqnative.core.memory import MemoryUse
from mqnative.errors import MQNativeError
from mqnative.report.svg import escape


class MemoryCard:
    """Context, cache and place are chosen; the bytes follow the recipe.

    Args:
        session: of the model.
        told: called when the setting changed and its bytes are known.
    """

    def __init__(self, session: Session, told: Callable[[], None]) -> None:
        self.session, self.told = session, told
        self.setting = Setting()
        self.now: MixMemory | None = None
        self._use: MemoryUse | None = None
        self._why = "The model's file is not known, so that its cache cannot be counted."

    def show(self) -> None:
        """Draw the card."""
        with ui.element("section").classes("card stack memory-card"):
            ui.html("<h2>Memory</h2>", sanitize=False)
            if self.session.view.source is not None:
                with ui.element("div").classes("line"):
                    n_ctx = _select({n: f"{n:,}" for n in CONTEXTS}, self.setting.n_ctx, "Context")
                    cache = _select(CACHES, self.setting.cache, "KV cache")
                    device = _select({GPU: GPU, CPU: CPU}, self.setting.device, "Where")

                async def choose() -> None:
                    await self._count(Setting(int(n_ctx.value), str(cache.value), str(device.value)))

                for choice in (n_ctx, cache, device):
                    choice.on_value_change(choose)
                self._why = ""
                ui.timer(0.05, choose, once=True)
            self.area = drawn(self._content())

    async def _count(self, setting: Setting) -> None:
        self.setting, source = setting, self.session.view.source
        try:
            use = await loaded(use_of, source, setting)
        except MQNativeError as error:
            use, self._why = None, error.message
        if setting != self.setting:  # another was chosen meanwhile
            return
        self._use, self.now = use, None
        self.area.set_content(self._content())
        self.update()
        self.told()

    def update(self) -> None:
        """Count the recipe again."""
        if self._use is not None:
            view, draft = self.session.view, self.session.draft
            self.now = memory_of(view, draft.types, self.setting, self._use)
            self.area.set_content(self._content())

    def _content(self) -> str:
        if self.now is not None:
            return (
                memory_table(self.now)
                + '<p class="soft">By llama.cpp\'s own accounting; with a GPU, every layer is on it.</p>'
            )
        return f'<p class="soft">{escape(self._why or "Counting.")}</p>'


def _select(options: dict[int, str] | dict[str, str], value: int | str, label: str) -> ui.select:
    return (
        ui.select(options, value=value, label=label)
        .props("dense outlined options-dense")
        .style("flex: 1 1 100px; min-width: 0")
    )
