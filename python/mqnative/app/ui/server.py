"""Starts the page: one server, bound to this machine unless asked otherwise."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from pathlib import Path

from mqnative.app.ui.folders import Folders
from mqnative.app.ui.guard import TOKEN, Guard, Rules, is_loopback
from mqnative.errors import OutputError
from mqnative.report.svg import NAMESPACE


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is known before the server starts.

    Raises:
        OutputError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot listen on {host}, port {port}: {reason}; choose another with --port or --host"
        ) from error
    listener.listen(128)
    listener.set_inheritable(False)
    return listener


def address(host: str, port: int, token: str | None) -> str:
    """What to open."""
    shown = host
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?{TOKEN}={token}" if token else "")


def serve(
    folders: Folders, home: Path, listener: socket.socket, host: str, token: str | None, *, browser: bool
) -> None:
    """Serve until interrupted.

    Args:
        folders: what the page may read and write.
        home: where its list of models is kept.
        listener: from `bound_socket`.
        host: the address it is bound to.
        token: needed unless that is a loopback address.
        browser: open one.
    """
    # Before the import: it decides where sessions would be kept, which the page does not use.
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(home / "sessions"))
    import uvicorn
    from fastapi import FastAPI
    from nicegui import ui

    from mqnative.app.ui.pages import register
    from mqnative.app.ui.workspace import Workspace

    if not is_loopback(host) and not token:
        raise ValueError("a page that others can reach needs a token")
    port = listener.getsockname()[1]
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    register(Workspace(folders, home))
    ui.run_with(
        web,
        title="mqnative",
        favicon=_ICON,
        dark=None,
        tailwind=False,
        language="en-US",
        show_welcome_message=False,
        reconnect_timeout=30.0,
    )
    guard = Guard(web, Rules.of(host, port, token))
    config = uvicorn.Config(
        guard, log_level="warning", access_log=False, server_header=False, date_header=False
    )
    if browser:
        threading.Timer(0.8, webbrowser.open, [address(host, port, token)]).start()
    uvicorn.Server(config).run(sockets=[listener])


# Three steps down and a point: a frontier.
_ICON = (
    f'<svg xmlns="{NAMESPACE}" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" '
    'fill="#16191d"/><path d="M6 7v9h8v6h12" fill="none" stroke="#15bb95" stroke-width="3"/>'
    '<path d="M14 10l5 5-5 5-5-5z" fill="#ff9a56"/></svg>'
)
