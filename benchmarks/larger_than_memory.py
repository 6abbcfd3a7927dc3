"""A model three times larger than a control group's memory: swept, probed and built within it.

    python benchmarks/larger_than_memory.py FOLDER [--share 3.0] [--probes 8]

Makes a model of seeded weights in FOLDER, measures it once freely and once in a control group of a third of
its size, and compares all numbers and the built file. Linux and the right to make control groups are needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mqnative import builtin
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_layout import GGUFLayout, TensorSlot
from mqnative.formats.gguf_writer import write_gguf
from mqnative.formats.qtypes import qtype

_N_LAYER, _N_EMBD, _N_FF, _N_VOCAB, _HEAD = 24, 1024, 2816, 4096, 64
_N_CTX, _N_CHUNKS = 64, 2
_TYPES = ("Q4_K", "Q6_K")
_GROUPS = Path("/sys/fs/cgroup")


def make_model(path: Path) -> None:
    """A Llama of seeded BF16 weights."""
    numbers = {
        "block_count": _N_LAYER, "context_length": 2048, "embedding_length": _N_EMBD,
        "feed_forward_length": _N_FF, "attention.head_count": _N_EMBD // _HEAD,
        "attention.head_count_kv": _N_EMBD // _HEAD, "rope.dimension_count": _HEAD,
    }  # fmt: skip
    metadata = {"general.architecture": MetaValue.string("llama"), "general.name": MetaValue.string("large")}
    metadata |= {f"llama.{key}": MetaValue.u32(n) for key, n in numbers.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = MetaValue.f32(1e-5)
    with GGUFFile.open(builtin.MODEL) as file:
        metadata |= {k: v for k, v in file.metadata.items() if k.startswith("tokenizer.")}
    tensors = [("token_embd.weight", (_N_EMBD, _N_VOCAB)), ("output_norm.weight", (_N_EMBD,))]
    for layer in range(_N_LAYER):
        blk = f"blk.{layer}."
        tensors += [(f"{blk}attn_norm.weight", (_N_EMBD,)), (f"{blk}ffn_norm.weight", (_N_EMBD,))]
        tensors += [(f"{blk}attn_{r}.weight", (_N_EMBD, _N_EMBD)) for r in ("q", "k", "v", "output")]
        tensors += [(f"{blk}ffn_{r}.weight", (_N_EMBD, _N_FF)) for r in ("gate", "up")]
        tensors.append((f"{blk}ffn_down.weight", (_N_FF, _N_EMBD)))
    rng = np.random.default_rng(4711)

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        n = int(np.prod(slot.shape))
        if len(slot.shape) == 1:
            out.write(np.ones(n, np.float32).tobytes())
            return
        weights = rng.standard_normal(n, np.float32) / np.float32(np.sqrt(2 * slot.shape[0]))
        out.write((weights.view(np.uint32) >> 16).astype(np.uint16).tobytes())

    order = [(name, shape, qtype("F32" if len(shape) == 1 else "BF16")) for name, shape in tensors]
    write_gguf(path, GGUFLayout.plan(metadata, order), write_tensor)


def measure(model: Path, output: Path, n_probes: int) -> dict[str, Any]:
    """Sweep, probe and build; every number, and the file's hash."""
    from mqnative.build.plan import model_tensors, plan_build
    from mqnative.build.writer import build_gguf
    from mqnative.formats.recipe import Recipe
    from mqnative.measure.corpus import read_corpus
    from mqnative.measure.stored_scores import probe
    from mqnative.measure.stored_sweep import sweep
    from mqnative.measure.study import Compute, Study
    from mqnative.store import Store

    took = {}
    with Store.open() as store, Study(model, store, compute=Compute(n_threads=1)) as study:
        tensors = model_tensors(study.file)
        names = [n for n, t in tensors.items() if t.quantizable]
        begin = time.monotonic()
        errors = sweep(study, dict.fromkeys(names, _TYPES), {})
        took["sweep"] = time.monotonic() - begin
        probed = names[:: max(1, len(names) // n_probes)][:n_probes]
        text = read_corpus(study.model, builtin.CALIB_TEXT, n_ctx=_N_CTX).head(_N_CHUNKS)
        begin = time.monotonic()
        klds = probe(study, text, dict.fromkeys(probed, "Q3_K"), {})
        took["probe"] = time.monotonic() - begin
        begin = time.monotonic()
        plan = plan_build(study.file, Recipe(base="Q8_0", tensors=dict.fromkeys(names, "Q4_K")))
        build_gguf(study.file, plan, output, n_threads=1, force=True)
        took["build"] = time.monotonic() - begin
        streams = study.streams
    with output.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
    swept = hashlib.sha256(repr(sorted(errors.items())).encode()).hexdigest()
    return {
        "streams": streams,
        "sweep": swept,
        "probe": {name: kld.tolist() for name, kld in klds.items()},
        "build": "" if digest is None else digest.hexdigest(),
        "seconds": took,
    }


@contextmanager
def control_group(limit_bytes: int) -> Iterator[tuple[Path, str]]:
    """A group of so much memory, and the name of the file that tells its peak."""
    is_v1 = (_GROUPS / "memory" / "memory.limit_in_bytes").exists()
    group = (_GROUPS / "memory" if is_v1 else _GROUPS) / f"mqnative-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit_bytes))
        yield group, "memory.max_usage_in_bytes" if is_v1 else "memory.peak"
    finally:
        group.rmdir()


def run(model: Path, folder: Path, n_probes: int, group: Path | None) -> dict[str, Any]:
    """One measurement in a process and a home of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        command = [sys.executable, __file__, str(folder), "--child", str(model), "--probes", str(n_probes)]

        def enter() -> None:
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        environment = os.environ | {"MQNATIVE_HOME": home, "MQNATIVE_CACHE_BYTES": "0"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False, preexec_fn=enter)
    if done.returncode:
        raise SystemExit(f"the measurement ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure twice and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=3.0)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(measure(given.child, given.folder / "built.gguf", given.probes)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    model = given.folder / "large.gguf"
    if not model.exists():
        make_model(model)
    size = model.stat().st_size
    free = run(model, given.folder, given.probes, None)
    with control_group(int(size / given.share)) as (group, peak):
        bound = run(model, given.folder, given.probes, group)
        used = int((group / peak).read_text())
    print(f"model {size:,} bytes, limit {int(size / given.share):,}, peak {used:,} (cached pages included)\n")
    print("| step | free, s | within the limit, s | same numbers |\n|---|---|---|---|")
    for step in ("sweep", "probe", "build"):
        same = "yes" if free[step] == bound[step] else "NO"
        print(f"| {step} | {free['seconds'][step]:.1f} | {bound['seconds'][step]:.1f} | {same} |")
    print(f"\nlayer by layer: free {free['streams']}, within the limit {bound['streams']}")
    (given.folder / "built.gguf").unlink(missing_ok=True)
    shutil.rmtree(given.folder / "home", ignore_errors=True)


if __name__ == "__main__":
    main()
