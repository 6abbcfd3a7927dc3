"""Every solver on the same problem, measured: predicted and held-out KLD at several sizes of trained models.

    python benchmarks/quality/solvers.py FOLDER [--models tiny-qwen3] [--bpw 3.0,3.5,4.5] [--out TABLE.md]

FOLDER holds *-bf16.gguf and text/calib.txt, text/eval.txt. Prints one Markdown table per model and size, or
writes them all to a file; fails if any solver does less predicted damage than the exact one. Whatever was
measured before comes from the store, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mqnative.app.output import ProgressMonitor
from mqnative.core.info import build_info
from mqnative.formats.atomic import write_text_atomic
from mqnative.jobs.choose import Chosen
from mqnative.jobs.known import damages_of
from mqnative.jobs.options import Options
from mqnative.jobs.presets import presets_of
from mqnative.jobs.run import RESULT, Run
from mqnative.jobs.solver_table import Row, solver_table
from mqnative.jobs.verify import Judged, judge
from mqnative.measure.stored_scores import score
from mqnative.measure.study import Study
from mqnative.store import Store

# Presets beside the solvers: those nearest below the budget.
_PRESETS = 2
_VERIFY_CHUNKS = 20
_ROUNDING = 1e-12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="", help="names without -bf16.gguf; default: all")
    parser.add_argument("--bpw", default="3.0,3.5,4.5")
    parser.add_argument("--chunks", type=int, default=_VERIFY_CHUNKS, help="held-out chunks")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    wanted = [name for name in arguments.models.split(",") if name]
    models = sorted(arguments.folder.glob("*-bf16.gguf"))
    models = [m for m in models if not wanted or m.stem.removesuffix("-bf16") in wanted]
    texts = (arguments.folder / "text" / "calib.txt", arguments.folder / "text" / "eval.txt")
    sections = [_header(arguments.out)]
    with Store.open() as store:
        for model in models:
            for bpw in (float(b) for b in arguments.bpw.split(",")):
                section = measured(model, texts, bpw, store, arguments.chunks)
                sections.append(section)
                if arguments.out is None:
                    print(section, flush=True)
    if arguments.out is not None:
        write_text_atomic(arguments.out, "\n\n".join(sections) + "\n")


def measured(model: Path, texts: tuple[Path, Path], bpw: float, store: Store, n_chunks: int) -> str:
    """One model at one size: a heading and a table."""
    calib, evaluation = texts
    options = Options(bpw=bpw)
    with ProgressMonitor() as monitor, Study(model, store, monitor=monitor) as study:
        run = Run(study, options, monitor)
        parts = run.parts(calib, evaluation)
        damages = damages_of(run.measure(parts))
        chosen = run.choose(None, {"imatrix": damages})
        presets = presets_of(study.file, damages.imatrix, damages.importances)
        rows = solver_table(run.case(damages), options.demand, chosen, presets)
        rows = _kept(rows)
        mixes = {r.method: r.solution.types for r in rows if r.solution is not None}
        mixes = {RESULT: chosen.fit.solution.types} | mixes
        scores = score(study, "verify", parts.held_out.head(n_chunks), mixes, damages.importances)
        judged = judge(scores, RESULT, options.n_ctx)
    _check(rows)
    name = model.stem.removesuffix("-bf16")
    heading = f"### {name}, {bpw:g} bits per weight (at most {chosen.fit.limit_bytes:,} bytes)"
    return f"{heading}\n\n{_table(rows, chosen, judged)}"


def _kept(rows: Sequence[Row]) -> tuple[Row, ...]:
    """All solvers with an answer, and the largest presets."""
    answered = [r for r in rows if r.solution is not None]
    solvers = [r for r in answered if not r.method.startswith("preset:")]
    presets = [r for r in answered if r.method.startswith("preset:")]
    presets.sort(key=lambda r: -(r.bpw or 0.0))
    return (*solvers, *presets[:_PRESETS])


def _check(rows: Sequence[Row]) -> None:
    """The exact mix is never worse than another in predicted damage."""
    by_method = {r.method: r.solution.damage for r in rows if r.solution is not None}
    exact = by_method["exact"]
    better = {m: d for m, d in by_method.items() if d < exact * (1 - _ROUNDING)}
    if better:
        raise SystemExit(f"better than exact ({exact:.9f}): {better}")


def _table(rows: Sequence[Row], chosen: Chosen, judged: dict[str, Judged]) -> str:
    lines = [
        "| method | bytes | bpw | predicted | of exact | measured KLD | 95 % | of exact | exact is |",
        "|---|---:|---:|---:|---:|---:|---|---:|---|",
    ]
    best, own = chosen.fit.solution.damage, judged[RESULT].figures.kld_mean or 0.0
    for r in rows:
        assert r.solution is not None
        j = judged[r.method]
        predicted = (f"{r.solution.damage:.5f}", f"{r.solution.damage / best:.3f}")
        lines.append(_line(r.method, r.solution.size_bytes, f"{r.bpw:.3f}", predicted, j, own))
    return "\n".join(lines)


def _line(method: str, size: int, bpw: str, predicted: tuple[str, str], judged: Judged, own: float) -> str:
    f = judged.figures
    low, high = f.kld_ci95 or (0.0, 0.0)
    verdict = "" if method == "exact" else judged.verdict or ""
    kld = f.kld_mean or 0.0
    cells = (
        method, size, bpw, *predicted, f"{kld:.5f}", f"{low:.5f} .. {high:.5f}", f"{kld / own:.3f}", verdict
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _header(out: Path | None) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    info = build_info()
    # What is left out is where files lie on this machine.
    shown = ["FOLDER" if Path(a).is_dir() else a for a in sys.argv[1:] if out is None or a != str(out)]
    shown = [a for a in shown if a != "--out"]
    command = f"python benchmarks/quality/solvers.py {shlex.join(shown)}"
    return (
        "# Every solver on the same problem\n\n"
        f"Commit {commit or 'unknown'}, llama.cpp {info['upstream_commit']}; "
        f"made by `{command}`.\n\n"
        "Damages are predicted from probes on other text; KLD is measured on the held-out text, paired with "
        "the exact mix on the same tokens (95 %). Nothing is refined. Presets may be smaller than the budget."
    )


if __name__ == "__main__":
    main()
