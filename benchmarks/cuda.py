"""The engine on a GPU: probes, KLD, imatrix, swaps and a whole study, beside upstream's tools.

    python benchmarks/cuda.py --device CUDA0 --size 1B,8B [--upstream BIN_DIR] [--folder DIR]
        [--chunks N] [--repeat 3] [--threads N] [--auto] [--out benchmarks/cuda.md]

Models are generated: a real one's shape, heavy-tailed noise that repeats every few million weights, so that
8 B are written in a minute. Good for timing, for nothing else. BIN_DIR holds llama-perplexity and
llama-imatrix, built with the same options. `--device CPU --size tiny` tries the script on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

import synthetic
from bench import say, timed
from engine import cpu_name, own_commit
from mqnative import builtin
from mqnative.build.plan import model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.info import build_info, devices
from mqnative.core.model import Model
from mqnative.core.quantize import quantize
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_layout import GGUFLayout, TensorSlot
from mqnative.formats.gguf_writer import write_gguf
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe_data import Recipe
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.imatrix import collect_imatrix
from mqnative.measure.mixes import VariantPool, score_mixes
from mqnative.measure.scoring import scoring_for
from upstream_tools import N_CTX, Tools

SEED = 4711
POOL_WEIGHTS = 4 * 1024 * 1024 + 4093  # a prime more, so that rows do not repeat
TINY = synthetic.Shape(4, 256, 512, 4, 2, 8192, tied=True)
SHAPES = synthetic.SHAPES | {"tiny": TINY}
TARGET = "Q4_0"
SWAP_BYTES = 50_000_000
# What `auto` measures by default: two probes of every tensor on so many chunks, and refinement as much again.
STUDY_CHUNKS = 16
STUDY_PROBES = 2
STUDY_MIXES = 60
STUDY_TARGET_S = 20 * 60


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    ours: str
    theirs: str = ""
    ratio: str = ""
    bar: str = ""
    verdict: str = ""

    def __str__(self) -> str:
        return f"| {self.what} | {self.ours} | {self.theirs} | {self.ratio} | {self.bar} | {self.verdict} |"


@dataclass(frozen=True)
class Bench:
    """One model on one device."""

    size: str
    path: Path
    model: Model
    corpus: Corpus
    folder: Path
    device: str
    repeat: int

    @property
    def n_tokens(self) -> int:
        return self.corpus.n_chunks * N_CTX

    def median_of(self, run: partial[object]) -> float:
        """Seconds; the first run, which warms up, does not count."""
        run()
        return median(timed(run) for _ in range(self.repeat))

    def layers(self, what: str = "ffn_down") -> dict[int, str]:
        """A tensor of an early, a middle and a late layer."""
        n = self.model.vocab.n_layer
        return {layer: f"blk.{layer}.{what}.weight" for layer in sorted({1, n // 2, n - 1})}

    def inner(self) -> dict[str, str]:
        """Every matrix of every layer, at the target type."""
        names = {t.name for t in self.model.tensors if t.name.startswith("blk.") and len(t.shape) > 1}
        return dict.fromkeys(sorted(names), TARGET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="CUDA0")
    parser.add_argument("--size", default="1B,8B")
    parser.add_argument("--upstream", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--text", type=Path, default=builtin.EVAL_TEXT)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--auto", action="store_true", help="also run mqnative auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sizes = arguments.size.split(",")
    if unknown := [size for size in sizes if size not in SHAPES]:
        parser.error(f"no size called {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    more = (
        ("--device", "none") if arguments.device == "CPU" else ("--device", arguments.device, "-ngl", "999")
    )
    tools = None
    if arguments.upstream is not None:
        tools = Tools(arguments.upstream.resolve(), arguments.threads, more)
        if missing := tools.missing(("llama-imatrix", "llama-perplexity")):
            parser.error(f"{arguments.upstream} lacks {', '.join(missing)}")
    lines = header(arguments.device, arguments.chunks, arguments.repeat, tools)
    with TemporaryDirectory(prefix="mqnative-cuda-") as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for size in sizes:
            lines += [
                f"## {size}",
                "",
                "| what | ours | theirs | ratio | bar | |",
                "|---|---:|---:|---:|---|---|",
            ]
            for line in measured(size, folder, tools, arguments):
                say(str(line))
                lines.append(str(line))
                if arguments.out:  # a lease may end at any moment
                    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
            lines.append("")
    print("\n".join(lines))


def header(device: str, n_chunks: int, repeat: int, tools: Tools | None) -> list[str]:
    """Machine, versions and settings."""
    info = build_info()
    found = next((d for d in info["devices"] if d["name"] == device), None)
    if found is None:
        known = ", ".join(d["name"] for d in info["devices"])
        troubles = [f"{b['name']}: {b['trouble']}" for b in info["backends"] if b["trouble"]]
        raise SystemExit(f"no device called {device}; there is {known}. {' '.join(troubles)}")
    return [
        "# Speed on a GPU",
        "",
        f"- machine: {found['description']}, {found['memory_total_bytes'] / 2**30:.0f} GiB; {cpu_name()}, "
        f"{info['n_threads']} usable cores; {info['platform']}",
        f"- ours: mqnative {info['version']} at {own_commit()}, llama.cpp {info['upstream_commit']}, "
        f"CUDA {info['cuda'] or 'none'}, {info['compiler']}",
        f"- theirs: {tools.version if tools else 'not run'}",
        f"- {n_chunks} chunks of {N_CTX} tokens, one a pass; median of {repeat} after one that warms up; "
        "theirs once, by its own time stamps after loading",
        "",
    ]


def measured(size: str, folder: Path, tools: Tools | None, arguments: argparse.Namespace) -> Iterator[Line]:
    """Every line of one model."""
    path = generated(size, folder)
    device = "cpu" if arguments.device == "CPU" else arguments.device
    text = folder / "text.txt"
    before = memory_free(arguments.device)
    started = time.perf_counter()
    with (
        peak_memory(arguments.device, before) as peak,
        Model(path, device=device, n_threads=arguments.threads) as model,
    ):
        yield Line("load", f"{time.perf_counter() - started:.1f} s")
        corpus = read_corpus(model, arguments.text, n_ctx=N_CTX).head(arguments.chunks)
        write_beginning(model, arguments.text, corpus, text)
        bench = Bench(size, path, model, corpus, folder, arguments.device, arguments.repeat)
        chunk_s, lines = forward(bench)
        yield from lines
        probe_s = yield from probes(bench)
        mix_s = yield from divergences(bench, tools, text)
        yield from swaps(bench)
        imatrix_s = yield from importances(bench, tools, text)
        yield projection(bench, chunk_s, probe_s, mix_s, imatrix_s)
    yield Line("memory peak on the device, model included", f"{peak[0] / 2**30:.2f} GiB")
    if arguments.auto:
        yield whole_study(path, folder, device, arguments)


def forward(bench: Bench) -> tuple[float, list[Line]]:
    """Passes scored for perplexity alone."""
    scoring = scoring_for(bench.corpus, bench.model)

    def run() -> None:
        for chunk in range(bench.corpus.n_chunks):
            scoring.score(bench.model, chunk)

    seconds = bench.median_of(partial(run))
    rate = bench.n_tokens / seconds
    return seconds / bench.corpus.n_chunks, [Line("perplexity, tokens/s", f"{rate:.0f}")]


def probes(bench: Bench) -> Iterator[Line]:
    """One swapped tensor, run from its layer on and scored, against the same pass unchanged and unscored."""
    model, corpus = bench.model, bench.corpus
    total = 0.0
    for layer, name in bench.layers().items():
        variant = model.encode(name, TARGET)
        scoring = scoring_for(corpus, model)
        trace = scoring.take_reference(model, 0, [layer])
        assert trace is not None
        plain = scoring_for(corpus, model)  # without a reference: the pass and its NLL

        def probe(variant=variant, scoring=scoring, trace=trace, layer=layer) -> None:  # type: ignore[no-untyped-def]
            model.swap(variant)
            try:
                scoring.score(model, 0, trace, layer)
            finally:
                model.restore()

        needed = bench.median_of(partial(plain.score, model, 0, trace, layer))
        took = bench.median_of(partial(probe))
        total += took
        ratio = took / needed
        yield Line(
            f"probe from layer {layer} of {model.vocab.n_layer}, ms (theirs: the pass it needs)",
            f"{1e3 * took:.2f}",
            f"{1e3 * needed:.2f}",
            f"{ratio:.3f}",
            "<= 1.15",
            "pass" if ratio <= 1.15 else "**FAIL**",
        )
    mean = total / len(bench.layers())
    yield Line("probes/s, mean over layers", f"{1 / mean:.1f}")
    return mean


def divergences(bench: Bench, tools: Tools | None, text: Path) -> Iterator[Line]:
    """A whole mix against the reference, both passes counted; upstream's two runs on the file of the mix."""
    model, corpus = bench.model, bench.corpus
    pool = VariantPool(model, {})
    mixes = {"mix": bench.inner()}
    wanted = {chunk: ["mix"] for chunk in range(corpus.n_chunks)}
    pool.variants(mixes["mix"])

    def run() -> list[float]:
        results = score_mixes(model, pool, corpus, wanted, mixes)
        return [float(r.scores.kld.mean()) for r in results if r.scores.kld is not None]

    seconds = bench.median_of(partial(run))
    kld = float(np.mean(run()))
    rate = bench.n_tokens / seconds
    line = Line(f"KLD of a {TARGET} mix, reference's pass included, tokens/s", f"{rate:.0f}")
    if tools is not None:
        built = mix_file(bench, mixes["mix"])
        base_file = bench.folder / "base.kld"
        base = tools.base(bench.path, text, corpus.n_chunks, base_file)
        other = tools.kld(built, base_file)
        base_file.unlink()
        theirs = bench.n_tokens / (base.work_s + other.work_s)
        ratio = rate / theirs
        line = replace(
            line,
            theirs=f"{theirs:.0f}",
            ratio=f"{ratio:.2f}",
            bar=">= 1.0",
            verdict="pass" if ratio >= 1 else "**FAIL**",
        )
        yield line
        yield Line("mean KLD of the mix, nats", f"{kld:.5f}", other.kld)
    else:
        yield line
        yield Line("mean KLD of the mix, nats", f"{kld:.5f}")
    return seconds / corpus.n_chunks


