"""The report of a finished job as files in a folder: read back, and written in every form."""

from __future__ import annotations

import json
from pathlib import Path

from mqnative.errors import FormatError, OutputError, OutputExistsError, SourceError
from mqnative.formats.atomic import write_bytes_atomic
from mqnative.report import hybrid_pages
from mqnative.report.drawing import report_plots, standalone, to_png
from mqnative.report.html import to_html
from mqnative.report.hybrid_plot import hybrid_plot, plot_style
from mqnative.report.hybrid_plot import standalone as hybrid_drawing
from mqnative.report.hybrid_summary import HybridReport
from mqnative.report.jsonform import from_json, to_json
from mqnative.report.markdown import to_markdown
from mqnative.report.summary import Report

NAME = "report.json"
Results = Report | HybridReport


def read_report(folder: Path) -> Report:
    """The report of one mix in the folder of a finished job.

    Raises:
        SourceError: there is none.
        FormatError: it is damaged, or of a release of hybrids.
    """
    found = read_results(folder)
    if isinstance(found, HybridReport):
        raise FormatError(f"{folder} holds a release of hybrids, no report of one mix", path=str(folder))
    return found


def read_results(folder: Path) -> Results:
    """The report in the folder of a finished job, of one mix or of a release of hybrids.

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
    if "isolation" not in value:
        return from_json(value)
    try:
        return HybridReport.from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path} holds no report of hybrids ({error!r})", path=str(path)) from error


def write_report(
    found: Results, folder: Path, formats: tuple[str, ...], *, force: bool = False
) -> list[Path]:
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
        if form in ("svg", "png"):
            for name, drawing in _drawings(found, form).items():
                files[f"{name}.{form}"] = drawing.encode() if form == "svg" else to_png(drawing)
        else:
            files[f"report.{form}"] = _text(found, form).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    return [_written(folder / name, content, force=force) for name, content in files.items()]


def _text(found: Results, form: str) -> str:
    if isinstance(found, HybridReport):
        if form == "json":
            return json.dumps(found.to_json(), indent=2) + "\n"
        return hybrid_pages.to_html(found) if form == "html" else hybrid_pages.to_markdown(found)
    if form == "json":
        return json.dumps(to_json(found), indent=2) + "\n"
    return to_html(found) if form == "html" else to_markdown(found)


def _drawings(found: Results, form: str) -> dict[str, str]:
    """File stem -> a drawing that stands alone; of a release the one that it has, light or dark."""
    if isinstance(found, HybridReport):
        plot = hybrid_plot(found, "hybrids", 860, 480)
        drawing = hybrid_drawing(found) if form == "svg" else standalone(plot, plot_style(""))
        return {Path(hybrid_pages.PLOT).stem: drawing}
    return {name: standalone(plot) for name, plot in report_plots(found).items()}


def _written(path: Path, content: bytes, *, force: bool) -> Path:
    if path.exists():
        if path.read_bytes() == content:
            return path
        if not force:
            raise OutputExistsError(f"{path} exists and says something else; pass --force", path=str(path))
    write_bytes_atomic(path, content)
    return path
