"""From damages to a plan whose file meets the budget to the byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mqnative.build.plan import BuildPlan, ModelTensor, plan_build
from mqnative.errors import InfeasibleBudgetError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.predict.damage import Damage
from mqnative.solve.exact import solve_exact
from mqnative.solve.problem import Choice, Item, Problem, Solution

# ggml's alignment of tensor data in a file (GGUF_DEFAULT_ALIGNMENT).
_ALIGNMENT = 32
# The header's length depends on the mix by a few bytes; this many corrections are always enough.
_MAX_TRIES = 5


@dataclass(frozen=True)
class Fit:
    """A solved budget: the solution and the plan of its file."""

    problem: Problem
    solution: Solution
    plan: BuildPlan


def problem_of(
    file: GGUFFile,
    tensors: Mapping[str, ModelTensor],
    damages: Mapping[str, Mapping[str, Damage]],
    fixed_bytes: int,
) -> Problem:
    """The choices of every tensor, its own type at no damage among them."""
    items = []
    for name, by_type in damages.items():
        info = tensors[name].info
        choices = [Choice(info.qtype.name, _padded(info.size_bytes), 0.0)]
        choices += [
            Choice(t, _padded(qtype(t).tensor_bytes(info.shape)), d.mean, d.variance)
            for t, d in by_type.items()
            if t != info.qtype.name
        ]
        items.append(Item(name, tuple(choices)))
    chosen = set(damages)
    rest = sum(_padded(t.size_bytes) for name, t in file.tensors.items() if name not in chosen)
    return Problem(tuple(items), fixed_bytes + rest)


def fit(
    file: GGUFFile,
    tensors: Mapping[str, ModelTensor],
    damages: Mapping[str, Mapping[str, Damage]],
    budget_bytes: int,
    imatrix: Imatrix,
    *,
    imatrix_name: str,
    source_hash: str,
) -> Fit:
    """The least damaging mix whose whole file is at most ``budget_bytes``.

    Raises:
        InfeasibleBudgetError: below the smallest or above the largest file; the range is attached.
    """

    def plan(types: Mapping[str, str]) -> BuildPlan:
        recipe = Recipe(tensors=dict(types))
        return plan_build(file, recipe, imatrix, imatrix_name=imatrix_name, source_hash=source_hash)

    own = {name: t.qtype_name for name, t in tensors.items()}
    first = plan(own | {name: next(iter(by_type)) for name, by_type in damages.items()})
    header = len(first.layout.header_bytes)
    problem = problem_of(file, tensors, damages, header)
    if budget_bytes > problem.largest_bytes:
        raise InfeasibleBudgetError(
            f"a budget of {budget_bytes:,} bytes is above the largest file, the source's own "
            f"{problem.largest_bytes:,} bytes; the feasible range is {problem.smallest_bytes:,} to "
            f"{problem.largest_bytes:,} bytes",
            budget_bytes=budget_bytes,
            smallest_bytes=problem.smallest_bytes,
            largest_bytes=problem.largest_bytes,
        )
    return fit_problem(problem, budget_bytes, lambda types: plan(own | types))


def fit_problem(
    problem: Problem, budget_bytes: int, plan: Callable[[dict[str, str]], BuildPlan], tries: int = _MAX_TRIES
) -> Fit:
    """The solution whose file, header and all, is at most ``budget_bytes``.

    Args:
        problem: with a header's bytes among its fixed ones.
        budget_bytes: for the whole file.
        plan: the file of a mix.
        tries: corrections of the header's length.
    """
    solution = solve_exact(problem, budget_bytes)
    found = plan(solution.types)
    if found.file_bytes <= budget_bytes:
        return Fit(problem, solution, found)
    if tries == 0:
        raise AssertionError("the header grows without end")
    longer = replace(problem, fixed_bytes=problem.fixed_bytes + _ALIGNMENT)
    return fit_problem(longer, budget_bytes, plan, tries - 1)


def budget_of_bpw(file: GGUFFile, bpw: float) -> int:
    """The whole-file budget that a bpw asks for: the tensors' data at that bpw, and the header.

    bpw counts tensor data only (8 x tensor bytes / weights); the header is the source's own.
    """
    header = file.file_bytes - sum(_padded(t.size_bytes) for t in file.tensors.values())
    return int(bpw * file.n_weights / 8) + header


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
