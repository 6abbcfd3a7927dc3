"""What a command is going to cost, step by step, before it runs; and what it cost in the end.

A step's time is its work in known units (passes, encoded weights, bytes) times what such a unit takes here,
times how far that was off in earlier jobs. What an earlier job has measured already costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mqnative.store import Store
from mqnative.store.job_rows import Job, Step
from mqnative.store.job_tables import DONE

Basis = Literal["kept", "measured", "calibrated", "assumed"]
# Of the least that a step must have taken to tell anything.
_SHORTEST_S = 0.02


@dataclass(frozen=True)
class Planned:
    """A step that is to come.

    Attributes:
        name, unit: as the monitor will be told.
        amount: units, about.
        raw_s: seconds by the units of work alone.
        size_bytes: what it downloads or writes.
        signature: hash of what decides its results; empty where they are not kept.
        model: which model it works on; corrections are kept for each.
        seconds: what is expected, once `priced`.
        basis: where that comes from.
    """

    name: str
    amount: int
    unit: str
    raw_s: float
    size_bytes: int = 0
    signature: str = ""
    model: str = ""
    seconds: float = 0.0
    basis: Basis = "assumed"


@dataclass(frozen=True)
class Plan:
    """The steps of a command.

    Attributes:
        steps: in order.
        notes: what a reader should know.
    """

    steps: tuple[Planned, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def size_bytes(self) -> int:
        """Downloaded or written in all."""
        return sum(step.size_bytes for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As ``--plan --json`` prints and a job's row keeps it."""
        return {
            "seconds": self.seconds,
            "size_bytes": self.size_bytes,
            "steps": [asdict(step) for step in self.steps],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Plan:
        """The plan that a row keeps."""
        return cls(tuple(Planned(**step) for step in value["steps"]), tuple(value["notes"]))


def priced(plan: Plan, costs: Mapping[str, float], kept: Mapping[str, float], *, calibrated: bool) -> Plan:
    """The plan with the seconds that are expected.

    Args:
        plan: with raw seconds.
        costs: known unit costs; see `correction_names`.
        kept: signature -> share of the step that earlier jobs have done.
        calibrated: whether raw seconds come from units that were measured on this machine.
    """
    steps = []
    for step in plan.steps:
        share = kept.get(step.signature, 0.0) if step.signature else 0.0
        names = [name for name in correction_names(step) if name in costs]
        factor = costs[names[0]] if names else 1.0
        basis: Basis = "measured" if names else "calibrated" if calibrated else "assumed"
        seconds = step.raw_s * factor * (1.0 - share)
        steps.append(replace(step, seconds=seconds, basis="kept" if share >= 1.0 else basis))
    return replace(plan, steps=tuple(steps))


def correction_names(step: Planned) -> tuple[str, ...]:
    """Under which names the correction of a step is known, the best one first."""
    # Downloads are called after what they fetch; one network brings them all.
    kind = step.name.removesuffix(f" {step.model}")
    return tuple(dict.fromkeys((f"step {step.name} of {step.model}", f"step {step.name}", f"step {kind}")))


def kept_shares(store: Store, besides: int | None = None) -> dict[str, float]:
    """Signature -> the share of such a step that jobs have done already.

    Args:
        store: with the jobs.
        besides: a job that does not count.
    """
    shares: dict[str, float] = {}
    for job in store.jobs.all():
        if job.estimate is None or job.id == besides:
            continue
        planned = Plan.from_dict(job.estimate).steps
        whole = {step.name: 1.0 for step in planned}
        done = whole if job.state == DONE else _done_shares(store, job, planned)
        for step in planned:
            if step.signature:
                shares[step.signature] = max(shares.get(step.signature, 0.0), done.get(step.name, 0.0))
    return shares


def _done_shares(store: Store, job: Job, planned: Sequence[Planned]) -> dict[str, float]:
    amounts = {step.name: step.amount for step in planned}
    done: dict[str, float] = {}
    for step in store.jobs.steps(job.id):
        if amount := max(amounts.get(step.name, 0), step.total):
            done[step.name] = min(1.0, done.get(step.name, 0.0) + step.done / amount)
    return done


@dataclass(frozen=True)
class Compared:
    """A step's estimate beside what it took; None where there is no such thing."""

    name: str
    expected_s: float | None
    actual_s: float | None


def compare(plan: Plan, steps: Iterable[Step]) -> list[Compared]:
    """Estimate against reality, planned steps first."""
    actual: dict[str, float] = {}
    for step in steps:
        actual[step.name] = actual.get(step.name, 0.0) + step.elapsed_s
    rows = [Compared(p.name, p.seconds, actual.pop(p.name, None)) for p in plan.steps]
    return rows + [Compared(name, None, seconds) for name, seconds in actual.items()]


def corrections(plan: Plan, steps: Sequence[Step]) -> dict[str, tuple[float, float]]:
    """What a finished job tells: name -> (seconds it took, seconds by its units of work).

    A step that was partly there before tells nothing.
    """
    found: dict[str, tuple[float, float]] = {}
    for planned in plan.steps:
        own = [s for s in steps if s.name == planned.name]
        elapsed = sum(s.elapsed_s for s in own)
        whole = planned.basis != "kept" and all(s.state != "running" for s in own)
        if own and whole and planned.raw_s > 0 and elapsed > _SHORTEST_S:
            for name in correction_names(planned):
                found[name] = (elapsed, planned.raw_s)
    return found
