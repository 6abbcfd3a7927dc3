"""The report of a finished job as files in a folder: read back, and written in every form."""

from __future__ import annotations

import json
from pathlib import Path

from mqnative.errors import FormatError, OutputError, OutputExistsError, SourceError
from mqnative.formats.atomic import write_bytes_atomic
from mqnative.report.drawing import report_plots, standalone, to_png
from mqnative.report.html import to_html
from mqnative.report.jsonform import from_json, to_json
from mqnative.report.markdown import to_markdown
from mqnative.report.summary import Report

NAME = "report.json"


def read_report(folder: Path) -> Report:
    """The report in the folder of a finished job.

    Raises:
        SourceError: there is none.
        FormatError: it is damaged.
    """
    path = folder / NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(
            f"{folder} holds no report.json; give the folder of a finished job, or its number",
            path=str(folder),
        ) from error
    except ValueError as error:
        raise FormatError(f"{path} is no JSON: {error}", path=str(path)) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no report", path=str(path))
    return from_json(value)


def write_report(found: Report, folder: Path, formats: tuple[str, ...], *, force: bool = False) -> list[Path]:
    """Write a report.

    Args:
        found: the figures.
        folder: where to; made if it is missing.
        formats: ``html``, ``md``, ``json``, ``svg``, ``png``.
        force: replace files that say something else.

    Raises:
        OutputExistsError: a file is there that says something else.
        OutputError: it cannot be written.
        MissingExtraError: PNG without a renderer.
    """
    files: dict[str, bytes] = {}
    for form in dict.fromkeys(formats):
        if form == "html":
            files["report.html"] = to_html(found).encode()
        elif form == "md":
            files["report.md"] = to_markdown(found).encode()
        elif form == "json":
            files["report.json"] = (json.dumps(to_json(found), indent=2) + "\n").encode()
        else:
            for name, plot in report_plots(found).items():
                drawing = standalone(plot)
                files[f"{name}.{form}"] = drawing.encode() if form == "svg" else to_png(drawing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    return [_written(folder / name, content, force=force) for name, content in files.items()]


def _written(path: Path, content: bytes, *, force: bool) -> Path:

    if path.exists():
        if path.read_bytes() == content:
            return path
        if not force:
            raise OutputExistsError(f"{path} exists and says something else; pass --force", path=str(path))
    write_bytes_atomic(path, content)
    return path
