"""Quality at equal bytes: `mqnative auto` against the llama.cpp preset of the same size, on trained models.

    python benchmarks/fixtures.py FOLDER [--sizes Q4_K_M,Q3_K_M,Q2_K] [--fast] [--refine 2] [--out DIR]

FOLDER holds *-bf16.gguf and text/calib.txt, text/eval.txt. Prints one Markdown table; KLD on held-out text,
the difference paired on the same tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from mqnative.app.output import ProgressMonitor
from mqnative.build.plan import model_tensors
from mqnative.core.info import build_info
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.auto import Options
from mqnative.jobs.candidates import importances_of
from mqnative.jobs.main_job import auto
from mqnative.jobs.presets import rivals
from mqnative.report.summary import Report


def preset_sizes(model: Path, names: list[str]) -> dict[str, int]:
    """The whole file that llama-quantize writes, without an imatrix' own few header bytes."""
    with GGUFFile.open(model) as file:
        importances = importances_of(model_tensors(file), None)
        some = np.ones(1, np.float32)
        header = file.file_bytes - sum(-(-t.size_bytes // 32) * 32 for t in file.tensors.values())
        found = rivals(file, dict.fromkeys(importances, some), header)
    return {name: found[name].size_bytes for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="Q4_K_M,Q3_K_M,Q2_K")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--refine", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench-fixtures"))
    arguments = parser.parse_args()
    calib, evaluation = arguments.folder / "text" / "calib.txt", arguments.folder / "text" / "eval.txt"
    info = build_info()
    print(f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, {info['features']}\n")
    print("| model | size of | bytes | preset bytes | KLD | preset KLD | ratio | difference | verdict | s |")
    print("|---|---|---:|---:|---:|---:|---:|---|---|---:|")
    for model in sorted(arguments.folder.glob("*-bf16.gguf")):
        for name, size in preset_sizes(model, arguments.sizes.split(",")).items():
            out = arguments.out / f"{model.stem}-{name}"
            out.parent.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            options = Options(
                size_bytes=size, rivals=(name,), fast=arguments.fast, refine_rounds=arguments.refine
            )
            with ProgressMonitor() as monitor:
                done = auto(model, calib, evaluation, out, options, monitor=monitor)
            print(row(done.report, model.stem, name, time.monotonic() - started), flush=True)


def row(report: Report, model: str, name: str, elapsed_s: float) -> str:
    own = report.result
    preset = next(m for m in report.baselines if m.name == name)
    assert preset.kld_difference is not None
    value, low, high = preset.kld_difference
    cells = (
        model,
        name,
        own.size_bytes,
        preset.size_bytes,
        f"{own.figures.kld_mean:.6f}",
        f"{preset.figures.kld_mean:.6f}",
        f"{own.figures.kld_mean / preset.figures.kld_mean:.3f}",
        f"{value:.6f} ({low:.6f} .. {high:.6f})",
        preset.verdict,
        f"{elapsed_s:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
