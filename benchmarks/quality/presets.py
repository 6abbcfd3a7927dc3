"""Quality at equal bytes: `mqnative auto` against the llama.cpp preset of the same size, and others' mixes.

    python benchmarks/quality/presets.py FOLDER [--models A,B] [--sizes Q4_K_M,Q3_K_M] [--rivals FILE]
        [--fast] [--gptq] [--refine 2] [--out DIR]

FOLDER holds *-bf16.gguf and text/calib.txt, text/eval.txt. KLD in nats per token over the whole held-out
text, ours and the preset's from the same importances, the difference paired on the same tokens. --rivals is
a JSON file of what others reach on that text, {"models": {NAME: {"rows": [{"kind", "name", "size_bytes",
"kld_mean"}]}}}; the budget is then the smallest file of the row. Prints Markdown; what is finished is not
run again.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mqnative.app.output import ProgressMonitor
from mqnative.build.plan import model_tensors
from mqnative.core.info import build_info
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix
from mqnative.formats.recipe import read_recipe
from mqnative.jobs.candidates import importances_of
from mqnative.jobs.main_job import auto
from mqnative.jobs.options import Options
from mqnative.jobs.presets import rivals
from mqnative.measure.corpus import read_corpus
from mqnative.measure.stored_files import score_files
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import Resamples, mean_estimate, verdict
from mqnative.store import Store
from mqnative.store.paths import home

SIZES = "Q6_K,Q5_K_M,Q4_K_M,IQ4_XS,Q3_K_M,IQ3_XXS,Q2_K,IQ2_S"


class Other(NamedTuple):
    """Another's file."""

    size_bytes: int
    kld: float


@dataclass(frozen=True)
class Cell:
    """One size of one model: bytes and KLD of ours and the preset, others' KLD at no fewer bytes."""

    model: str
    size_of: str
    size_bytes: int
    preset_bytes: int
    kld: float
    preset_kld: float
    difference: str
    verdict: str
    others: dict[str, Other]
    passes: int
    elapsed_s: float

    def row(self, names: list[str]) -> str:
        cells = [self.model, self.size_of, f"{self.size_bytes:,}", f"{self.preset_bytes:,}"]
        cells += [f"{self.kld:.6f}", f"{self.preset_kld:.6f}", f"{self.kld / self.preset_kld:.3f}"]
        cells += [self.difference, self.verdict]
        for name in names:
            other = self.others.get(name)
            cells += ["", ""] if other is None else [f"{other.kld:.6f}", f"{self.kld / other.kld:.3f}"]
        return f"| {' | '.join([*cells, f'{self.passes:,}', f'{self.elapsed_s:.0f}'])} |"


