"""What a mix takes of a machine's memory: its weights, the KV cache of a context, buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mqnative.app.views.model_view import ModelView
from mqnative.core.memory import (
    CPU_ALONE,
    Context,
    MemoryUse,
    Placement,
    allocated_bytes,
    gpu_to_plan_for,
    memory_use,
)
from mqnative.report.numbers import size_text, typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
CACHES = {"F16": "f16", "Q8_0": "q8_0", "Q4_0": "q4_0"}
GPU, CPU = "GPU", "CPU"


@dataclass(frozen=True)
class Setting:
    """How the model is going to be run.

    Attributes:
        n_ctx: tokens of one sequence.
        cache: type of K and V.
        device: `GPU` or `CPU`.
    """

    n_ctx: int = 4096
    cache: str = "F16"
    device: str = GPU

    @property
    def context(self) -> Context:
        """As the core takes it."""
        return Context(self.n_ctx, type_k=self.cache, type_v=self.cache)

    @property
    def placement(self) -> Placement:
        """As the core takes it."""
        return Placement(device=gpu_to_plan_for()) if self.device == GPU else CPU_ALONE


@dataclass(frozen=True)
class Taken:
    """Bytes in one kind of memory."""

    weights: int = 0
    cache: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.buffers


@dataclass(frozen=True)
class MixMemory:
    """What a mix takes with a setting.

    Attributes:
        setting: that it is for.
        device: of the GPU; nothing on a CPU alone.
        host: of main memory.
    """

    setting: Setting
    device: Taken
    host: Taken

    @property
    def main(self) -> Taken:
        """Where the layers are."""
        return self.device if self.setting.device == GPU else self.host


def use_of(path: Path, setting: Setting) -> MemoryUse:
    """Where the tensors of a model go and what stands beside them; its weights are not read.

    Raises:
        ModelLoadError, BackendError: llama.cpp refuses the model or the context.
    """
    return memory_use(path, setting.placement, [setting.context])


def memory_of(view: ModelView, types: Mapping[str, str], setting: Setting, use: MemoryUse) -> MixMemory:
    """The same with the tensors at the types of a mix.

    Args:
        view: the model.
        types: of every tensor.
        setting: that `use` was asked for with.
        use: from `use_of`.
    """
    found = []
    for is_host in (False, True):
        pairs = [
            (types[t.name], view.by_name[t.name].shape)
            for t in use.tensors
            if t.is_host == is_host and t.name in view.by_name
        ]
        weights = sum(allocated_bytes("" if is_host else setting.placement.device, pairs)) if pairs else 0
        rows = [r for r in use.tables[0].rows if r.is_host == is_host]
        found.append(Taken(weights, sum(r.cache_bytes for r in rows), sum(r.compute_bytes for r in rows)))
    return MixMemory(setting, *found)


def memory_table(memory: MixMemory) -> str:
    """Weights, cache, buffers and their sum by place, as HTML."""
    rows = []
    for name, taken in (("GPU", memory.device), ("RAM", memory.host)):
        if taken.total:
            parts = (taken.weights, taken.cache, taken.buffers)
            figures = [escape(typeset(size_text(n))) for n in (*parts, taken.total)]
            rows.append([Cell(name), *map(Cell, figures[:3]), Cell(f"<b>{figures[3]}</b>")])
    return table("Memory", ("where", "weights:", "KV cache:", "buffers:", "total:"), rows, "dense")


def memory_tile(memory: MixMemory | None) -> tuple[str, str, str] | None:
    """Name, figure and detail for the line of tiles; None where it is not known."""
    if memory is None:
        return None
    taken, setting = memory.main, memory.setting
    where = "GPU memory" if setting.device == GPU else "memory"
    weights, cache, buffers = map(size_text, (taken.weights, taken.cache, taken.buffers))
    parts = f"{weights} weights + {cache} cache + {buffers} buffers"
    return f"{where}, {setting.n_ctx:,} tokens", size_text(taken.total), parts
