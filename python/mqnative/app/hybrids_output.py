"""What ``mqnative hybrids`` prints besides its tables: JSON, and the call itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mqnative.app.models import shown_model
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
    """The call as reports show it, with file names instead of paths."""
    parts = [f"mqnative hybrids {shown_model(model)}"]
    parts += [] if calib is None else [f"--calib {calib.name}"]
    parts += [] if evaluation is None else [f"--eval {evaluation.name}"]
    parts += [f"--external {e.path.name}" for e in options.externals]
    parts += [f"--presets {','.join(options.presets)}"] if options.presets != PRESETS else []
    parts += [f"--sizes {','.join(map(str, options.sizes))}"] if options.sizes else []
    parts += [f"--types {','.join(options.targets)}"] if options.targets else []
    parts += list(options.constraints.texts)
    parts += [] if options.collapse is None else [f"--collapse {options.collapse}"]
    parts += [] if options.max_bytes is None else [f"--max-bytes {options.max_bytes}"]
    parts += [f"--providers {','.join(options.providers)}"] if options.providers else []
    parts += [
        f"--ctx {options.n_ctx} --probe-chunks {options.probe_chunks}",
        f"--select-chunks {options.select_chunks} --refine {options.refine_rounds} -o OUT",
    ]
    return " ".join(parts)
