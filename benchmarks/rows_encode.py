"""Encoding: the error sweep by sample against all rows, the imatrix, and writing files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from importlib import import_module
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import Bench, Layers, Row, between, faster, race, say, skipped, timed
from mqnative.build.plan import BuildPlan, plan_build
from mqnative.build.writer import build_gguf
from mqnative.formats.imatrix import read_imatrix, write_imatrix
from mqnative.formats.recipe import Recipe
from mqnative.measure.imatrix import collect_imatrix
from mqnative.measure.sweep import sweep_tensor
from mqnative.measure.sweep_model import sweep_model
from mqnative.measure.weight_error import TensorSweep
from mqnative.source.identity import identify

TOLERANCE = 0.02
PRESET, NEXT_PRESET = "Q4_K_M", "Q4_K_S"
_TRIED_ROWS = 32
_COVERAGE_LAYERS = re.compile(r"blk\.[1357]\.")
_COVERAGE_SEEDS = 5
_CACHE_BYTES = 20 * 10**9


def sweep(bench: Bench) -> list[Row]:
    """Every tensor at every type: 2 % half-width against all rows, both ours."""
    layers = Layers.of(bench.candidates, all_rows_estimate(bench))
    say(f"sweep: {len(layers.inner)} + {len(layers.outer)} tensors, {layers.note}")
    ours, everything = race(
        bench.repeat,
        lambda: sweep_seconds(bench, layers, TOLERANCE),
        lambda: sweep_seconds(bench, layers, 0.0),
    )
    n_pairs = sum(map(len, bench.candidates.values()))
    rest = "" if layers.step == 1 else f"; all rows of the embedding and head from every {layers.step}th"
    note = f"both ours; {n_pairs} (tensor, type) pairs, {layers.note}{rest}"
    speed = faster("sweep at 2 %, against all rows", ours, everything, bench.bar(4.0, 10.0), note)
    return [speed, coverage(bench)]


def coverage(bench: Bench) -> Row:
    """How often the 95 % intervals of sampled errors hold the errors of all rows."""
    # Every layer's tensors are much alike: a few layers tell, and several samples of each tell more.
    names = [name for name in bench.candidates if _COVERAGE_LAYERS.match(name)]
    n_cases = n_covered = 0
    for name in names:
        exact = swept(bench, name, 0.0, seed=0).errors
        for seed in range(1, 1 + _COVERAGE_SEEDS):
            for qtype, error in swept(bench, name, TOLERANCE, seed).errors.items():
                if error.half_width > 0:
                    n_cases += 1
                    off = abs(error.weighted - exact[qtype].weighted)
                    n_covered += off <= error.half_width * error.weighted
    note = f"not seconds; {n_cases} intervals: {len(names)} tensors x types x {_COVERAGE_SEEDS} samples"
    return between("sweep, share of 95 % intervals that cover", n_covered / n_cases, 0.92, 0.98, note)


def swept(bench: Bench, name: str, tolerance: float, seed: int) -> TensorSweep:
    """One tensor's errors at every type it may get."""
    info = bench.file.tensors[name]
    return sweep_tensor(
        bench.file.data(name),
        info.qtype,
        info.matrix_shape,
        bench.candidates[name],
        bench.importances[name],
        seed=seed,
        tolerance=tolerance,
        n_threads=bench.n_threads,
    )


def all_rows_estimate(bench: Bench) -> float:
    """Seconds that a sweep over all rows would take, from some rows of one tensor."""
    name = max(bench.candidates, key=lambda n: len(bench.candidates[n]))
    sweep_rows(bench, name, 0.0, _TRIED_ROWS)  # builds the tables of the IQ types, once per process
    seconds = timed(lambda: sweep_rows(bench, name, 0.0, _TRIED_ROWS))
    tried = min(_TRIED_ROWS, bench.file.tensors[name].matrix_shape[1]) * bench.file.tensors[name].shape[0]
    return seconds / tried * sum(bench.file.tensors[n].n_weights for n in bench.candidates)


