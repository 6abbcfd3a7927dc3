"""From damages to a plan whose file meets the budget to the byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mqnative.build.plan import BuildPlan, plan_build
from mqnative.errors import InfeasibleBudgetError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_rules import DEFAULT_ALIGNMENT, padded
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.known import Damages, Table
from mqnative.jobs.memory_budget import MemoryBudget
from mqnative.predict.damage import Damage
from mqnative.predict.link import head_shares
from mqnative.solve.constraints import NO_CONSTRAINTS, Constraints
from mqnative.solve.exact import solve_exact
from mqnative.solve.explain import Explanation, explain
from mqnative.solve.feasible import require_fit, restricted
from mqnative.solve.problem import Choice, Item, Problem, Solution
from mqnative.solve.restrict import Facts, Restricted
from mqnative.solve.solvers import Settings, solve

# The header's length depends on the mix by a few bytes; this many corrections are always enough.
_MAX_TRIES = 5


@dataclass(frozen=True)
class Demand:
    """What is asked of a mix.

    Attributes:
        size_bytes, bpw: the budget, one of the two or none.
        constraints: what else must hold.
        method, settings: how it is solved.
        memory: a machine that it must fit, instead of a size or besides.
    """

    size_bytes: int | None = None
    bpw: float | None = None
    constraints: Constraints = NO_CONSTRAINTS
    method: str = "exact"
    settings: Settings = field(default_factory=Settings)
    memory: MemoryBudget | None = None

    def budget_bytes(self, file: GGUFFile) -> int | None:
        """The whole-file budget; None if none was given."""
        if self.size_bytes is not None:
            return self.size_bytes
        return None if self.bpw is None else budget_of_bpw(file, self.bpw)


@dataclass(frozen=True)
class Case:
    """A model with its damages, ready to be solved.

    Attributes:
        file: the source.
        damages: of its tensors.
        imatrix_name: what the file is to call the imatrix.
        source_hash: of the model.
        body_weight: what damage counts for that is not the head's; see `mqnative.predict.link`.
        labels: further texts for the file's header.
    """

    file: GGUFFile
    damages: Damages
    imatrix_name: str
    source_hash: str
    body_weight: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def plan(self, types: Mapping[str, str]) -> BuildPlan:
        """The file that a mix makes; tensors not named stay as they are."""
        own = {name: t.qtype_name for name, t in self.damages.tensors.items()}
        return plan_build(
            self.file,
            Recipe(tensors=own | dict(types)),
            self.damages.imatrix,
            imatrix_name=self.imatrix_name if self.damages.imatrix is not None else "",
            source_hash=self.source_hash,
            labels=self.labels,
        )

    def header_bytes(self) -> int:
        """The length of the header, of one mix; of others it differs by a few bytes."""
        smallest = {
            name: min(by_type, key=lambda t: qtype(t).bpw)
            for name, by_type in self.damages.table.items()
            if by_type
        }
        return len(self.plan(smallest).layout.header_bytes)

    def problem(self, header_bytes: int) -> Problem:
        """The choices of every tensor, its own type at no damage among them."""
        importance, step = self.damages.importance(), self.file.alignment
        share = self.damages.share
        heads = head_shares(self.damages.tensors, 0.0 if share is None else share.of_input)
        uses = {n: _weighed(d, self._weight(float(n == HEAD))) for n, d in self.damages.uses.items()}
        items = []
        for name, of_type in self.damages.table.items():
            info = self.damages.tensors[name].info
            by_type = _weighed(of_type, self._weight(heads.get(name, 0.0)))
            choices = [Choice(info.qtype.name, padded(info.size_bytes, step), 0.0)]
            choices += [
                Choice(t, padded(qtype(t).tensor_bytes(info.shape), step), d.mean, d.variance)
                for t, d in by_type.items()
                if t != info.qtype.name
            ]
            untied = name == EMBEDDING and share is not None
            choices += _untied(choices, uses) if untied else []
            items.append(Item(name, tuple(choices), importance[name], HEAD if untied else None))
        return Problem(tuple(items), header_bytes + self.fixed_tensor_bytes())

    def _weight(self, head_share: float) -> float:
        return head_share + (1.0 - head_share) * self.body_weight

    def fixed_tensor_bytes(self) -> int:
        """Bytes of the tensors whose type never changes."""
        tensors, step = self.file.tensors, self.file.alignment
        return sum(padded(tensors[name].size_bytes, step) for name in self.damages.fixed)

    def restricted(self, header_bytes: int, constraints: Constraints, facts: Facts) -> Restricted:
        """The problem under constraints.

        Raises:
            ConstraintError, InfeasibleConstraintsError: as `mqnative.solve.feasible.restricted`.
        """
        return restricted(self.problem(header_bytes), constraints, facts, fixed=self.damages.fixed)


def _weighed(by_type: Mapping[str, Damage], weight: float) -> Mapping[str, Damage]:
    if weight == 1.0:
        return by_type
    return {t: Damage(weight * d.mean, weight**2 * d.variance) for t, d in by_type.items()}


def _untied(tied: list[Choice], uses: Table) -> list[Choice]:
    """Every pair of types for the two uses of an embedding; equal ones are what tying is for."""

    def damage(name: str, choice: Choice) -> Damage:
        return uses[name].get(choice.qtype, Damage(0.0, 0.0))

    found = []
    for first in tied:
        for second in tied:
            if first is second:
                continue
            parts = ((EMBEDDING, first.qtype), (HEAD, second.qtype))
            of_input, of_head = damage(EMBEDDING, first), damage(HEAD, second)
            found.append(
                Choice(
                    f"{first.qtype} + {second.qtype}",
                    first.size_bytes + second.size_bytes,
                    of_input.mean + of_head.mean,
                    of_input.variance + of_head.variance,
                    parts,
                )
            )
    return found


@dataclass(frozen=True)
class Fit:
    """A solved budget.

    Attributes:
        restricted: the problem and its constraints.
        solution: the mix.
        plan: of its file.
        budget_bytes: it was solved for; None where the method has a size of its own.
        facts: by tensor.
    """

    restricted: Restricted
    solution: Solution
    plan: BuildPlan
    budget_bytes: int | None
    facts: Facts

    @property
    def problem(self) -> Problem:
        """What was solved."""
        return self.restricted.problem

    @property
    def limit_bytes(self) -> int:
        """What the file may take: the budget, or without one its own size."""
        return self.plan.file_bytes if self.budget_bytes is None else self.budget_bytes

    def explanation(self) -> Explanation:
        """Why every tensor has its type; solves the problem again for each constraint."""
        return explain(self.restricted, self.solution, self.budget_bytes, solve_exact, self.facts)


def fit(
    case: Case,
    demand: Demand,
    budget_bytes: int | None,
    *,
    mixes: Mapping[str, Mapping[str, str]] | None = None,
) -> Fit:
    """The mix that a method finds whose whole file is at most ``budget_bytes``.

    Args:
        case: the model.
        demand: constraints and method; its budget is not looked at.
        budget_bytes: whole-file bytes; None where the method has a size of its own.
        mixes: presets by name, for ``preset:NAME``.

    Raises:
        InfeasibleBudgetError: below the smallest file, with the constraint that binds, or above the source's
            own size; the range is attached.
        InfeasibleConstraintsError, ConstraintError: as `mqnative.solve.feasible.restricted`.
    """
    settings = demand.settings if mixes is None else replace(demand.settings, mixes=mixes)
    facts = case.damages.facts()

    def attempt(header_bytes: int) -> Fit:
        found = case.restricted(header_bytes, demand.constraints, facts)
        if budget_bytes is not None:
            _require_below(found.free.largest_bytes, found.problem, budget_bytes)
            require_fit(found, facts, budget_bytes)
        solution = solve(found.problem, budget_bytes, demand.method, settings)
        return Fit(found, solution, case.plan(solution.types), budget_bytes, facts)

    header_bytes = case.header_bytes()
    for _ in range(_MAX_TRIES):
        found = attempt(header_bytes)
        if budget_bytes is None or found.plan.file_bytes <= budget_bytes:
            return found
        header_bytes += case.file.alignment
    raise AssertionError("the header grows without end")


def fit_problem(
    problem: Problem, budget_bytes: int, plan: Callable[[dict[str, str]], BuildPlan], tries: int = _MAX_TRIES
) -> tuple[Solution, BuildPlan]:
    """The exact solution whose file, header and all, is at most ``budget_bytes``.

    Args:
        problem: with a header's bytes among its fixed ones.
        budget_bytes: for the whole file.
        plan: the file of a mix.
        tries: corrections of the header's length.
    """
    solution = solve_exact(problem, budget_bytes)
    found = plan(solution.types)
    if found.file_bytes <= budget_bytes:
        return solution, found
    if tries == 0:
        raise AssertionError("the header grows without end")
    longer = replace(problem, fixed_bytes=problem.fixed_bytes + DEFAULT_ALIGNMENT)
    return fit_problem(longer, budget_bytes, plan, tries - 1)


def _require_below(largest: int, problem: Problem, budget_bytes: int) -> None:
    if budget_bytes > largest:
        raise InfeasibleBudgetError(
            f"a budget of {budget_bytes:,} bytes is above the largest file, the source's own "
            f"{largest:,} bytes; the feasible range is {problem.smallest_bytes:,} to {largest:,} bytes",
            budget_bytes=budget_bytes,
            smallest_bytes=problem.smallest_bytes,
            largest_bytes=largest,
        )


def budget_of_bpw(file: GGUFFile, bpw: float) -> int:
    """The whole-file budget that a bpw asks for: the tensors' data at that bpw, and the header.

    bpw counts tensor data only (8 x tensor bytes / weights); the header is the source's own.
    """
    header = file.file_bytes - sum(padded(t.size_bytes, file.alignment) for t in file.tensors.values())
    return int(bpw * file.n_weights / 8) + header
