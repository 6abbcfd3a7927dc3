"""What a model takes on each device before it is loaded, by llama.cpp's own accounting.

llama.cpp loads the header, places every tensor, plans the caches and the graphs, and allocates nothing.
Without a GPU the same is done for one that is not there (`PLANNED`): a device of this build to which
llama.cpp offloads as to any other, with CUDA's alignment and padding.

Source: src/llama-ext.h, llama_get_memory_breakdown; include/llama.h, llama_model_params.no_alloc.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.core.info import devices
from mqnative.core.loadable import check_loadable
from mqnative.core.native import core, forward_log
from mqnative.errors import BackendError, ModelLoadError, UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype

# A GPU to plan for; csrc/planned_device.hpp.
PLANNED = "planned"
ALL_LAYERS = -1
# KV caches that are not quantized.
PLAIN_CACHE_TYPES = ("F32", "F16", "BF16")
# What llama.cpp accepts for -ctk and -ctv (common/arg.cpp, kv_cache_types), best first.
CACHE_TYPES = (*PLAIN_CACHE_TYPES, "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")


@dataclass(frozen=True)
class Context:
    """What is to be kept in memory beside the weights.

    Attributes:
        n_ctx: tokens of one sequence.
        n_parallel: sequences at the same time.
        n_ubatch: tokens that are computed at once, at most.
        type_k, type_v: types of the KV cache.

    Raises:
        UnsupportedTypeError: llama.cpp keeps no cache of such a type.
    """

    n_ctx: int = 4096
    n_parallel: int = 1
    n_ubatch: int = 512
    type_k: str = "F16"
    type_v: str = "F16"

    def __post_init__(self) -> None:
        for name in (self.type_k, self.type_v):
            if name not in CACHE_TYPES:
                raise UnsupportedTypeError(
                    f"a KV cache of {name} was asked for, but llama.cpp takes {', '.join(CACHE_TYPES)}",
                    qtype=name,
                    reason="not a type of KV caches",
                    allowed=CACHE_TYPES,
                )
        for what, n in (("context", self.n_ctx), ("parallel", self.n_parallel), ("ubatch", self.n_ubatch)):
            if n < 1:
                raise ValueError(f"expected {what} of at least 1, got {n}")

    @property
    def flags(self) -> tuple[str, ...]:
        """llama.cpp's flags for it."""
        flags = ["-c", str(self.n_ctx * self.n_parallel), "-np", str(self.n_parallel)]
        flags += ["-ub", str(self.n_ubatch)]
        for flag, name in (("-ctk", self.type_k), ("-ctv", self.type_v)):
            if name != "F16":
                flags += [flag, name.lower()]
        return tuple(flags)

    def numbers(self) -> tuple[int, int, int, int, int]:
        """As the compiled module takes it."""
        total = self.n_ctx * self.n_parallel
        return total, self.n_parallel, self.n_ubatch, qtype(self.type_k).id, qtype(self.type_v).id


@dataclass(frozen=True)
class Placement:
    r"""Where weights lie.

    Attributes:
        n_gpu_layers: layers on the device, counted from the last and with the head as one of them; negative:
            all.
        device: its name; empty: the CPU alone.
        n_cpu_moe: expert weights of so many first layers stay with the CPU.
    """

    n_gpu_layers: int = ALL_LAYERS
    device: str = PLANNED
    n_cpu_moe: int = 0

    @property
    def flags(self) -> tuple[str, ...]:
        """llama.cpp's flags for it."""
        if not self.device:
            return ("-ngl", "0")
        flags = ["-ngl", "999" if self.n_gpu_layers < 0 else str(self.n_gpu_layers)]
        if self.n_cpu_moe:
            flags += ["--n-cpu-moe", str(self.n_cpu_moe)]
        return tuple(flags)

    @property
    def patterns(self) -> list[str]:
        """Regular expressions of the tensors that stay with the CPU; common.h, LLM_FFN_EXPS_REGEX."""
        return [rf"blk\.{i}\.ffn_(up|down|gate|gate_up)_(ch|)exps" for i in range(self.n_cpu_moe)]


CPU_ALONE = Placement(0, "")


