"""The best mix for a machine: types and layout within its memory, checked with llama.cpp's own accounting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mqnative.build.header_only import header_only
from mqnative.build.plan import BuildPlan
from mqnative.core.memory import PLAIN_CACHE_TYPES, Context, MemoryTable, Placement, memory_use
from mqnative.core.presets import requires_imatrix
from mqnative.errors import BackendError, InfeasibleBudgetError
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.memory_budget import (
    MemoryBudget,
    Seconds,
    Takes,
    cache_text,
    launch_flags,
    layouts,
    placements,
)
from mqnative.jobs.speed_model import SpeedModel
from mqnative.solve.placed import Capacity, Placed, Site, fits, smallest, solve_placed
from mqnative.solve.problem import Problem, bytes_text

# A mix is solved, counted by llama.cpp, and solved again with what was missed taken off: so often at most.
_TRIES = 5
Plan = Callable[[Mapping[str, str]], BuildPlan]


@dataclass(frozen=True)
class MemoryFit:
    """A mix that fits a machine.

    Attributes:
        budget: that it was solved for.
        placed: the mix and its bytes as the solver counted them.
        plan: of its file.
        placement: where its weights go.
        table: what llama.cpp reports for the planned file.
        problem: what was solved.
        site: as the solver saw the layout.
        context: with the cache that was chosen.
        measured_tps: of the planned file, run without its weights; None where speed was not asked for.
        speed: what speed was predicted by.
    """

    budget: MemoryBudget
    placed: Placed
    plan: BuildPlan
    placement: Placement
    table: MemoryTable
    problem: Problem
    site: Site
    context: Context
    measured_tps: float | None = None
    speed: SpeedModel | None = None

    @property
    def damage(self) -> float:
        """Predicted, of weights and cache together, nats per token."""
        return self.placed.solution.damage + self.site.damage

    @property
    def sentence(self) -> str:
        """For a report."""
        device, host = self.table.device_bytes, self.table.host_bytes
        there = f"{device:,} bytes of the device's memory and " if device else ""
        cache = cache_text((self.context.type_k, self.context.type_v), self.site.damage)
        return (
            f"For {self.budget.text}: {there}{host:,} bytes of main memory by llama.cpp's accounting; "
            f"start with {' '.join(self.flags)}." + (f" Of the KV cache, {cache}." if cache else "")
        )

    @property
    def flags(self) -> list[str]:
        """llama.cpp's flags for it."""
        return launch_flags(self.placement, self.context)

    def values(self) -> dict[str, Any]:
        """As JSON has it."""
        tps = None if self.speed is None else self.speed.tps(self.plan.types)
        return {
            "launch_flags": self.flags,
            "memory": self.table.values(),
            "kv_type": [self.context.type_k, self.context.type_v],
            "kv_damage": self.site.damage,
            "device_bytes": self.table.device_bytes,
            "host_bytes": self.table.host_bytes,
            "predicted_tps": tps,
            "measured_tps": self.measured_tps,
        }


def memory_table(plan: BuildPlan, placement: Placement, context: Context) -> MemoryTable:
    """What llama.cpp would take for a planned file."""
    with header_only(plan) as path:
        return memory_use(path, placement, (context,)).tables[0]


def is_within(table: MemoryTable, budget: MemoryBudget) -> bool:
    """Whether a table keeps to a budget."""
    device = budget.vram_bytes is None or table.device_bytes <= budget.vram_bytes
    return device and (budget.ram_bytes is None or table.host_bytes <= budget.ram_bytes)


def small_types(problem: Problem) -> dict[str, str]:
    """Every tensor at its smallest choice that can be planned without importances."""
    found: dict[str, str] = {}
    for item in problem.items:
        plain = [
            c for c in item.choices if not any(requires_imatrix(n, t) for n, t in c.types(item.name).items())
        ]
        found |= min(plain or item.choices, key=lambda c: c.size_bytes).types(item.name)
    return found


def solve_memory(
    file: GGUFFile,
    problem: Problem,
    plan: Plan,
    budget: MemoryBudget,
    seconds: tuple[Seconds, float] | None = None,
) -> MemoryFit:
    """The least damaging mix within a memory budget, and where it goes.

    What buffers take depends a little on the types, so that layouts are counted with the planned mix and the
    answer is counted again.

    Args:
        file: the source.
        problem: the choices of its tensors.
        plan: the file of a mix.
        budget: memory, context and speed.
        seconds: per token of each tensor at each type, and of all else; needed for ``min_tps``.

    Raises:
        InfeasibleBudgetError: nothing fits; says what would help.
    """
    takes = Takes(file, budget.device)
    wanted = placements(file, budget)
    types = small_types(problem)
    excess: dict[int, tuple[int, int]] = {}
    best: MemoryFit | None = None
    sites: list[Site] = []
    file_bytes = budget.file_bytes
    for _ in range(_TRIES):
        with header_only(plan(types)) as path:
            counted = layouts(path, wanted, budget.contexts)
        sites = []
        for k, layout in enumerate(counted):
            tensors, other = seconds if seconds is not None else (None, 0.0)
            site = takes.site(problem, layout, tensors, other)
            device, host = excess.get(k, (0, 0))
            sites.append(
                replace(site, device_bytes=site.device_bytes + device, host_bytes=site.host_bytes + host)
            )
        placed = solve_placed(problem, sites, replace(budget.capacity, file_bytes=file_bytes))
        if placed is None:
            break
        types = dict(placed.solution.types)
        planned = plan(types)
        if (
            budget.file_bytes is not None
            and file_bytes is not None
            and planned.file_bytes > budget.file_bytes
        ):
            file_bytes -= planned.file_bytes - budget.file_bytes  # a longer header
            continue
        layout = counted[placed.site]
        table = memory_table(planned, layout.placement, layout.context)
        if is_within(table, budget):
            found = MemoryFit(
                budget, placed, planned, layout.placement, table, problem, sites[placed.site], layout.context
            )
            if best is not None and best.damage <= found.damage:
                return best
            best = found
            continue
        device, host = excess.get(placed.site, (0, 0))
        excess[placed.site] = (
            device + max(0, table.device_bytes - placed.device_bytes),
            host + max(0, table.host_bytes - placed.host_bytes),
        )
    if best is None and not budget.has_limit:
        raise _too_slow(problem, budget, sites)
    if best is None:
        raise infeasible(file, problem, plan, budget)
    return best


