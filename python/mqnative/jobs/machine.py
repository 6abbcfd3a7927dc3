"""Which budgets of a model fit a machine, from its header: for a few contexts, what is left for weights.

The compute buffers are those of the stored types; with everything in one kind of memory they hardly depend on
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.core.info import devices, host_memory_bytes
from mqnative.core.memory import (
    CPU_ALONE,
    PLANNED,
    Context,
    MemoryUse,
    Placement,
    allocated_bytes,
    memory_use,
)
from mqnative.core.presets import preset_types
from mqnative.errors import BackendError, QuantizeError
from mqnative.formats.gguf import GGUFFile

# Presets that people choose among, largest first.
PRESETS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_XXS", "IQ1_M")
_CACHES = ("F16", "Q8_0")
_CONTEXTS = (4096, 16384, 65536)


@dataclass(frozen=True)
class Room:
    """Memory that a model may go to.

    Attributes:
        device: a GPU's name; empty: main memory and the CPU.
        bytes: what is free there.
    """

    device: str
    bytes: int

    @property
    def name(self) -> str:
        """For people."""
        return self.device or "CPU"


@dataclass(frozen=True)
class Fitting:
    """What fits one context in one room.

    Attributes:
        room, context: see there.
        needed_bytes: caches, buffers and tensors that are never quantized.
        left_bytes: for the other weights; negative where nothing fits.
        bpw: what that is per weight of those; more than the source has is of no use.
        presets: of llama.cpp that fit, largest first.
    """

    room: Room
    context: Context
    cache_bytes: int
    compute_bytes: int
    left_bytes: int
    bpw: float
    presets: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "device": self.room.name,
            "memory_bytes": self.room.bytes,
            "n_ctx": self.context.n_ctx,
            "n_parallel": self.context.n_parallel,
            "kv_type": [self.context.type_k, self.context.type_v],
            "cache_bytes": self.cache_bytes,
            "compute_bytes": self.compute_bytes,
            "weights_left_bytes": self.left_bytes,
            "bpw": self.bpw,
            "presets": list(self.presets),
        }


def rooms() -> list[Room]:
    """This machine's memory: what is free on every GPU, and in main memory."""
    gpus = [Room(d.name, d.memory_free_bytes) for d in devices() if d.kind in ("gpu", "igpu")]
    return [*gpus, Room("", available_memory_bytes())]


def available_memory_bytes() -> int:
    """Main memory that programs can still have; all of it where the system does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii", errors="replace") as lines:
            found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    except OSError:
        found = None
    return host_memory_bytes() if found is None else int(found) * 1024


def default_contexts(file: GGUFFile) -> list[int]:
    """A few lengths up to what the model was trained for."""
    most = trained_context(file) or _CONTEXTS[-1]
    return sorted({min(n, most) for n in (*_CONTEXTS, most)})


def trained_context(file: GGUFFile) -> int | None:
    """Tokens of context that a model was trained for; None where its header does not say."""
    trained = file.get(f"{file.architecture}.context_length")
    return trained if isinstance(trained, int) and trained > 0 else None


def fitting(
    path: Path,
    where: Sequence[Room],
    lengths: Iterable[int] = (),
    *,
    n_parallel: int = 1,
    n_ubatch: int = Context.n_ubatch,
    caches: Sequence[str] = _CACHES,
) -> list[Fitting]:
    """What fits, by room, context and type of the cache.

    Args:
        path: a GGUF file; its header is enough.
        where: memory that the model may go to.
        lengths: contexts; default a few up to what the model was trained for.
        n_parallel: sequences at once.
        n_ubatch: tokens at once.
        caches: types of the KV cache; one that the model cannot have is left out.

    Raises:
        GGUFError, ModelLoadError, BackendError: the model cannot be read or placed.
    """
    found = []
    with GGUFFile.open(path) as file:
        wanted = list(lengths) or default_contexts(file)
        types = {name: _preset(file, name) for name in PRESETS}
        for room in where:
            placement = Placement(device=room.device) if room.device else CPU_ALONE
            sizes: dict[str, int] | None = None
            for cache in caches:
                contexts = [Context(n, n_parallel, n_ubatch, cache, cache) for n in wanted]
                try:
                    use = memory_use(path, placement, contexts)
                except BackendError:
                    if cache == caches[0]:
                        raise
                    continue
                if sizes is None:
                    sizes = {n: _weights(file, use, room, t) for n, t in types.items() if t is not None}
                found += _of_room(file, use, room, contexts, sizes)
    return found


def _of_room(
    file: GGUFFile, use: MemoryUse, room: Room, contexts: Sequence[Context], sizes: dict[str, int]
) -> list[Fitting]:
    is_host = not room.device
    placed = [t for t in use.tensors if t.is_host == is_host]
    large = {n: t.n_weights for n, t in file.tensors.items() if len(t.shape) > 1 and t.n_rows > 1}
    small = sum(t.size_bytes for t in placed if t.name not in large)
    n_weights = sum(large[t.name] for t in placed if t.name in large)
    found = []
    for context, table in zip(contexts, use.tables, strict=True):
        rows = [r for r in table.rows if r.is_host == is_host]
        cache, compute = sum(r.cache_bytes for r in rows), sum(r.compute_bytes for r in rows)
        left = room.bytes - cache - compute - small
        fit = tuple(name for name, size in sizes.items() if size + cache + compute <= room.bytes)
        bpw = 8.0 * left / n_weights if n_weights else 0.0
        found.append(Fitting(room, context, cache, compute, left, bpw, fit))
    return found


def _preset(file: GGUFFile, name: str) -> dict[str, str] | None:
    """A preset's types; None where it cannot be had."""
    try:
        return preset_types(file.path, name, with_imatrix=True)
    except QuantizeError:
        return None


def _weights(file: GGUFFile, use: MemoryUse, room: Room, types: dict[str, str]) -> int:
    placed = [t for t in use.tensors if t.is_host == (not room.device)]
    tensors = [
        (types.get(t.name, file.tensors[t.name].qtype.name), file.tensors[t.name].shape) for t in placed
    ]
    return sum(allocated_bytes(room.device, tensors))


def planned_room(vram_bytes: int) -> Room:
    """A GPU of so much memory that this machine need not have."""
    return Room(PLANNED, vram_bytes)


def source_bpw(file: GGUFFile) -> float:
    """What a mix has at most: the source's own types."""
    return max(t.qtype.bpw for t in file.tensors.values() if len(t.shape) > 1 and t.n_rows > 1)