def swaps(bench: Bench) -> Iterator[Line]:
    """A large tensor's blocks copied to the device, and exchanged."""
    model = bench.model
    sizes = {
        t.name: qtype("Q8_0").tensor_bytes(t.shape)
        for t in model.tensors
        if t.name.startswith("blk.") and len(t.shape) > 1
    }
    name = min(sizes, key=lambda n: abs(sizes[n] - SWAP_BYTES))
    shape = next(t.shape for t in model.tensors if t.name == name)
    rng = np.random.default_rng(SEED)
    weights = rng.standard_normal(shape[::-1], np.float32)
    blocks = np.ascontiguousarray(quantize(weights, "Q8_0")).reshape(-1)
    upload = bench.median_of(partial(model.variant, name, "Q8_0", blocks))
    variant = model.variant(name, "Q8_0", blocks)

    def exchange() -> None:
        model.swap(variant)
        model.restore()

    swap = bench.median_of(partial(exchange))
    size = f"{sizes[name] / 1e6:.0f} MB"
    yield Line(f"check and copy {size} of blocks to the device, ms", f"{1e3 * upload:.2f}")
    verdict = "pass" if swap < 0.01 else "**FAIL**"
    yield Line(f"swap and restore of {size}, ms", f"{1e3 * swap:.3f}", bar="< 10", verdict=verdict)