def _too_slow(problem: Problem, budget: MemoryBudget, sites: Sequence[Site]) -> InfeasibleBudgetError:
    """The refusal of a speed at a size, where memory is not limited."""
    fastest = max(1.0 / max(smallest(problem, site)[3], 1e-12) for site in sites)
    size = "" if budget.file_bytes is None else f" of at most {bytes_text(budget.file_bytes)}"
    return InfeasibleBudgetError(
        f"no mix of the allowed types{size} is predicted to reach {budget.min_tps or 0:g} tokens per second "
        f"on this machine; the fastest types together would reach {fastest:.1f}. Ask for less speed, or "
        "allow other types",
        budget_bytes=budget.file_bytes,
        constraint="--min-tps",
    )


def infeasible(file: GGUFFile, problem: Problem, plan: Plan, budget: MemoryBudget) -> InfeasibleBudgetError:
    """The refusal of a memory budget: the smallest feasible, and what would make it smaller."""
    what = "--vram" if budget.vram_bytes is not None else "--ram"
    with header_only(plan(small_types(problem))) as path:
        least = _least(file, path, problem, budget)
        helps = []
        for text, other in _relaxed(budget):
            try:
                less = _least(file, path, problem, other)
            except BackendError:
                continue  # a cache that the model cannot have
            if less is not None and (least is None or less < least):
                helps.append((less, text))
    asked = budget.vram_bytes if budget.vram_bytes is not None else budget.ram_bytes
    if asked is None:
        asked = budget.file_bytes or 0
    if least is not None and least <= asked:
        kind = "mix" if problem.max_types is None else f"mix of at most {problem.max_types} types"
        does = f"reaches {budget.min_tps:g} tokens per second" if budget.min_tps else "fits"
        ways = ["ask for less speed"] if budget.min_tps else []
        ways += ["allow smaller types" if problem.max_types is None else "allow more types (--max-types)"]
        return InfeasibleBudgetError(
            f"no {kind} {does} within {budget.text}; {', or '.join(ways)}",
            budget_bytes=asked,
            smallest_bytes=least,
            constraint="--min-tps" if budget.min_tps else what,
        )
    smallest_text = "nothing fits with this --ram" if least is None else f"it takes {bytes_text(least)}"
    advice = "; ".join(f"{text}: {bytes_text(size)}" for size, text in helps)
    return InfeasibleBudgetError(
        f"no mix of the allowed types fits {what} {bytes_text(asked)} beside --ctx {budget.context.n_ctx}: "
        f"at its smallest, {smallest_text}" + (f"; what would help: {advice}" if advice else ""),
        budget_bytes=asked,
        smallest_bytes=least,
        constraint=what,
    )


def _least(file: GGUFFile, path: Path, problem: Problem, budget: MemoryBudget) -> int | None:
    """The least device memory (or main memory, without a device) that any layout needs; None if none fits."""
    takes = Takes(file, budget.device)
    found = []
    for layout in layouts(path, placements(file, budget), budget.contexts):
        site = takes.site(problem, layout)
        others = Capacity(None, budget.ram_bytes if budget.vram_bytes is not None else None)
        if fits(problem, site, others):
            device, host, _, _ = smallest(problem, site)
            found.append(device if budget.vram_bytes is not None else host)
    return min(found, default=None)


def _relaxed(budget: MemoryBudget) -> Iterator[tuple[str, MemoryBudget]]:
    """The budget with one thing less to ask of it."""
    context = budget.context
    if context.n_ctx > 512:
        n_ctx = max(512, context.n_ctx // 4)
        yield f"--ctx {n_ctx}", replace(budget, context=replace(context, n_ctx=n_ctx))
    if context.type_k in PLAIN_CACHE_TYPES and not budget.caches:
        yield "--kv-type q8_0", replace(budget, context=replace(context, type_k="Q8_0", type_v="Q8_0"))
    if context.n_parallel > 1:
        yield "--parallel 1", replace(budget, context=replace(context, n_parallel=1))
    if context.n_ubatch > 64:
        yield "--ubatch 64", replace(budget, context=replace(context, n_ubatch=64))
    if budget.vram_bytes is not None and budget.ram_bytes is None:
        yield "layers in main memory (--ram)", replace(budget, ram_bytes=1 << 60)
