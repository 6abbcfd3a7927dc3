"""Predicted memory against what llama.cpp reports of the loaded model, for each kind of model.

    python benchmarks/memory.py

Makes small seeded models (those of the tests), plans a mix of each, predicts from the plan what it takes,
without a weight in memory; then builds the file, loads it, makes the contexts and reads llama.cpp's memory
breakdown. Without a GPU, layers go to the device that stands for one; see `mqnative.core.memory`. Prints a
Markdown table: the bytes on the device and in main memory, and the farthest miss among weights, caches and
compute buffers of either.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from mqnative.build.header_only import header_only
from mqnative.build.plan import model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.info import build_info
from mqnative.core.memory import CPU_ALONE, Context, MemoryTable, Placement, memory_use
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe_data import Recipe
from tiny_models import TinyModels

KINDS = {
    "dense": "dense, tied",
    "moe": "mixture of experts",
    "sliding": "sliding window (SWA)",
    "latent": "latent attention (MLA), experts",
    "recurrent": "recurrent",
    "split": "dense, in three files",
}
LAYOUTS = {
    "dense": (Placement(), Placement(1), CPU_ALONE),
    "moe": (Placement(), Placement(n_cpu_moe=1), CPU_ALONE),
}
CONTEXTS = (
    Context(n_ctx=512),
    Context(n_ctx=2048, n_parallel=2, n_ubatch=128),
    Context(n_ctx=1024, type_k="Q8_0", type_v="Q8_0"),
)
_PARTS = ("weights_bytes", "cache_bytes", "compute_bytes")


@dataclass(frozen=True)
class Row:
    """One layout with one context: bytes as predicted, and as reported of the loaded model."""

    kind: str
    flags: str
    predicted: MemoryTable
    loaded: MemoryTable

    @property
    def ratios(self) -> list[float]:
        """Predicted by reported, of every part that either has, on the device and in main memory."""
        found = []
        for is_host in (False, True):
            for part in _PARTS:
                ours, theirs = (
                    sum(getattr(r, part) for r in t.rows if r.is_host == is_host)
                    for t in (self.predicted, self.loaded)
                )
                if ours or theirs:
                    found.append(ours / theirs if theirs else float("inf"))
        return found

    @property
    def worst(self) -> float:
        """The farthest of them from 1."""
        return max(self.ratios, key=lambda r: abs(r - 1))

    def line(self) -> str:
        """As a row of the table."""
        p, u = self.predicted, self.loaded
        ratio = (p.device_bytes + p.host_bytes) / (u.device_bytes + u.host_bytes)
        return (
            f"| {KINDS[self.kind]} | `{self.flags}` | {p.device_bytes:,} | {u.device_bytes:,} | "
            f"{p.host_bytes:,} | {u.host_bytes:,} | {ratio:.6f} | {100 * (self.worst - 1):+.4f} % |"
        )


def mixed_type(name: str) -> str:
    """A mix of a type that is repacked, one that is not, and an unquantized one."""
    if "ffn_" in name or "ssm_" in name:
        return "Q8_0"
    return "Q4_K" if "attn_" in name else "F16"


def rows(kind: str, source: Path, folder: Path) -> Iterator[Row]:
    """Predict, build, load."""
    contexts = CONTEXTS[:2] if kind == "recurrent" else CONTEXTS  # states are not quantized
    with GGUFFile.open(source) as file:
        types = {n: mixed_type(n) for n, t in model_tensors(file).items() if t.quantizable}
        plan = plan_build(file, Recipe(base="F16", tensors=types))
        built = folder / f"{kind}-built.gguf"
        build_gguf(file, plan, built, n_threads=1)
    for placement in LAYOUTS.get(kind, (Placement(), CPU_ALONE)):
        with header_only(plan) as planned:
            predicted = memory_use(planned, placement, contexts).tables
        loaded = memory_use(built, placement, contexts, load=True).tables
        for context, ours, theirs in zip(contexts, predicted, loaded, strict=True):
            yield Row(kind, " ".join((*placement.flags, *context.flags)), ours, theirs)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print(f"llama.cpp {build_info()['upstream_commit']}\n")
    print(
        "| model | layout and context | device: predicted | reported | main memory: predicted | reported "
        "| predicted / reported | worst part |\n|---|---|---:|---:|---:|---:|---:|---:|"
    )
    found = []
    with tempfile.TemporaryDirectory() as name:
        models = TinyModels(Path(name))
        for kind in KINDS:
            for row in rows(kind, getattr(models, kind), Path(name)):
                print(row.line(), flush=True)
                found.append(row)
    misses = [abs(r - 1) for row in found for r in row.ratios]
    exact = sum(m == 0 for m in misses)
    print(
        f"\n{len(found)} layouts, {len(misses)} parts (weights, caches, buffers; device, main memory): "
        f"{exact} to the byte, the worst within {100 * max(misses):.4f} %"
    )


if __name__ == "__main__":
    main()
