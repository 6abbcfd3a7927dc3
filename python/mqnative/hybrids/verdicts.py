"""What was decided about a file, with its numbers and its reason: what logs and cards are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mqnative.hybrids.chords import Chord
from mqnative.measure.uncertainty import Estimate

# Why a file is in the table.
Kept = Literal["REPLACES_BASELINE", "NEAR_BASELINE_PREMIUM", "NONLINEAR_WIN", "ASKED_SIZE", "NOT_BEATEN"]
# Why it is not.
Removed = Literal[
    "SAME_TYPES", "STRICT_DOMINANCE", "TIE_SMALLER", "NEAR_BASELINE_PREMIUM", "NOT_BELOW_CHORD", "NO_CHORD",
    "SPACING", "FINAL_DOMINANCE", "COLLAPSE", "TOO_LARGE", "PROVIDER", "CONSTRAINT",
]  # fmt: skip


@dataclass(frozen=True)
class Removal:
    """A file that is not published.

    Attributes:
        name: the file.
        reason: in one word.
        by: the file that took its place; None if none did.
        difference: its KLD minus that of ``by``, or of the chord: positive is worse. None where bytes or a
            demand decided.
        size_difference: its bytes minus those of ``by``.
        said: the same as a sentence.
    """

    name: str
    reason: Removed
    by: str | None
    said: str
    difference: Estimate | None = None
    size_difference: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "reason": self.reason,
            "by": self.by,
            "said": self.said,
            "size_difference_bytes": self.size_difference,
            **difference_json(self.difference),
        }


@dataclass(frozen=True)
class Survivor:
    """A file that is published.

    Attributes:
        name: the file.
        reason: why it is there, in one word.
        replaced: baselines whose place it took, in order of size, through others or at once.
        said: the reason as a sentence.
        chord: its KLD minus that of the chord of the baselines next to it, nats per token; None for baselines
            and where there is no chord.
        chord_kld: of that chord at its size.
        chord_ends: names of the two ends; the larger one empty for the unquantized model.
        gain: ln(chord / KLD) against its neighbours in the table; infinite at the ends.
    """

    name: str
    reason: Kept
    replaced: tuple[str, ...]
    said: str
    chord: Estimate | None = None
    chord_kld: float | None = None
    chord_ends: tuple[str, str] | None = None
    gain: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "reason": self.reason,
            "replaced": list(self.replaced),
            "said": self.said,
            "chord_kld": self.chord_kld,
            "chord_ends": None if self.chord_ends is None else list(self.chord_ends),
            "below_chord": None if self.chord is None else difference_json(self.chord),
        }


def difference_json(found: Estimate | None) -> dict[str, Any]:
    """A difference of KLD with its interval, as JSON values."""
    if found is None:
        return {"kld_difference": None, "kld_difference_ci95": None}
    return {"kld_difference": found.value, "kld_difference_ci95": list(found.ci95)}


def difference_text(found: Estimate) -> str:
    """``0.00031 (0.00028 to 0.00034)``."""
    return f"{found.value:.3g} ({found.ci95[0]:.3g} to {found.ci95[1]:.3g})"


def chord_text(chord: Chord) -> str:
    """``the chord from Q4_K_M to Q6_K``."""
    if chord.below == chord.above:
        return f"that of {chord.below}, the smallest baseline"
    return f"the chord from {chord.below} to {chord.above or 'the original'}"


def less_text(large: int, small: int) -> str:
    """``1.2 % fewer bytes``."""
    if large == small:
        return "the same bytes"
    return f"{100.0 * (1.0 - small / large):.1f} % fewer bytes"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
