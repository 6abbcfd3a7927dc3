"""What a memory budget asks for, and what every way to lay a model out takes.

Without main memory as a limit there is one layout: everything but the embedding on the device, which is what
llama.cpp does. With it, how many layers or experts the CPU keeps is a decision as much as the types.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mqnative.build.header_only import bare_header
from mqnative.core.memory import (
    CPU_ALONE,
    PLAIN_CACHE_TYPES,
    PLANNED,
    Context,
    MemoryTable,
    MemoryUse,
    Placement,
    allocated_bytes,
    memory_use,
)
from mqnative.errors import GGUFError
from mqnative.formats.gguf import GGUFFile
from mqnative.measure.cache_types import CachePair
from mqnative.solve.placed import Capacity, Site
from mqnative.solve.problem import Choice, Item, Problem

# Tensor -> type in, seconds out.
Seconds = Callable[[Mapping[str, str]], float]

_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(?:up|down|gate|gate_up)_(?:ch|)exps\.")
# Layouts that are looked at, at most: of many layers, not every number of them.
_MOST_LAYOUTS = 48
# Beyond so many the vocabulary is left out, which would be read for every one of them.
_FEW_LAYOUTS = 4


@dataclass(frozen=True)
class MemoryBudget:
    """What may be taken, and for what use.

    Attributes:
        vram_bytes: of the device's memory; None: there is no device, the CPU does it all.
        ram_bytes: of main memory; None: as much as it takes.
        context: what is kept beside the weights.
        device: the GPU that is planned for.
        min_tps: tokens per second of generation, at least; None: any speed.
        n_threads: that speed is measured with; None: all usable processors.
        file_bytes: of the whole file; None: any size.
        any_cache: whether the types of the cache are a decision too.
        caches: (K, V) -> measured damage of the caches to choose among; empty: those of the context.
    """

    vram_bytes: int | None
    ram_bytes: int | None = None
    context: Context = field(default_factory=Context)
    device: str = PLANNED
    min_tps: float | None = None
    n_threads: int | None = None
    file_bytes: int | None = None
    any_cache: bool = False
    caches: Mapping[CachePair, float] = field(default_factory=dict)

    @property
    def contexts(self) -> list[tuple[Context, float]]:
        """The contexts to choose among, which differ in the cache's types, and what each costs."""
        if not self.caches:
            return [(self.context, 0.0)]
        return [(replace(self.context, type_k=k, type_v=v), d) for (k, v), d in self.caches.items()]

    @property
    def offered(self) -> list[CachePair]:
        """The caches worth measuring: of GPUs, pairs that their default builds compute with."""
        alike: list[CachePair] = [(t, t) for t in ("F16", "Q8_0", "Q4_0")]
        if self.vram_bytes is not None:
            return alike
        return [(k, v) for k, _ in alike for v, _ in alike]

    @property
    def has_limit(self) -> bool:
        """Whether memory is limited at all; speed alone needs a size besides."""
        return self.vram_bytes is not None or self.ram_bytes is not None

    @property
    def key(self) -> str:
        """What tells two budgets apart."""
        return f"{self.text} {self.device}"

    @property
    def capacity(self) -> Capacity:
        """As the solver takes it."""
        seconds = None if self.min_tps is None else 1.0 / self.min_tps
        return Capacity(self.vram_bytes, self.ram_bytes, self.file_bytes, seconds)

    @property
    def text(self) -> str:
        """As the command line writes it, but for the size of the file."""
        words = []
        if self.vram_bytes is not None:
            words.append(f"--vram {self.vram_bytes}")
        if self.ram_bytes is not None:
            words.append(f"--ram {self.ram_bytes}")
        words.append(f"--ctx {self.context.n_ctx}")
        if self.kv_text != "f16":
            words.append(f"--kv-type {self.kv_text}")
        if self.context.n_parallel != 1:
            words.append(f"--parallel {self.context.n_parallel}")
        if self.context.n_ubatch != Context.n_ubatch:
            words.append(f"--ubatch {self.context.n_ubatch}")
        if self.min_tps is not None:
            words.append(f"--min-tps {self.min_tps:g}")
        return " ".join(words)

    @property
    def kv_text(self) -> str:
        """The types of K and V: one name where they are the same."""
        if self.any_cache:
            return "auto"
        k, v = self.context.type_k.lower(), self.context.type_v.lower()
        return k if k == v else f"{k},{v}"


def launch_flags(placement: Placement, context: Context) -> list[str]:
    """llama.cpp's flags for a layout and a context; quantized values need flash attention."""
    flash = [] if context.type_v in PLAIN_CACHE_TYPES else ["-fa", "on"]
    return [*placement.flags, *context.flags, *flash]


def cache_text(kv_type: Sequence[str], damage: float) -> str:
    """What a quantized KV cache adds to the predicted KLD of the weights; empty for one that is not.

    Args:
        kv_type: of K and V.
        damage: measured, nats per token; 0 if it was not.
    """
    if not set(kv_type).difference(PLAIN_CACHE_TYPES):
        return ""
    names = ", ".join(dict.fromkeys(t.lower() for t in kv_type))
    if damage:
        return f"{names} loses {damage:.6f} nats per token, measured, on top of the predicted KLD"
    return f"what {names} loses is not in the predicted KLD; --kv-type auto measures it"


