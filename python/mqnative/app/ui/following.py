"""Tabs that follow the recipe: many changes are one drawing, and a tab that was left draws nothing.

A page that was left lives on for a while on the server, in case the connection comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import ui

# How often a tab that lost its connection is looked for.
_LOOK_S = 0.5


def following(
    draw: Callable[[list[str]], Awaitable[None]], pause_s: float = 0.0
) -> Callable[[list[str]], Awaitable[None]]:
    """A subscriber of `Session.changed` for the page that is being made.

    Args:
        draw: given the names of all tensors that changed since it was last called.
        pause_s: so long nothing must have changed before it is; for drawings that take a while.
    """
    client = ui.context.client
    waiting: set[str] = set()
    drawing = asyncio.Lock()
    n_changes = 0

    async def follow(names: list[str]) -> None:
        nonlocal n_changes
        waiting.update(names)
        n_changes += 1
        mine = n_changes
        if pause_s:
            await asyncio.sleep(pause_s)
        while mine == n_changes and not client.has_socket_connection:
            if client.is_deleted:
                return
            await asyncio.sleep(_LOOK_S)
        async with drawing:
            if mine == n_changes and not client.is_deleted:
                changed = sorted(waiting)
                waiting.clear()
                await draw(changed)

    return follow
