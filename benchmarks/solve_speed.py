"""How long the exact solver takes: 1,000 tensors x 20 types with constraints, and frontiers of 200 budgets.

    python benchmarks/solve_speed.py [--instances 10] [--tensors 1000]

Seeded problems sized like a large model's; prints one Markdown table and fails where a bar is missed.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from mqnative.core.info import build_info
from mqnative.formats.qtypes import qtype
from mqnative.solve.constraints import NO_CONSTRAINTS, Constraints, Share
from mqnative.solve.exact import solve_exact
from mqnative.solve.frontier import default_budgets, frontier
from mqnative.solve.limits import Ceiling, Floor, Pin
from mqnative.solve.problem import Choice, Item, Problem
from mqnative.solve.restrict import restrict

TYPES = (
    "Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K", "IQ3_S",
    "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "BF16",
)  # fmt: skip
ROLES = (
    ("attn_q", 4096 * 4096), ("attn_k", 4096 * 1024), ("attn_v", 4096 * 1024), ("attn_output", 4096 * 4096),
    ("ffn_gate", 4096 * 14336), ("ffn_up", 4096 * 14336), ("ffn_down", 4096 * 14336),
)  # fmt: skip
LIMITS = (
    Pin("output\\.weight", "Q6_K"),
    Floor(".*attn_v\\.weight", "Q4_K"),
    Floor("token_embd\\.weight", "Q4_K"),
    Ceiling(".*ffn_up\\.weight", "Q6_K"),
)
SHARES = (Share(r"blk\.(\d+)\.attn_[qk]\.weight"), Share(r"blk\.(\d+)\.ffn_(?:gate|up)\.weight"))
SETS = {
    "no constraint": NO_CONSTRAINTS,
    "pin, floors, ceiling, shared types": Constraints(LIMITS, SHARES),
    "the same, and at most 6 types": Constraints(LIMITS, SHARES, max_types=6),
}
GAP = 1e-6
EXACT_BAR_S, FRONTIER_BAR_S = 2.0, 1.0
N_BUDGETS = 200


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    seconds: list[float]
    gap: float
    bar_s: float

    @property
    def passed(self) -> bool:
        return statistics.median(self.seconds) < self.bar_s and self.gap <= GAP


def instance(seed: int, n_tensors: int) -> Problem:
    """A model's tensors with damages that fall by four a bit, each tensor and type a little otherwise."""
    rng = random.Random(seed)
    named = [("token_embd.weight", 128_256 * 4096), ("output.weight", 128_256 * 4096)]
    layer = 0
    while len(named) < n_tensors:
        named += [(f"blk.{layer}.{role}.weight", size) for role, size in ROLES]
        layer += 1
    items = []
    for name, n_weights in named[:n_tensors]:
        scale = math.exp(rng.gauss(0, 1.5)) * 1e-9 * n_weights**0.5
        choices = []
        for t in TYPES:
            bpw = qtype(t).bpw
            damage = 0.0 if t == "BF16" else scale * 4.0**-bpw * math.exp(rng.gauss(0, 0.15)) * 1e3
            choices.append(
                Choice(t, qtype(t).tensor_bytes((4096, n_weights // 4096)), damage, damage**2 / 100)
            )
        items.append(Item(name, tuple(choices), rng.random()))
    return Problem(tuple(items), 10_000_000)


def timed(work: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    gap = work()
    return time.perf_counter() - started, gap


def row(what: str, bar_s: float, works: list[Callable[[], float]]) -> Row:
    results = [timed(work) for work in works]
    return Row(what, [s for s, _ in results], max(g for _, g in results), bar_s)


def solving(problem: Problem, constraints: Constraints, share: float) -> Callable[[], float]:
    """From tensors and constraints to the proven mix; ``share`` places the budget."""

    def work() -> float:
        part = restrict(problem, constraints).problem
        low, high = part.smallest_bytes, part.largest_bytes
        return solve_exact(part, int(low + share * (high - low) / 3)).gap

    return work


def tracing(problem: Problem, constraints: Constraints) -> Callable[[], float]:
    def work() -> float:
        part = restrict(problem, constraints).problem
        found = frontier(part, default_budgets(part, part.smallest_bytes, N_BUDGETS))
        return max(
            float((d - b) / d) for d, b in zip(found.damages, found.lower_bounds, strict=True) if d > 0
        )

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--tensors", type=int, default=1000)
    arguments = parser.parse_args()
    problems = [instance(seed, arguments.tensors) for seed in range(arguments.instances)]
    shares = [(k + 1) / (arguments.instances + 1) for k in range(arguments.instances)]
    rows = [
        row(
            f"exact, {what}",
            EXACT_BAR_S,
            [solving(p, constraints, s) for p, s in zip(problems, shares, strict=True)],
        )
        for what, constraints in SETS.items()
    ]
    rows += [
        row(f"frontier of {N_BUDGETS} budgets, {what}", FRONTIER_BAR_S, [tracing(p, c) for p in problems])
        for what, c in SETS.items()
        if c.max_types is None
    ]
    info = build_info()
    print(
        f"mqnative {info['version']}, {info['compiler']}; {arguments.tensors} tensors x {len(TYPES)} types\n"
    )
    print("| what | instances | median s | worst s | largest proven gap | bar s | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for r in rows:
        verdict = "passed" if r.passed else "MISSED"
        print(
            f"| {r.what} | {len(r.seconds)} | {statistics.median(r.seconds):.3f} | {max(r.seconds):.3f} | "
            f"{r.gap:.1e} | {r.bar_s:g} | {verdict} |"
        )
    if not all(r.passed for r in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
