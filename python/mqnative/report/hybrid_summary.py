"""What a release of hybrids knows: the facts that its card, its page and its plot show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mqnative.report.summary import Figures, Interval, StepTime


@dataclass(frozen=True)
class Below:
    """A difference of KLD on held-out text, nats per token: negative is better.

    Attributes:
        value: KLD minus the reference's.
        ci95: an interval that holds for all claims of the release together.
        reference: KLD of the chord, or of the other file.
    """

    value: float
    ci95: Interval
    reference: float

    @property
    def is_proven(self) -> bool:
        """Whether the interval excludes zero on the good side."""
        return self.ci95[1] < 0

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> Below | None:
        """What `asdict` made of one."""
        if found is None:
            return None
        return cls(found["value"], (found["ci95"][0], found["ci95"][1]), found["reference"])


@dataclass(frozen=True)
class FileRow:
    """A published file.

    Attributes:
        name: without the model's: ``MQ-Q4_K_M_1``.
        file: its file name.
        provider, family: of the name.
        level: ``tensor`` or ``group`` for hybrids, by what types were chosen for; ``baseline``.
        size_bytes: of the file.
        bpw: 8 x bytes of tensor data / weights.
        figures: held-out scores.
        spec: the v1 spec, with ``~`` in front where it only names each group's commonest type.
        why: the reason that it is here.
        replaced: baselines whose place it took.
        groups: group -> types of its tensors.
        below_chord: against the chord of the baselines next to it; None for baselines.
        in_table: against the chord of its neighbours in the table.
        predicted_kld: before it was measured; None where a type was not measured.
        sha256: of the file.
    """

    name: str
    file: str
    provider: str
    family: str
    level: str
    size_bytes: int
    bpw: float
    figures: Figures
    spec: str
    why: str
    replaced: tuple[str, ...]
    groups: Mapping[str, str]
    below_chord: Below | None = None
    in_table: Below | None = None
    predicted_kld: float | None = None
    sha256: str = ""

    @property
    def is_hybrid(self) -> bool:
        """Whether it is ours."""
        return self.level != "baseline"

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> FileRow:
        """What `HybridReport.to_json` made of one."""
        return cls(
            **{
                **found,
                "figures": figures_from(found["figures"]),
                "replaced": tuple(found["replaced"]),
                "below_chord": Below.from_json(found["below_chord"]),
                "in_table": Below.from_json(found["in_table"]),
            }
        )


@dataclass(frozen=True)
class BaselineRow:
    """A baseline, published or not.

    Attributes:
        name: provider and family.
        size_bytes: of its file.
        figures: held-out scores; None for those that were not looked at.
        is_anchor: whether no other baseline beats it.
        reason: why it is not published, in one word; empty if it is.
        by: name of the file that took its place; empty if none did.
        said: the reason with its numbers, on the select text.
        difference: its KLD minus that file's on held-out text.
        credit: who made it.
    """

    name: str
    size_bytes: int
    figures: Figures | None
    is_anchor: bool
    reason: str
    by: str
    said: str
    difference: Below | None
    credit: str

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> BaselineRow:
        """What `HybridReport.to_json` made of one."""
        figures = found["figures"]
        return cls(
            **{
                **found,
                "figures": None if figures is None else figures_from(figures),
                "difference": Below.from_json(found["difference"]),
            }
        )


@dataclass(frozen=True)
class HybridReport:
    """A release.

    Attributes:
        title: what it is about.
        model: facts about the model.
        ppl_ref: perplexity of the original on the held-out text.
        files: published, the smallest first.
        baselines: all of them, the smallest first.
        isolation: counts of patterns and passes.
        notes: what a reader should know.
        steps: what took how long.
        provenance: versions and hashes.
        rebuild_command: the call that makes the same again.
    """

    title: str
    model: Mapping[str, str]
    ppl_ref: float
    files: tuple[FileRow, ...]
    baselines: tuple[BaselineRow, ...]
    isolation: Mapping[str, float]
    notes: tuple[str, ...]
    steps: tuple[StepTime, ...]
    provenance: Mapping[str, str]
    rebuild_command: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> HybridReport:
        """What `to_json` made."""
        return cls(
            **{
                **found,
                "files": tuple(FileRow.from_json(f) for f in found["files"]),
                "baselines": tuple(BaselineRow.from_json(b) for b in found["baselines"]),
                "notes": tuple(found["notes"]),
                "steps": tuple(StepTime(**s) for s in found["steps"]),
            }
        )


def figures_from(found: Mapping[str, Any]) -> Figures:
    """Scores as they were."""
    low, high = found["kld_ci95"]
    return Figures(**{**found, "kld_ci95": (low, high)})