@dataclass(frozen=True)
class Layout:
    """One way to lay a model out, as llama.cpp would."""

    placement: Placement
    table: MemoryTable
    use: MemoryUse
    context: Context
    damage: float = 0.0


def placements(file: GGUFFile, budget: MemoryBudget) -> list[Placement]:
    """The layouts that are possible, those that leave most to the device first.

    Raises:
        GGUFError: the header does not say how many layers there are.
    """
    if budget.vram_bytes is None:
        return [CPU_ALONE]
    everything = Placement(device=budget.device)
    if budget.ram_bytes is None:
        return [everything]
    n_layer = file.get(f"{file.architecture}.block_count")
    if not isinstance(n_layer, int) or n_layer < 1:
        raise GGUFError(
            f"{file.path} does not say how many layers it has; convert the model again",
            path=str(file.path),
            key=f"{file.architecture}.block_count",
        )
    blocks = sorted({int(m.group(1)) for name in file.tensors if (m := _EXPERTS.match(name))})
    found = [everything]
    found += [Placement(device=budget.device, n_cpu_moe=block + 1) for block in _spread(blocks)]
    found += [Placement(n, budget.device) for n in reversed(_spread(list(range(n_layer + 1))))]
    return found


def _spread(values: list[int]) -> list[int]:
    """At most about half of `_MOST_LAYOUTS` of them, the first and the last among them."""
    most = _MOST_LAYOUTS // 2
    if len(values) <= most:
        return values
    return sorted({values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)})


def layouts(path: Path, wanted: list[Placement], contexts: list[tuple[Context, float]]) -> list[Layout]:
    """What each of the layouts takes, with each context and its damage.

    Raises:
        ModelLoadError, BackendError: llama.cpp refuses the model or the context.
    """
    found = []
    with bare_header(path) if len(wanted) > _FEW_LAYOUTS else nullcontext(path) as counted:
        for placement in wanted:
            use = memory_use(counted, placement, [c for c, _ in contexts])
            for (context, damage), table in zip(contexts, use.tables, strict=True):
                found.append(Layout(placement, table, use, context, damage))
    return found


class Takes:
    """What choices take on a device and in main memory; each type and shape is asked for once."""

    def __init__(self, file: GGUFFile, device: str) -> None:
        self.file, self.device = file, device
        self._known: dict[tuple[str, str, tuple[int, ...]], int] = {}

    def bytes(self, device: str, qtype: str, shape: tuple[int, ...]) -> int:
        """Of one tensor."""
        key = (device, qtype, shape)
        if key not in self._known:
            self._known[key] = allocated_bytes(device, [(qtype, shape)])[0]
        return self._known[key]

    def site(
        self,
        problem: Problem,
        layout: Layout,
        seconds: Seconds | None = None,
        other_seconds: float = 0.0,
    ) -> Site:
        """The layout as the solver sees it.

        Args:
            problem: what is to be chosen.
            layout: as llama.cpp reports it.
            seconds: of the products with tensors of these types, per token.
            other_seconds: per token, of all else.
        """
        copies: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for t in layout.use.tensors:
            copies[t.name][int(t.is_host)] += 1
        decided = {t for i in problem.items for t in i.uses(i.choices[0])}
        decided |= {t for i in problem.items for t in i.choices[0].types(i.name)}
        rest = [t for t in layout.use.tensors if t.name not in decided]
        table = layout.table
        return Site(
            " ".join(layout.placement.flags),
            table.needed(is_host=False) + sum(t.size_bytes for t in rest if not t.is_host),
            table.needed(is_host=True) + sum(t.size_bytes for t in rest if t.is_host),
            other_seconds,
            {
                item.name: np.array(
                    [self._takes(item, choice, copies, seconds) for choice in item.choices], np.float64
                )
                for item in problem.items
            },
            layout.damage,
        )

    def _takes(
        self,
        item: Item,
        choice: Choice,
        copies: Mapping[str, list[int]],
        seconds: Seconds | None,
    ) -> tuple[float, float, float, float]:
        types = choice.types(item.name)
        head = item.second_use
        total = np.zeros(3)
        for tensor, qtype in types.items():
            places = copies.get(tensor, [0, 0])
            if head is not None and tensor == head:
                # The head's own weights go where the tied ones were multiplied.
                tied = copies[item.name]
                places = [1, 0] if tied[0] else [0, 1]
            elif head is not None and head in types and tensor == item.name:
                places = [0, 1]
            shape = self.file.tensors[tensor if tensor in self.file.tensors else item.name].shape
            on_device, on_host = places
            total[0] += on_device * self.bytes(self.device, qtype, shape) if on_device else 0
            total[1] += on_host * self.bytes("", qtype, shape) if on_host else 0
        if seconds is not None:
            total[2] = seconds(types)
        return float(total[0]), float(total[1]), float(choice.size_bytes), float(total[2])