def sweep_seconds(bench: Bench, layers: Layers, tolerance: float) -> float:
    """Seconds of a sweep of the whole model, scaled up from what is measured of it."""

    def run(names: Iterable[str], part: int = 1) -> float:
        started = time.perf_counter()
        if part == 1:
            targets = {name: bench.candidates[name] for name in names}
            seeds = dict.fromkeys(targets, 1)
            n_threads = bench.n_threads
            measured = sweep_model(
                bench.file,
                targets,
                bench.importances,
                seeds,
                tolerance=tolerance,
                n_threads=n_threads,
                progress=lambda _name, _share: None,
            )
            for _ in measured:
                pass
        else:
            for name in names:
                sweep_rows(bench, name, tolerance, bench.file.tensors[name].matrix_shape[1] // part)
        return time.perf_counter() - started

    # Sampling gains with the number of rows, so that only the side that takes all may leave some out.
    part = layers.step if tolerance == 0 else 1
    return layers.scale * run(layers.inner) + part * run(layers.outer, part)


def sweep_rows(bench: Bench, name: str, tolerance: float, n_rows: int) -> None:
    """Sweep the first rows of a tensor (every slice's, if all rows are wanted)."""
    info = bench.file.tensors[name]
    n_slices, total, n_per_row = info.matrix_shape
    if n_rows < total:
        n_slices = 1
    n_rows = min(n_rows, total)
    weights = bench.importances[name]
    sweep_tensor(
        bench.file.data(name)[: n_slices * n_rows * info.qtype.row_bytes(n_per_row)],
        info.qtype,
        (n_slices, n_rows, n_per_row),
        bench.candidates[name],
        weights if weights is None else weights[:n_slices],
        seed=1,
        tolerance=tolerance,
        n_threads=bench.n_threads,
    )


def imatrix(bench: Bench) -> list[Row]:
    """Collecting an imatrix, the file included, without the head (llama-imatrix's default)."""
    say("imatrix")
    own, upstream = bench.path("own-imatrix.gguf"), bench.path("upstream-imatrix.gguf")

    def ours() -> None:
        write_imatrix(own, collect_imatrix(bench.model, bench.read(), process_output=False), force=True)

    seconds, theirs = race(
        bench.repeat,
        lambda: timed(ours),
        lambda: bench.tools.imatrix(bench.model_path, bench.text, bench.n_chunks, upstream).work_s,
    )
    return [faster("imatrix", seconds, theirs, 1.0, f"{bench.n_chunks} chunks; theirs with --no-ppl")]


def build(bench: Bench) -> list[Row]:
    """Writing a preset's mix with an imatrix."""
    say(f"build: {PRESET}")
    plan = _plan(bench, PRESET)
    planning = timed(lambda: _plan(bench, PRESET))
    ours, theirs = race(bench.repeat, lambda: _build(bench, plan), lambda: _quantize(bench, PRESET))
    note = (
        f"theirs by its own total time; planning (types of {PRESET}, layout, nearest preset) takes "
        f"{planning:.3f} s more of ours"
    )
    return [faster(f"build {PRESET}", ours, theirs, 1.0, note)]


def ladder(bench: Bench) -> list[Row]:
    """The second file of a ladder, most of whose tensors have the types that the first one gave them."""
    name = f"build {NEXT_PRESET} after {PRESET}"
    if not _HAS_ENCODE_CACHE:
        return [skipped(name, "this version has no encode cache")]
    say(f"ladder: {name}")
    first, second = _plan(bench, PRESET), _plan(bench, NEXT_PRESET)

    def ours() -> float:
        with TemporaryDirectory(dir=bench.folder) as folder:
            _build(bench, first, cache=_encode_cache(bench, Path(folder)))
            return _build(bench, second, cache=_encode_cache(bench, Path(folder)))

    shared = sum(t.size_bytes for t in second.tensors if first.types[t.name] == t.qtype)
    seconds, theirs = race(bench.repeat, ours, lambda: _quantize(bench, NEXT_PRESET))
    note = f"{100 * shared / second.tensor_bytes:.0f} % of its bytes were in {PRESET} too"
    return [faster(name, seconds, theirs, 3.0, note)]


# ENCODE CACHE: this and `_encode_cache` are all that knows of it.
_HAS_ENCODE_CACHE = "cache" in signature(build_gguf).parameters


def _encode_cache(bench: Bench, folder: Path) -> Any:
    """What `build_gguf` takes as its cache, opened anew."""
    cache = import_module("mqnative.store.encode_cache").EncodeCache(folder, _CACHE_BYTES)
    encoded = import_module("mqnative.source.encoded").EncodedTensors
    return encoded.of(bench.file, identify(bench.file).tensors, cache)


def _plan(bench: Bench, preset: str) -> BuildPlan:
    recipe = Recipe(tensors=bench.preset_types(preset))
    return plan_build(bench.file, recipe, read_imatrix(bench.imatrix), imatrix_name=bench.imatrix.name)


def _build(bench: Bench, plan: BuildPlan, **options: Any) -> float:
    path = bench.path("own.gguf")
    seconds = timed(lambda: build_gguf(bench.file, plan, path, n_threads=bench.n_threads, **options))
    path.unlink()
    return seconds


def _quantize(bench: Bench, preset: str) -> float:
    path = bench.path("upstream.gguf")
    seconds = bench.tools.preset(bench.model_path, path, preset, bench.imatrix).work_s
    path.unlink()
    return seconds