@dataclass(frozen=True)
class MemoryRow:
    """Bytes of one kind of memory.

    Attributes:
        device: whose it is.
        buffer: llama.cpp's name for it.
        is_host: whether it is main memory.
        weights_bytes, cache_bytes, compute_bytes: weights; KV cache and recurrent states; buffers for graphs.
    """

    device: str
    buffer: str
    is_host: bool
    weights_bytes: int
    cache_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


@dataclass(frozen=True)
class MemoryTable:
    """What a model and a context take, by kind of memory."""

    rows: tuple[MemoryRow, ...]

    @property
    def device_bytes(self) -> int:
        """In memory of GPUs."""
        return sum(r.total_bytes for r in self.rows if not r.is_host)

    @property
    def host_bytes(self) -> int:
        """In main memory."""
        return sum(r.total_bytes for r in self.rows if r.is_host)

    @property
    def weights_bytes(self) -> int:
        """Weights wherever they are."""
        return sum(r.weights_bytes for r in self.rows)

    def needed(self, *, is_host: bool) -> int:
        """Caches and buffers in main memory, or on devices: everything but weights."""
        return sum(r.cache_bytes + r.compute_bytes for r in self.rows if r.is_host == is_host)

    def values(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [
            {
                "device": r.device,
                "buffer": r.buffer,
                "is_host": r.is_host,
                "weights_bytes": r.weights_bytes,
                "cache_bytes": r.cache_bytes,
                "compute_bytes": r.compute_bytes,
                "total_bytes": r.total_bytes,
            }
            for r in self.rows
        ]


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor in one of the places where it is used: the bytes it takes there, padding included."""

    name: str
    is_host: bool
    size_bytes: int


@dataclass(frozen=True)
class MemoryUse:
    """Tables for several contexts, and where the tensors are in all of them."""

    tables: tuple[MemoryTable, ...]
    tensors: tuple[PlacedTensor, ...]


def memory_use(
    path: str | Path,
    placement: Placement,
    contexts: Sequence[Context] = (),
    *,
    repack: bool = True,
    load: bool = False,
) -> MemoryUse:
    """What a model takes, from its header.

    Args:
        path: a GGUF file, the first part of a split one. Its weights are not read: a file that is only a
            header and a hole of the right length will do.
        placement: where weights go.
        contexts: a table for each.
        repack: count weights as stock llama.cpp lays them out.
        load: really load the model and make the contexts, and report what was allocated.

    Raises:
        GGUFError, UnsupportedTypeError: the file is damaged, or would abort llama.cpp.
        ModelLoadError, BackendError: llama.cpp refuses the model or a context.
    """
    with GGUFFile.open(path) as file:
        check_loadable(file)
        paths = [os.fsencode(p) for p in file.paths]
    names = [placement.device] if placement.device else []
    layers = placement.n_gpu_layers if placement.device else 0
    numbers = [c.numbers() for c in contexts]
    try:
        tables, tensors = core().memory_use(
            paths, layers, names, placement.patterns, repack, numbers, load, None
        )
    except (ModelLoadError, BackendError) as error:
        why = (getattr(error, "log", None) or "").splitlines()
        last = f": {why[-1]}" if why else ""
        raise type(error)(f"llama.cpp cannot place {path}: {error.message}{last}") from None
    finally:
        forward_log()
    return MemoryUse(
        tuple(MemoryTable(tuple(MemoryRow(**row) for row in table)) for table in tables),
        tuple(PlacedTensor(*t) for t in tensors),
    )


def allocated_bytes(device: str, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> list[int]:
    """What tensors of these types and GGUF shapes take in a device's memory; an empty name is the CPU's.

    Raises:
        BackendError: there is no such device.
        UnsupportedTypeError: rows that do not fill a type's blocks.
    """
    pairs = [(qtype(t).id, list(shape)) for t, shape in tensors]
    return [int(n) for n in core().allocated_bytes(device, pairs)]


def gpu_to_plan_for(name: str = "auto") -> str:
    """The GPU called so, or this machine's first; `PLANNED` where there is none.

    Raises:
        BackendError: there is no such device.
    """
    gpus = [d.name for d in devices() if d.kind in ("gpu", "igpu")]
    if name in ("auto", "cpu", PLANNED):
        return gpus[0] if gpus and name != PLANNED else PLANNED
    if name not in gpus:
        known = ", ".join((*gpus, PLANNED))
        raise BackendError(f"there is no GPU called {name} to plan for; use one of {known}")
    return name
