"""A release of hybrids on trained models: its table, its chords, rivals at equal bytes, what isolation took.

    python benchmarks/hybrids.py FOLDER [--models a,b] [--parts table,rivals,repeat,claim] [--out DIR]

FOLDER holds *-bf16.gguf, text/calib.txt, text/eval.txt and rivals.json, which has what others reach on the
whole of eval.txt. Baselines are the presets of rivals.json; the smallest size of each of its names is asked
for, so that there is a file at each. Everything goes through the store: a stopped run goes on. Parts: the
release itself; its files against rivals on all of eval.txt; the isolation table on two disjoint halves of the
probe text; whether Q6_K beats Q8_0 on some tensors.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from mqnative.app.hybrids_output import command_text
from mqnative.app.output import ProgressMonitor
from mqnative.core.info import build_info
from mqnative.hybrids.contrast import judge_together
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.isolation import measure_patterns, patterns
from mqnative.jobs.hybrids.request import HybridOptions
from mqnative.jobs.hybrids.run import hybrids, stand
from mqnative.measure.corpus import Corpus
from mqnative.measure.stored_scores import mix_means, score
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import Resamples, mean_estimate
from mqnative.report.hybrid_pages import to_markdown
from mqnative.store import Store

PARTS = ("table", "rivals", "repeat", "claim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("bench-hybrids"))
    parser.add_argument("--claim-chunks", type=int, default=8)
    arguments = parser.parse_args()
    info = build_info()
    print(f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, {info['features']}\n")
    rivals = json.loads((arguments.folder / "rivals.json").read_text(encoding="utf-8"))["models"]
    for model in sorted(arguments.folder.glob("*-bf16.gguf")):
        name = model.stem.removesuffix("-bf16")
        if arguments.models and name not in arguments.models.split(","):
            continue
        rows = rivals[name]["rows"]
        presets = [r for r in rows if r["kind"] == "preset"]
        options = HybridOptions(presets=tuple(r["name"] for r in presets), sizes=smallest_of_each(rows))
        parts = arguments.parts.split(",")
        out = arguments.out / name
        out.parent.mkdir(parents=True, exist_ok=True)
        with ProgressMonitor() as monitor:
            command = command_text(model, *texts(arguments.folder), options)
            done = hybrids(model, *texts(arguments.folder), out, options, command=command, monitor=monitor)
        if "table" in parts:
            print(f"## {name}\n")
            print(as_part(to_markdown(done.report)))
            print(below_chords(done.manifest["survivors"]), flush=True)
        if set(parts) & {"rivals", "repeat", "claim"}:
            with (
                ProgressMonitor() as monitor,
                Store.open() as store,
                Study(model, store, monitor=monitor) as study,
            ):
                ground, _ = stand(study, *texts(arguments.folder), [], options, monitor)
                if "rivals" in parts:
                    print(against(ground, out, done.manifest["survivors"], rows), flush=True)
                if "repeat" in parts:
                    print(f"{name}: {repeat(ground)}\n", flush=True)
                if "claim" in parts:
                    print(f"{name}: {claim(ground, arguments.claim_chunks)}\n", flush=True)


def texts(folder: Path) -> tuple[Path, Path]:
    """Calibration and held-out text."""
    return folder / "text" / "calib.txt", folder / "text" / "eval.txt"


def as_part(card: str) -> str:
    """A model card below a heading of second level, without its plot, which is a file of its own."""
    lines = [f"##{line}" if line.startswith("#") else line for line in card.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if not line.startswith("!["))) + "\n"


def smallest_of_each(rows: list[dict[str, Any]]) -> tuple[int, ...]:
    """The bytes of the smallest file of each name, so that ours are not larger than any of them."""
    sizes: dict[str, int] = {}
    for r in rows:
        sizes[r["name"]] = min(r["size_bytes"], sizes.get(r["name"], r["size_bytes"]))
    return tuple(sorted(set(sizes.values())))


def below_chords(survivors: list[dict[str, Any]]) -> str:
    """Which hybrids lie below their chord on held-out text, the interval excluding zero."""
    hybrids_only = [s for s in survivors if s["level"] != "baseline"]
    lines = []
    for key, what in (("below_chord", "baselines"), ("below_chord_in_table", "neighbours in the table")):
        known = [s for s in hybrids_only if s[key] is not None]
        below = [s for s in known if s[key]["ci95"][1] < 0]
        lines.append(f"{len(below)} of {len(known)} hybrids lie below the chord of {what}, beyond doubt.")
    return " ".join(lines) + f" Sizes of hybrids: {len({s['size_bytes'] for s in hybrids_only})}.\n"


def repeat(ground: Ground) -> str:
    """Rank correlation of the isolation table on two halves of the probe text."""
    text = ground.parts.probe.head(ground.options.probe_chunks)
    found = patterns(ground)
    halves = []
    for start in (0, 1):
        half = Corpus(text.inputs[start::2], text.tokens[start::2], text.source)
        isolation = measure_patterns(ground.study, half, found, ground.measured.importances)
        halves.append([s.damage.value for samples in isolation.samples.values() for s in samples])
    whole = float(spearmanr(*halves).statistic)
    return f"{len(halves[0])} samples of {len(found)} groups, Spearman {whole:.4f} between disjoint halves"


def claim(ground: Ground, n_chunks: int) -> str:
    """Whether a tensor is better at Q6_K than at Q8_0: by itself, and in a mix of Q8_0 everywhere."""
    text, importances = ground.parts.held_out.head(n_chunks), ground.measured.importances
    names = [n for n, types in ground.measured.table.items() if {"Q8_0", "Q6_K"} <= set(types)]
    blanket = dict.fromkeys(names, "Q8_0")
    mixes: dict[str, dict[str, str]] = {"": blanket}
    mixes |= {f"in {n}": blanket | {n: "Q6_K"} for n in names}
    mixes |= {f"{t} {n}": {n: t} for n in names for t in ("Q8_0", "Q6_K")}
    klds = {k: m.kld for k, m in mix_means(ground.study, "claim", text, mixes, importances).items()}
    said = []
    for what, pairs in (
        ("alone", {n: (f"Q6_K {n}", f"Q8_0 {n}") for n in names}),
        ("among Q8_0", {n: (f"in {n}", "") for n in names}),
    ):
        family = judge_together(klds, [{a: 1.0, b: -1.0} for a, b in pairs.values()])
        better = [(n, e) for n, e in zip(pairs, family.estimates, strict=True) if e.ci95[1] < 0]
        worse = sum(e.ci95[0] > 0 for e in family.estimates)
        lower = sum(e.value < 0 for e in family.estimates)
        said.append(
            f"{what}: of {len(names)} tensors Q6_K is better beyond doubt on {len(better)}, "
            f"worse on {worse}, "
            f"undecided on {len(names) - len(better) - worse} ({lower} have a lower mean KLD at Q6_K)"
        )
        for n, e in sorted(better, key=lambda found: found[1].value)[:5]:
            said.append(f"{n}: {e.value:.3g} ({e.ci95[0]:.3g} to {e.ci95[1]:.3g})")
    return f"Q6_K against Q8_0 on {text.n_chunks} held-out chunks, paired, intervals together: " + "; ".join(
        said
    )


def against(ground: Ground, out: Path, survivors: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """The best published file of at most a rival's bytes against the rival, on all of the held-out text.

    Presets that are published as they are have the bytes that llama-quantize gives them: ours are the same
    tensors under a longer header, which would make every rival that is this very preset smaller.
    """
    text, importances = ground.parts.held_out, ground.measured.importances
    mixes = {}
    survivors = [dict(s) for s in survivors]
    for s in survivors:
        manifest = json.loads((out / s["manifest_path"]).read_text(encoding="utf-8"))
        mixes[s["name"]] = manifest["types"]
        if s["level"] == "baseline":
            s["size_bytes"] = ground.upstream_bytes(manifest["types"])
    klds: dict[str, Any] = {}
    for name, types in mixes.items():
        found = score(ground.study, f"rivals {name}", text, {name: types}, importances)[name].kld
        assert found is not None
        klds[name] = mean_estimate(found, Resamples.of(len(found)))
    lines = [
        "| rival | bytes | KLD | our file | bytes | KLD | ratio | sigmas |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    worse = 0
    for r in sorted(rows, key=lambda r: (r["size_bytes"], r["kind"])):
        fitting = [s for s in survivors if s["size_bytes"] <= r["size_bytes"]]
        if not fitting:
            lines.append(
                f"| {r['kind']} {r['name']} | {r['size_bytes']} | {r['kld_mean']} | none so small | | | | |"
            )
            continue
        best = min(fitting, key=lambda s: klds[s["name"]].value)
        own = klds[best["name"]]
        sigmas = (own.value - r["kld_mean"]) / math.hypot(own.se, r["kld_se"])
        worse += sigmas > 1.96
        lines.append(
            f"| {r['kind']} {r['name']} | {r['size_bytes']} | {r['kld_mean']:.6f} | {best['name']} | "
            f"{best['size_bytes']} | {own.value:.6f} | {own.value / r['kld_mean']:.3f} | {sigmas:.1f} |"
        )
    ratios = [
        min(klds[s["name"]].value for s in survivors if s["size_bytes"] <= r["size_bytes"]) / r["kld_mean"]
        for r in rows
        if any(s["size_bytes"] <= r["size_bytes"] for s in survivors)
    ]
    mean = float(np.exp(np.mean(np.log(ratios))))
    return (
        "\n".join(lines)
        + f"\n\n{worse} of {len(rows)} rivals are better beyond 95 %; geometric mean {mean:.3f}\n"
    )


if __name__ == "__main__":
    main()