def importances(bench: Bench, tools: Tools | None, text: Path) -> Iterator[Line]:
    """Collecting an imatrix."""
    seconds = bench.median_of(partial(collect_imatrix, bench.model, bench.corpus, process_output=False))
    rate = bench.n_tokens / seconds
    line = Line("imatrix, tokens/s", f"{rate:.0f}")
    if tools is not None:
        took = tools.imatrix(bench.path, text, bench.corpus.n_chunks, bench.folder / "theirs.gguf")
        theirs = bench.n_tokens / took.work_s
        line = replace(line, theirs=f"{theirs:.0f}", ratio=f"{rate / theirs:.2f}")
    yield line
    return seconds / bench.corpus.n_chunks


def projection(bench: Bench, chunk_s: float, probe_s: float, mix_s: float, imatrix_s: float) -> Line:
    """What a study of this model would take: measuring only, weight errors on the processor beside it."""
    with GGUFFile.open(bench.path) as file:
        n_tensors = sum(t.quantizable for t in model_tensors(file).values())
    seconds = STUDY_CHUNKS * (imatrix_s + chunk_s + n_tensors * STUDY_PROBES * probe_s + STUDY_MIXES * mix_s)
    bar = {"bar": "< 20 min", "verdict": "pass" if seconds < STUDY_TARGET_S else "**FAIL**"}
    return Line(
        f"projected study: imatrix, {STUDY_PROBES} probes of {n_tensors} tensors and {STUDY_MIXES} mixes on "
        f"{STUDY_CHUNKS} chunks, min",
        f"{seconds / 60:.1f}",
        **(bar if bench.size == "8B" else {}),
    )


