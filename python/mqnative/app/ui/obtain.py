"""Models that are no GGUF here yet: what they take is shown first, downloading and converting are jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nicegui import ui

from mqnative.app.ui import runner
from mqnative.app.ui.frame import fail
from mqnative.errors import MQNativeError
from mqnative.report.numbers import size_text
from mqnative.report.svg import escape
from mqnative.store.paths import home

# So many files are named; of more, how many there are.
_MOST_NAMES = 8


def is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a model as the hub has it, and no GGUF."""
    return path.is_dir() and (path / "config.json").is_file() and not any(path.glob("*.gguf"))


async def hub_dialog(model: str) -> None:
    """Ask whether to download a repository, its files and their size first.

    Args:
        model: ``org/name``, with revision or file.
    """
    try:
        found = await runner.dry_fetch(model, home())
    except MQNativeError as error:
        fail(error)
        return
    files = [(str(f.get("name")), int(f.get("size_bytes") or 0)) for f in found.get("files", ())]
    missing, total = int(found.get("remaining_bytes") or 0), int(found.get("size_bytes") or 0)
    here = "everything is here already" if not missing else f"{size_text(missing)} are missing here"
    said = f"<p>{len(files)} files, {escape(size_text(total))}; {escape(here)}.</p>{_list(files)}"
    if any(name.endswith(".gguf") for name, _ in files):
        _ask(f"Download {model}?", said, "Download", ["fetch", "--", model])
    else:
        said += "<p>They are converted to GGUF then, by llama.cpp's own converter.</p>"
        _ask(f"Download {model}?", said, "Download and convert", _conversion(model, model.partition("@")[0]))


def convert_dialog(folder: Path) -> None:
    """Ask whether to convert a folder as the hub has it."""
    files = [(p.name, p.stat().st_size) for p in sorted(folder.iterdir()) if p.is_file()]
    said = "<p>It is no GGUF yet; llama.cpp's own converter makes one of it, beside nothing else.</p>"
    _ask(f"Convert {folder.name}?", said + _list(files), "Convert", _conversion(str(folder), folder.name))


def _conversion(model: str, name: str) -> list[str]:
    output = home() / "models" / f"{name.rpartition('/')[2]}.gguf"
    return ["convert", "-o", str(output), "--", model]


def _list(files: Sequence[tuple[str, int]]) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(size_text(size))}</dd>" for name, size in files[:_MOST_NAMES]
    )
    more = len(files) - _MOST_NAMES
    return f'<dl class="facts-list">{rows}</dl>' + (f"<p>and {more} more</p>" if more > 0 else "")


def _ask(title: str, said: str, what: str, command: Sequence[str]) -> None:
    async def begin() -> None:
        go.props("loading")
        try:
            (home() / "models").mkdir(parents=True, exist_ok=True)
            number = await runner.start(command, home())
        except MQNativeError as error:
            fail(error)
            return
        finally:
            go.props(remove="loading")
        dialog.close()
        ui.navigate.to(f"/jobs/{number}")

    with ui.dialog() as dialog, ui.card().classes("asking"):
        ui.html(f"<h2>{escape(title)}</h2>{said}", sanitize=False)
        with ui.element("div").classes("line"):
            go = ui.button(what, icon="download", on_click=begin).props("unelevated")
            ui.button("Not now", on_click=dialog.close).props("flat")
    dialog.open()
