"""What ``mqnative hybrids`` prints besides its tables: JSON, and the call itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mqnative.app.models import shown_model
from mqnative.hybrids.survivors import SPACING
from mqnative.jobs.hybrids.request import PRESETS, HybridOptions
from mqnative.jobs.hybrids.run import Finished


def release_json(done: Finished, output: Path) -> dict[str, Any]:
    """What ``hybrids --json`` prints of a finished release."""
    paths = ("model_path", "manifest_path")
    survivors = [{**s, **{key: str(output / s[key]) for key in paths}} for s in done.manifest["survivors"]]
    report = done.report.to_json()
    return {
        "survivors": survivors,
        "removed": [b for b in report["baselines"] if b["reason"]],
        "baselines": report["baselines"],
        "isolation": report["isolation"],
        "notes": report["notes"],
        "steps": report["steps"],
        "manifest_path": str(output / "manifest.json"),
        "report_path": str(output / "report.html"),
        "card_path": str(output / "README.md"),
        "files": [str(output / name) for name in done.manifest["files"]],
        "launch_flags": [],
        "reused": done.reused,
    }


def command_text(model: Path, calib: Path | None, evaluation: Path | None, options: HybridOptions) -> str:
    """The call as reports show it and a shell takes it, with file names instead of paths."""
    words: list[str] = ["mqnative", "hybrids", shown_model(model)]

    def add(option: str, value: object) -> None:
        words.extend((option, str(value)))

    if calib is not None:
        add("--calib", calib.name)
    if evaluation is not None:
        add("--eval", evaluation.name)
    for e in options.externals:
        add("--external", e.path.name if e.learned is None else e.said)
    if options.presets != PRESETS:
        add("--presets", ",".join(options.presets))
    for option, values in (("--sizes", options.sizes), ("--types", options.targets)):
        if values:
            add(option, ",".join(map(str, values)))
    for text in options.constraints.texts:
        words.extend(text.split(" ", 1))
    for option, value in (("--collapse", options.collapse), ("--max-bytes", options.max_bytes)):
        if value is not None:
            add(option, value)
    if options.providers:
        add("--providers", ",".join(options.providers))
    if options.spacing != SPACING:
        add("--spacing", f"{options.spacing:g}")
    if options.verify_chunks is not None:
        add("--verify-chunks", options.verify_chunks)
    add("--ctx", options.n_ctx)
    add("--probe-chunks", options.probe_chunks)
    add("--select-chunks", options.select_chunks)
    add("--refine", options.refine_rounds)
    add("-o", "OUT")
    return shlex.join(words)