def whole_study(path: Path, folder: Path, device: str, arguments: argparse.Namespace) -> Line:
    """`mqnative auto`, from nothing stored to a proven file."""
    out = folder / f"auto-{path.stem}"
    command = [
        sys.executable, "-m", "mqnative", "auto", str(path), "--bpw", "4.5", "--device", device,
        "--calib", str(builtin.CALIB_TEXT), "--eval", str(builtin.EVAL_TEXT),
        "-t", str(arguments.threads), "-o", str(out), "--force", "--json",
    ]  # fmt: skip
    with TemporaryDirectory(prefix="mqnative-home-") as home:
        started = time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | {"MQNATIVE_HOME": home}, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
    if done.returncode != 0:
        return Line("mqnative auto --bpw 4.5", f"failed: {done.stderr.strip().splitlines()[-1]}")
    kld = json.loads(done.stdout).get("kld_mean")
    return Line(f"mqnative auto --bpw 4.5, min (KLD {kld:.5f})", f"{seconds / 60:.1f}")


# ---- Models, texts, tools, memory -------------------------------------------------------------------


def generated(size: str, folder: Path) -> Path:
    """The model of this size, made where it is not there yet."""
    path = folder / f"{size}.gguf"
    if not path.exists():
        say(f"generating {path.name}")
        shape = SHAPES[size]
        metadata = synthetic.model_metadata(size, shape) | synthetic.padded_vocabulary(shape.n_vocab)
        pool = np.random.default_rng(SEED).standard_t(synthetic.STUDENT_T_DEGREES, POOL_WEIGHTS)
        noise = pool.astype(np.float32)
        scaled: dict[int, npt.NDArray[np.uint16]] = {}
        layout = GGUFLayout.plan(metadata, synthetic.tensors(shape))
        write_gguf(path, layout, partial(write_repeating, noise, scaled), force=True)
    return path


def write_repeating(
    noise: npt.NDArray[np.float32],
    scaled: dict[int, npt.NDArray[np.uint16]],
    slot: TensorSlot,
    out: BinaryIO,
) -> None:
    """As `synthetic.write_weights`, from a pool of noise at a place that the name decides."""
    if slot.qtype.name == "F32":
        synthetic.write_weights(slot, out)
        return
    n_per_row, n_rows = slot.shape
    if n_per_row not in scaled:
        scaled[n_per_row] = synthetic.bf16_bits(noise / np.float32(np.sqrt(2 * n_per_row)))
    pool = scaled[n_per_row]
    left = n_per_row * n_rows
    at = int(np.random.default_rng([SEED, *slot.name.encode()]).integers(0, len(pool)))
    while left:
        piece = pool[at : at + left]
        out.write(piece.tobytes())
        left, at = left - len(piece), 0


def mix_file(bench: Bench, types: Mapping[str, str]) -> Path:
    """The file of a mix."""
    out = bench.folder / f"{bench.size}-mix.gguf"
    with GGUFFile.open(bench.path) as file:
        own = {n: file.tensors[n].qtype.name for n, t in model_tensors(file).items() if t.quantizable}
        build_gguf(file, plan_build(file, Recipe(base="Q8_0", tensors={**own, **types})), out, force=True)
    return out


def write_beginning(model: Model, text: Path, corpus: Corpus, output: Path) -> None:
    """The beginning of the text, little longer than the chunks."""
    whole, needed = text.read_text(encoding="utf-8"), (corpus.n_chunks + 1) * N_CTX
    length = 2 * needed
    while length < len(whole) and len(model.tokenize(whole[:length])) < needed:
        length += length // 8
    output.write_text(whole[:length], encoding="utf-8")


def memory_free(device: str) -> int:
    return next(d.memory_free_bytes for d in devices() if d.name == device)


@contextmanager
def peak_memory(device: str, before: int) -> Iterator[list[int]]:
    """The most memory that was taken since `before`, looked at five times a second."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peak[0] = max(peak[0], before - memory_free(device))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
