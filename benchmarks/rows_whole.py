"""The whole study of a model, and what each side takes of the machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench import Bench, Layers, Row, faster, say, timed, within
from mqnative.formats.imatrix import read_imatrix
from mqnative.jobs.fit import fit
from mqnative.measure.stored_scores import probe, score
from mqnative.measure.stored_sweep import sweep
from mqnative.measure.study import Compute, Study
from mqnative.predict.damage import Anchor, Damage, TensorCurve, damage_table, role_of
from mqnative.store import Store
from rows_encode import all_rows_estimate
from rows_kld import forward_passes

ANCHOR = "Q3_K"
# Sizes of the five candidates, as shares of the source's.
SIZES = (0.30, 0.35, 0.40, 0.45, 0.50)
FILES_TRIED = 3
_PRESET = "Q4_K_M"
_HALF = 0.5  # of the layers, on average, that a probe runs through
_CHILD = Path(__file__).with_name("memory_child.py")


def study(bench: Bench) -> list[Row]:
    """From an imatrix to verified candidates, against a file for every (tensor, type)."""
    n_pairs = sum(map(len, bench.candidates.values()))
    estimate = len(bench.candidates) * _HALF * forward_passes(bench) + all_rows_estimate(bench) / 4
    layers = Layers.of(bench.candidates, estimate)
    say(f"study: {len(layers.inner)} + {len(layers.outer)} probes, {layers.note}")
    parts = _study_seconds(bench, layers)
    say(f"study: {FILES_TRIED} of {n_pairs} files")
    each = sum(_file_seconds(bench, *pair) for pair in _some_pairs(bench)) / FILES_TRIED
    note = (
        f"{', '.join(f'{name} {s:.1f} s' for name, s in parts.items())}; {layers.note}; one run; theirs: "
        f"{FILES_TRIED} files written, loaded and evaluated ({each:.2f} s each) x {n_pairs} (tensor, type) "
        "pairs"
    )
    return [faster("whole study", sum(parts.values()), each * n_pairs, 20.0, note)]


def _study_seconds(bench: Bench, layers: Layers) -> dict[str, float]:
    """Seconds by step, through an empty store as in the product."""
    seconds = dict.fromkeys(("open and hash", "sweep", "probes", "solve", "verify"), 0.0)
    with Store.open(bench.path("store")) as store:
        opened: list[Study] = []
        compute = Compute(n_threads=bench.n_threads)
        seconds["open and hash"] = timed(
            lambda: opened.append(Study(bench.model_path, store, compute=compute))
        )
        with opened[0] as found:
            seconds["open and hash"] += timed(lambda: found.model)
            curves: list[TensorCurve] = []
            for names, scale in ((layers.inner, layers.scale), (layers.outer, 1.0)):
                sweep_s, probe_s = _measure(bench, found, names, curves)
                seconds["sweep"] += scale * sweep_s
                seconds["probes"] += scale * probe_s
            mixes: dict[str, dict[str, str]] = {}
            seconds["solve"] = timed(lambda: mixes.update(_candidates(bench, curves)))
            seconds["verify"] = timed(lambda: score(found, "verify", bench.corpus, mixes, bench.importances))
    return seconds


def _measure(
    bench: Bench, found: Study, names: tuple[str, ...], curves: list[TensorCurve]
) -> tuple[float, float]:
    """Sweep and probe these tensors; their curves are added to ``curves``."""
    if not names:
        return 0.0, 0.0
    wanted = {name: bench.candidates[name] for name in names}
    anchors = {name: ANCHOR if ANCHOR in types else types[len(types) // 2] for name, types in wanted.items()}
    errors = {}
    klds = {}
    sweep_s = timed(lambda: errors.update(sweep(found, wanted, bench.importances)))
    probe_s = timed(lambda: klds.update(probe(found, bench.corpus, anchors, bench.importances)))
    for name in names:
        by_type = {t: e.weighted * errors[name].energy for t, e in errors[name].errors.items()}
        anchor = Anchor(anchors[name], float(klds[name].mean()), float(klds[name].var()) / bench.n_chunks)
        curves.append(TensorCurve(name, by_type, (anchor,), bench.file.tensors[name].n_weights))
    return sweep_s, probe_s


def _candidates(bench: Bench, curves: list[TensorCurve]) -> dict[str, dict[str, str]]:
    """A mix for each of SIZES; a tensor that was not measured takes after one of its role."""
    table = damage_table(curves)
    by_role = {role_of(c.name): table[c.name] for c in curves}
    damages: dict[str, dict[str, Damage]] = {}
    for name, types in bench.candidates.items():
        known = table[name] if name in table else by_role[role_of(name)]
        damages[name] = {t: known[t] for t in types if t in known}
    importances = read_imatrix(bench.imatrix)
    found = {}
    for share in SIZES:
        size = int(share * bench.file.file_bytes)
        solved = fit(
            bench.file, bench.tensors, damages, size, importances, imatrix_name="imatrix.gguf", source_hash=""
        )
        found[f"{share:g}"] = dict(solved.plan.types)
    return found


def _some_pairs(bench: Bench) -> list[tuple[str, str]]:
    """(tensor, type) pairs spread evenly over all."""
    pairs = [(name, t) for name, types in bench.candidates.items() for t in types]
    return [pairs[(2 * i + 1) * len(pairs) // (2 * FILES_TRIED)] for i in range(FILES_TRIED)]


def _file_seconds(bench: Bench, name: str, target: str) -> float:
    """Whole processes: a user of files pays for loading them."""
    base, path = bench.base, bench.path("pair.gguf")
    written = bench.tools.one_tensor(bench.model_path, path, name, target, bench.imatrix)
    seconds = written.wall_s + bench.tools.kld(path, base).wall_s
    path.unlink()
    return seconds


def memory(bench: Bench) -> list[Row]:
    """Peak memory of a process that does the work of each tool."""
    say("memory")
    quantized, base = bench.preset_file(_PRESET), bench.base
    common = (bench.text, bench.n_chunks, bench.n_threads)
    again = bench.path("memory.kld")
    passes = (
        _peak(bench.tools.base_command(bench.model_path, bench.text, bench.n_chunks, again)),
        _peak(bench.tools.kld_command(quantized, base)),
    )
    mix = _peak(_child("mix", bench.model_path, _PRESET, bench.imatrix, *common))
    files = _peak(_child("eval", bench.model_path, quantized, *common))
    own = _peak(_child("imatrix", bench.model_path, bench.path("memory-own.gguf"), *common))
    upstream = _peak(
        bench.tools.imatrix_command(
            bench.model_path, bench.text, bench.n_chunks, bench.path("memory-upstream.gguf")
        )
    )
    unit = "MiB, not seconds; ru_maxrss, mapped weights included"
    theirs = f"theirs: the larger of base pass ({passes[0]:.0f}) and KLD run ({passes[1]:.0f})"
    return [
        within("peak memory, KLD of a mix in memory", mix, max(passes), 1.2, f"{unit}; {_PRESET}; {theirs}"),
        within(
            "peak memory, KLD of a file", files, max(passes), 1.2, f"{unit}; both models loaded; {theirs}"
        ),
        within("peak memory, imatrix", own, upstream, 1.2, unit),
    ]


def _child(*arguments: object) -> list[str]:
    return [sys.executable, str(_CHILD), *map(str, arguments)]


# A process counts the peak of the one that it was forked from until it starts its own program, so that a
# large parent would hide a small child. This parent is small.
_LAUNCHER = """
import os, sys
quiet = [(os.POSIX_SPAWN_DUP2, 2, 1)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(child, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _peak(command: list[str]) -> float:
    """MiB of resident memory that a command needs at most (Linux counts ru_maxrss in KiB)."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *command], capture_output=True, check=False, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return int(done.stdout.splitlines()[-1]) / 1024