def preset_sizes(model: Path, names: list[str]) -> dict[str, int]:
    """The whole file that llama-quantize writes, without an imatrix' own few header bytes."""
    with GGUFFile.open(model) as file:
        importances = importances_of(model_tensors(file), None)
        some = np.ones(1, np.float32)
        header = file.file_bytes - sum(-(-t.size_bytes // 32) * 32 for t in file.tensors.values())
        found = rivals(file, dict.fromkeys(importances, some), header)
    return {name: found[name].size_bytes for name in names}


def passes() -> int:
    """Mixes and swaps on one chunk that the store holds."""
    with sqlite3.connect(home() / "mqnative.db") as db:
        query = "select count(*) from measurements where kind in ('probe', 'mix', 'evaluation')"
        return int(db.execute(query).fetchone()[0])


def published(path: Path | None, model: str) -> dict[str, dict[str, Other]]:
    """Others' files: size of which preset -> kind -> file; presets are measured here."""
    if path is None:
        return {}
    found: dict[str, dict[str, Other]] = {}
    rows = json.loads(path.read_text(encoding="utf-8"))["models"].get(model, {}).get("rows", [])
    for row in rows:
        if row["kind"] != "preset":
            found.setdefault(row["name"], {})[row["kind"]] = Other(row["size_bytes"], row["kld_mean"])
    return found


def cell(folder: Path, model: Path, name: str, preset_bytes: int, options: Options, out: Path) -> Cell:
    calib, evaluation = folder / "text" / "calib.txt", folder / "text" / "eval.txt"
    before, started = passes(), time.monotonic()
    with ProgressMonitor() as monitor:
        done = auto(model, calib, evaluation, out, options, monitor=monitor)
        elapsed, spent = time.monotonic() - started, passes() - before
        imatrix = read_imatrix(out / "work" / "imatrix.gguf")
        with Store.open() as store, Study(model, store, monitor=monitor) as study:
            importances = importances_of(model_tensors(study.file), imatrix)
            preset = rivals(study.file, importances, 0)[name]
            text = read_corpus(study.model, evaluation, n_ctx=options.n_ctx)
            types = read_recipe(out / "recipe.yaml").tensors
            means = mix_means(study, "all text", text, {"own": types, "preset": preset.types}, importances)
            klds = {mix: found.kld for mix, found in means.items()}
            if options.gptq:  # the file's blocks are not those of its mix
                scores = score_files(study, "all text", text, {"own": done.model_path})
                klds["own"] = scores["own"].kld.reshape(text.n_chunks, -1).mean(axis=1)
    own, theirs = (klds[n][:, None] for n in ("own", "preset"))
    difference = mean_estimate(own - theirs, Resamples.of(len(own)))
    low, high = difference.ci95
    return Cell(
        model.stem.removesuffix("-bf16"),
        name,
        done.report.result.size_bytes,
        preset_bytes,
        float(own.mean()),
        float(theirs.mean()),
        f"{difference.value:.6f} ({low:.6f} .. {high:.6f})",
        verdict(difference),
        {},
        spent,
        elapsed,
    )


def geometric(cells: list[Cell], other: str | None) -> float:
    ratios = [c.kld / (c.preset_kld if other is None else c.others[other].kld) for c in cells]
    return float(np.exp(np.mean(np.log(ratios))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", help="names without -bf16.gguf; default: all")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--rivals", type=Path)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--gptq", action="store_true")
    parser.add_argument("--refine", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench-presets"))
    given = parser.parse_args()
    info = build_info()
    print(f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, {info['features']}\n")
    header = [
        "model",
        "size of",
        "bytes",
        "preset bytes",
        "KLD",
        "preset KLD",
        "ratio",
        "difference",
        "verdict",
    ]
    models = sorted(given.folder.glob("*-bf16.gguf"))
    if given.models:
        models = [given.folder / f"{name}-bf16.gguf" for name in given.models.split(",")]
    others = {m: published(given.rivals, m.stem.removesuffix("-bf16")) for m in models}
    names = sorted({n for by_size in others.values() for files in by_size.values() for n in files})
    header += [text for name in names for text in (f"{name} KLD", "ratio")]
    print(f"| {' | '.join([*header, 'passes', 's'])} |")
    print(f"|{'---|' * (len(header) + 2)}")
    for model in models:
        cells = []
        for name, size in preset_sizes(model, given.sizes.split(",")).items():
            out = given.out / f"{model.stem}-{name}"
            out.parent.mkdir(parents=True, exist_ok=True)
            rivals_here = others[model].get(name, {})
            budget = min([size, *(o.size_bytes for o in rivals_here.values())])
            options = Options(
                size_bytes=budget,
                rivals=(name,),
                fast=given.fast,
                gptq=given.gptq,
                refine_rounds=given.refine,
            )
            found = cell(given.folder, model, name, size, options, out)
            found.others.update(rivals_here)
            print(found.row(names), flush=True)
            cells.append(found)
        line = f"{model.stem}: geometric mean of the ratio to the presets {geometric(cells, None):.3f}"
        for other in names:
            some = [c for c in cells if other in c.others]
            line += f", to {other} {geometric(some, other):.3f}" if some else ""
        print(f"\n{line}\n", flush=True)


if __name__ == "__main__":
    main()
