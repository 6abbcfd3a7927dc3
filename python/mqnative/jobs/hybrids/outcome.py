"""What a finished search knows, and its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mqnative.hybrids.verdicts import Removal
from mqnative.jobs.hybrids.candidates import Found
from mqnative.jobs.hybrids.isolation import Isolation
from mqnative.jobs.hybrids.verify import Proof


@dataclass(frozen=True)
class Outcome:
    """A finished search.

    Attributes:
        request, inputs: what was asked for, as a key and as JSON values.
        isolation: of groups.
        found: candidates and survivors.
        proof: figures on held-out text.
        duplicates: baselines with the types of another one.
    """

    request: str
    inputs: Mapping[str, Any] = field(repr=False)
    isolation: Isolation
    found: Found
    proof: Proof
    duplicates: Sequence[Removal]

    @property
    def removals(self) -> list[Removal]:
        """Everything that is not published, baselines and candidates."""
        return [*self.duplicates, *self.found.table.removed]

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Every decision in order, with its numbers and its reason, as JSON values."""
        log: list[dict[str, Any]] = [
            {"step": "baseline", "about": r.name, **r.to_json()} for r in self.duplicates
        ]
        log += [
            {
                "step": "isolation",
                "about": f"{c.group} {c.name} {'left out' if c.ban else 'stays'}",
                **c.to_json(),
            }
            for c in self.isolation.choices
        ]
        log += [{"step": "solve", "about": "skipped", "said": said} for said in self.found.skipped]
        for name, c in self.found.candidates.items():
            predicted = None if c.predicted is None else c.predicted.mean
            said = f"{c.solved.size_bytes:,} bytes for {c.solved.target.said}, {c.said}"
            if predicted is not None:
                said += f"; predicted KLD {predicted:.3g}"
            measured = None if c.klds is None else float(c.klds.mean())
            if measured is not None:
                said += f", measured {measured:.3g}"
            log.append(
                {
                    "step": "candidate",
                    "about": name,
                    "said": said,
                    "size_bytes": c.solved.size_bytes,
                    "predicted_kld": predicted,
                    "kld": measured,
                }
            )
            log += [{"step": "refine", "about": name, "said": r.said} for r in c.rounds]
        log += [
            {"step": "survivors", "about": f"{r.name} is not published ({r.reason})", **r.to_json()}
            for r in self.found.table.removed
        ]
        log += [
            {"step": "survivors", "about": f"{s.name} is published ({s.reason})", **s.to_json()}
            for s in self.found.table.survivors
        ]
        return log
