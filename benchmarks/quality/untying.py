"""A tied embedding as a decision: four probes, the choice at some sizes, and the file in stock llama.cpp.

    python benchmarks/quality/untying.py MODEL --texts FOLDER [--bpw 3.5,4.5,6.0] [--tools FOLDER]

MODEL is unquantized, without a head of its own; FOLDER holds calib.txt and eval.txt. With --tools, upstream's
llama-perplexity scores the untied file on the held-out text beside our own evaluation of it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from mqnative.app.output import ProgressMonitor
from mqnative.build.plan import BuildPlan
from mqnative.build.writer import build_gguf
from mqnative.core.info import build_info
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.choose import choose
from mqnative.jobs.damages import Measured
from mqnative.jobs.fit import Demand
from mqnative.jobs.known import damages_of
from mqnative.jobs.options import Options
from mqnative.jobs.run import Run
from mqnative.jobs.untie import mixes_of_uses
from mqnative.jobs.verify import judge
from mqnative.measure.parts import Parts
from mqnative.measure.stored_scores import mix_means, score
from mqnative.measure.study import Study
from mqnative.solve.exact import solve_exact
from mqnative.solve.problem import Problem
from mqnative.store import Store

_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K")
_VERIFY_CHUNKS = 20
_WHY = (
    "Tied at the larger of two types, the embedding takes fewer bytes than two tensors and loses no more, so "
    "that untying pays only where constraints ask different things of the two uses."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--bpw", default="3.5,4.5,6.0")
    parser.add_argument("--tools", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with (
        ProgressMonitor() as monitor,
        Store.open() as store,
        Study(arguments.model, store, monitor=monitor) as study,
        tempfile.TemporaryDirectory() as folder,
    ):
        run = Run(study, Options(bpw=4.5), monitor)
        parts = run.parts(arguments.texts / "calib.txt", arguments.texts / "eval.txt")
        measured = run.measure(parts)
        sections = [_header(arguments.model), _probes(study, parts, measured)]
        sections.append(_decisions(run, parts, measured, [float(b) for b in arguments.bpw.split(",")]))
        if arguments.tools is not None:
            plan = run.plan(measured, {EMBEDDING: "Q4_K", HEAD: "Q6_K"})
            path = Path(folder) / "untied.gguf"
            build_gguf(study.file, plan, path, n_threads=study.n_threads)
            sections.append(_stock(arguments.tools, path, arguments.texts / "eval.txt", plan))
    text = "\n\n".join(sections) + "\n"
    if arguments.out is None:
        print(text)
    else:
        write_text_atomic(arguments.out, text)


def _probes(study: Study, parts: Parts, measured: Measured) -> str:
    """KLD of changing neither use, the input, the head, or both."""
    text = parts.probe.head(16)
    own = measured.tensors[EMBEDDING].qtype_name
    mixes = {f"{use} {t}": mix for t in _TYPES for use, mix in mixes_of_uses(measured.tensors, t).items()}
    mixes["none"] = {EMBEDDING: own, HEAD: own}
    means = mix_means(study, "probes", text, mixes, measured.importances)
    lines = [
        f"## Four probes, {text.n_chunks} chunks: mean KLD in nats per token",
        "",
        "| type | none | input only | head only | both | input + head, of both |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for t in _TYPES:
        a, b, c, none = (float(means[n].kld.mean()) for n in (f"input {t}", f"head {t}", f"both {t}", "none"))
        lines.append(f"| {t} | {none:.6f} | {a:.6f} | {b:.6f} | {c:.6f} | {(a + b) / c:.3f} |")
    share = measured.share
    assert share is not None
    error = f"standard error {share.variance**0.5:.1%}"
    lines += ["", f"At the anchor the input has {share.of_input:.1%} of the damage ({error})."]
    return "\n".join(lines)


def _decisions(run: Run, parts: Parts, measured: Measured, sizes: list[float]) -> str:
    """The best mix of each size, and the best one whose embedding is untied."""
    text = parts.held_out.head(_VERIFY_CHUNKS)
    lines = [
        f"## The choice at {len(sizes)} sizes, measured on {text.n_chunks} held-out chunks",
        "",
        "| at most, bytes | mix | token_embd | output | predicted | measured KLD | 95 % | best is |",
        "|---:|---|---|---|---:|---:|---|---|",
    ]
    for bpw in sizes:
        best = choose(run.case(damages_of(measured)), Demand(bpw=bpw)).fit
        apart = solve_exact(_apart(best.problem), best.limit_bytes)
        mixes = {
            "best": best.plan.types,
            "best untied": run.plan(measured, apart.types).types,
        }
        judged = judge(score(run.study, "verify", text, mixes, measured.importances), "best", text.n_ctx)
        for name, damage in (("best", best.solution.damage), ("best untied", apart.damage)):
            types, figures = mixes[name], judged[name].figures
            low, high = figures.kld_ci95 or (0.0, 0.0)
            cells = (
                f"{best.limit_bytes:,}", name, types[EMBEDDING], types.get(HEAD, "the same tensor"),
                f"{damage:.6f}", f"{figures.kld_mean or 0.0:.6f}", f"{low:.6f} .. {high:.6f}",
                judged[name].verdict or "",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _WHY]
    return "\n".join(lines)


def _apart(problem: Problem) -> Problem:
    """The same without the choices that keep the embedding tied."""
    items = [
        replace(i, choices=tuple(c for c in i.choices if HEAD in c.types(i.name))) if i.second_use else i
        for i in problem.items
    ]
    return replace(problem, items=tuple(items))


def _stock(tools: Path, path: Path, text: Path, plan: BuildPlan) -> str:
    """Upstream's own program loads and scores the file."""
    command = [tools / "llama-perplexity", "-m", path, "-f", text, "-c", "512", "--chunks", "8", "-t", "1"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    said = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", done.stdout + done.stderr)
    if done.returncode != 0 or said is None:
        raise SystemExit(f"llama-perplexity failed ({done.returncode}):\n{done.stderr[-2000:]}")
    types = plan.types
    return (
        "## Stock llama.cpp\n\n"
        f"llama-perplexity loads the file with token_embd at {types[EMBEDDING]} and output at {types[HEAD]} "
        f"({plan.file_bytes:,} bytes) and finds PPL {said[1]} ± {said[2]} on 8 held-out chunks."
    )


def _header(model: Path) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    shown = " ".join(a if not Path(a).exists() else Path(a).name or a for a in sys.argv[1:])
    upstream = build_info()["upstream_commit"]
    return (
        f"# Untying {model.stem}\n\nCommit {commit or 'unknown'}, llama.cpp {upstream}; "
        f"made by `python benchmarks/quality/untying.py {shown}`."
    )


if __name__ == "__main__":
    main()
