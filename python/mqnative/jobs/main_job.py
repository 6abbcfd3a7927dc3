"""The main job as one call: run, publish, or report again what is finished."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.formats.atomic import atomic_path
from mqnative.jobs.auto import run_auto
from mqnative.jobs.options import Options
from mqnative.jobs.publish import publish
from mqnative.jobs.request import OutputFolder
from mqnative.report.jsonform import from_json
from mqnative.report.summary import Report
from mqnative.store import Store


@dataclass(frozen=True)
class Finished:
    """What lies in the output folder.

    Attributes:
        report: the figures.
        manifest: everything needed to make the same bytes again.
        model_path: the file.
        reused: whether it was finished before.
    """

    report: Report
    manifest: dict[str, Any]
    model_path: Path
    reused: bool


def auto(
    model: Path,
    calib: Path,
    evaluation: Path | None,
    output: Path,
    options: Options,
    *,
    mmproj: Path | None = None,
    origin: str = "",
    command: str = "",
    force: bool = False,
    monitor: Monitor = NULL_MONITOR,
) -> Finished:
    """Find, build and prove the best mix of ``model`` under a budget.

    Args:
        model: the unquantized GGUF.
        calib: calibration text; dealt to imatrix, probes and selection.
        evaluation: held-out text for the report; without it a part of ``calib`` is held out.
        output: folder for model, recipe, manifest and reports; made if missing.
        options: budget and effort.
        mmproj: a projector for images or sound, which goes into the folder as it is.
        origin: the hub id and commit that the model is from, for the manifest.
        command: the call as the report shows it.
        force: use a folder that holds another run, and do a finished one again.
        monitor: told every step.

    Raises:
        InfeasibleBudgetError: no mix fits; the feasible range is attached.
        OutputExistsError: the folder holds another run.
        Any other error of the package; what was measured until then is kept and not measured again.
    """
    folder = OutputFolder(output)
    # Two runs into one folder would remove each other's files.
    with Store.open() as store, store.lock(f"output {output.absolute()}"):
        outcome = run_auto(model, calib, evaluation, folder, options, store, force=force, monitor=monitor)
        if outcome is None:
            manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
            report = from_json(manifest["evaluation"])
        else:
            texts = (calib,) if evaluation is None else (calib, evaluation)
            passed = None if mmproj is None else _passed_through(mmproj, output)
            report, manifest = publish(outcome, folder, model.name, texts, command, passed, origin)
    return Finished(report, manifest, output / manifest["model_file"], outcome is None)


def _passed_through(source: Path, folder: Path) -> Path:
    """Copy a file into the folder; the copy."""
    copy = folder / source.name
    with atomic_path(copy) as temporary:
        shutil.copyfile(source, temporary)
    return copy
