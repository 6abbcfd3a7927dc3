"""``mqnative ui``: the page on this machine."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from mqnative.app.options import PATH


@click.command(
    short_help="Open the page: look, edit, build, compare.",
    epilog="Example: mqnative ui models/ --no-browser",
)
@click.argument("folders", type=PATH, nargs=-1)
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True, help="0: any free.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Another address than this machine's needs a token.",
)
@click.option("--token", help="What a browser must show once; default: made up where one is needed.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def ui(folders: tuple[Path, ...], port: int, host: str, token: str | None, no_browser: bool) -> None:
    """Serve a page over models in FOLDERS (default: the current one), the store and its jobs.

    Only this machine can reach it, it works offline, and files outside of FOLDERS, the store, the hub's cache
    and the built-in model are out of its reach. Work runs in processes of its own: closing the browser, or
    this server, stops none of it.
    """
    from mqnative import builtin
    from mqnative.app.ui.folders import Folders
    from mqnative.app.ui.guard import is_loopback
    from mqnative.app.ui.server import address, bound_socket, serve
    from mqnative.errors import MissingExtraError, SourceError
    from mqnative.source.hub import Access, Hub
    from mqnative.store.paths import home

    try:
        import nicegui  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "the page needs NiceGUI; install it with `pip install 'mqnative[ui]'`", extra="ui"
        ) from error
    for folder in folders:
        if not folder.is_dir():
            raise SourceError(f"{folder} is no folder; name folders that hold models", path=str(folder))
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    if token is not None and not token.replace("-", "").replace("_", "").isalnum():
        raise click.UsageError("a token is made of letters, digits, - and _")
    store = home()
    roots = [*(folders or (Path.cwd(),)), store, builtin.MODEL.parent, Hub(Access()).cache_dir]
    listener = bound_socket(host, port)
    click.echo(address(host, listener.getsockname()[1], token))
    serve(Folders(roots), store / "ui", listener, host, token, browser=not no_browser)
