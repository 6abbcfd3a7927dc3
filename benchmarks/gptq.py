"""What rounding with error feedback (`build --gptq`) saves at the same types: presets with and without it.

    python benchmarks/gptq.py FOLDER

FOLDER holds models (`*-bf16.gguf`) and `text/calib.txt`, `text/eval.txt`. Both files of a pair use the same
imatrix, from the calibration text; feedback uses that text, too. Figures are of the whole held-out text. Then
the same with both collected on one half of the calibration text's documents, the King James Bible, and
measured on each half of the held-out text: what a text of another kind says of it. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRESETS = ("Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
# Where the second document of the fixtures' texts begins.
_SECOND = "SQLite"


def mqnative(*arguments: object) -> str:
    """Run the command; its output."""
    call = [sys.executable, "-m", "mqnative", *map(str, arguments)]
    return subprocess.run(
        call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    ).stdout


def pair(model: Path, preset: str, imatrix: Path, calib: Path, out: Path) -> tuple[Path, Path, float]:
    """The files without and with feedback, and the seconds that feedback takes."""
    plain, fed = out / f"{model.stem}-{preset}.gguf", out / f"{model.stem}-{preset}-gptq.gguf"
    call = ("build", model, "--preset", preset, "--imatrix", imatrix, "--force")
    seconds = []
    for path, options in ((plain, ("--no-cache",)), (fed, ("--gptq", calib))):
        started = time.monotonic()
        mqnative(*call, *options, "-o", path)
        seconds.append(time.monotonic() - started)
    return plain, fed, seconds[1] - seconds[0]


def compared(model: Path, files: tuple[Path, Path], text: Path) -> dict[str, Any]:
    """Figures of the first file, with the second's as its only baseline."""
    found: dict[str, Any] = json.loads(mqnative("compare", model, *files, "-f", text, "--json"))
    return found


def row(found: dict[str, Any]) -> str:
    """Both KLDs with intervals, and their ratio."""
    (fed,) = found["baselines"]
    cells = [f"{f['kld_mean']:.6f} ({f['kld_ci95'][0]:.6f} .. {f['kld_ci95'][1]:.6f})" for f in (found, fed)]
    return f"{cells[0]} | {cells[1]} | {fed['kld_mean'] / found['kld_mean']:.3f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--presets", default=",".join(PRESETS))
    given = parser.parse_args()
    models = sorted(given.folder.glob("*-bf16.gguf"))
    calib, held_out = (given.folder / "text" / name for name in ("calib.txt", "eval.txt"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        print("| model | preset | KLD | with feedback | ratio | more seconds |\n|---|---|---|---|---:|---:|")
        for model in models:
            imatrix = out / f"{model.stem}.imatrix.gguf"
            mqnative("imatrix", model, "-f", calib, "-o", imatrix)
            for preset in given.presets.split(","):
                *files, seconds = pair(model, preset, imatrix, calib, out)
                found = compared(model, (files[0], files[1]), held_out)
                print(f"| {model.stem} | {preset} | {row(found)} | {seconds:.0f} |", flush=True)
        other_kinds(models, calib, held_out, out)


def other_kinds(models: list[Path], calib: Path, held_out: Path, out: Path) -> None:
    """The second table."""
    halves = {}
    for name, text in (("calib", calib), ("eval", held_out)):
        whole = text.read_text(encoding="utf-8")
        at = whole.index(_SECOND)
        halves[name] = []
        for number, part in enumerate((whole[:at], whole[at:])):
            path = out / f"{name}{number}.txt"
            path.write_text(part, encoding="utf-8")
            halves[name].append(path)
    print("\n| model | preset | measured on | KLD | with feedback | ratio |\n|---|---|---|---|---|---:|")
    for model in models:
        imatrix = out / f"{model.stem}.half.gguf"
        mqnative("imatrix", model, "-f", halves["calib"][0], "-o", imatrix)
        first, second, _ = pair(model, "Q4_K_M", imatrix, halves["calib"][0], out)
        for kind, text in zip(("the same kind", "another kind"), halves["eval"], strict=True):
            print(
                f"| {model.stem} | Q4_K_M | {kind} | {row(compared(model, (first, second), text))} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
