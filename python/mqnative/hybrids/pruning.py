"""Which patterns of a group the search need not look at, each with its numbers and its reason.

Hard damage: alone worse than a whole mix may be. Dominance: another pattern of no more bytes is better, or as
good and smaller. Bad trade: far above the straight line between two other patterns at its bytes. The lower
convex hull of a group, which is what budgets are spent on, loses nothing but what is hard damage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from mqnative.hybrids.chords import Chord, Point, chord_at
from mqnative.hybrids.isolation import F64Vector, Sample, contrast
from mqnative.hybrids.verdicts import difference_json, difference_text
from mqnative.measure.uncertainty import Estimate

# Nats per token; a mix that bad is of no use, and one group alone reaches it.
HARD_KLD = 0.1
# Times the chord: what a whole step between two types loses at most against the line between them.
BAD_TRADE = 1.25

Ban = Literal["HARD_DAMAGE", "DOMINANCE", "BAD_TRADE"]


@dataclass(frozen=True)
class Limits:
    """How hard patterns are judged.

    Attributes:
        hard_kld: KLD of one group alone, nats per token, that rules a pattern out.
        bad_trade: how many times the chord a pattern must lose.
    """

    hard_kld: float = HARD_KLD
    bad_trade: float = BAD_TRADE


@dataclass(frozen=True)
class Choice:
    """What became of one pattern.

    Attributes:
        group, name: the pattern.
        ban: why it is left out; None if it stays.
        against: names of the patterns it was judged against.
        difference: its KLD minus the limit, the other pattern's, or the chord's.
        said: as a sentence.
    """

    group: str
    name: str
    ban: Ban | None
    against: tuple[str, ...]
    difference: Estimate | None
    said: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "group": self.group,
            "name": self.name,
            "ban": self.ban,
            "against": list(self.against),
            "said": self.said,
            **difference_json(self.difference),
        }


def prune(samples: Sequence[Sample], limits: Limits | None = None) -> tuple[Choice, ...]:
    """Judge the patterns of one group; at least one stays.

    Args:
        samples: of one group, by distinct names; a pattern that keeps the original's types is not among them.
        limits: how hard.

    Returns:
        One choice for each sample, in their order.
    """
    limits = limits or Limits()
    bans: dict[str, Choice] = {}
    left = sorted(samples, key=lambda s: (s.pattern.size_bytes, s.damage.value, s.name))
    for rule in (_hard_damage, _dominance, _bad_trade):
        found = rule(left, limits)
        if rule is _hard_damage and len(found) == len(left):
            # All are too bad; the least bad one stays.
            best = min(left, key=lambda s: (s.damage.value, s.name))
            found = [c for c in found if c.name != best.name]
        bans |= {c.name: c for c in found}
        left = [s for s in left if s.name not in bans]
    return tuple(bans.get(s.name) or _stays(s) for s in samples)


def undecided(samples: Sequence[Sample], limits: Limits | None = None) -> list[str]:
    """Names of samples whose place a little more text could decide.

    Neighbours in size that tie, and patterns above the chord whose interval reaches it.
    """
    limits = limits or Limits()
    left = sorted(samples, key=lambda s: (s.pattern.size_bytes, s.damage.value, s.name))
    klds = _klds(left)
    names: dict[str, None] = {}
    for small, large in pairwise(left):
        found = contrast(klds, {small.name: 1.0, large.name: -1.0})
        if found.ci95[0] < 0 < found.ci95[1]:
            names |= dict.fromkeys((small.name, large.name))
    for sample in left:
        low, high = sample.damage.ci95
        if low < limits.hard_kld < high:
            names[sample.name] = None
    return list(names)


def _hard_damage(left: Sequence[Sample], limits: Limits) -> list[Choice]:
    found = []
    for s in left:
        low, high = s.damage.ci95
        if low < limits.hard_kld:
            continue
        above = Estimate(
            s.damage.value - limits.hard_kld, s.damage.se, (low - limits.hard_kld, high - limits.hard_kld)
        )
        said = f"alone it loses {difference_text(s.damage)} nats per token, more than {limits.hard_kld:g}"
        found.append(Choice(s.pattern.group, s.name, "HARD_DAMAGE", (), above, said))
    return found


def _dominance(left: Sequence[Sample], _limits: Limits) -> list[Choice]:
    klds = _klds(left)
    kept: list[Sample] = []
    found = []
    for s in left:
        for other in kept:
            difference = contrast(klds, {s.name: 1.0, other.name: -1.0})
            worse = difference.ci95[0] > 0
            # Of a few chunks a tie says little; only what is no better by its mean goes with it.
            if worse or (difference.value >= 0 and difference.ci95[1] >= 0):
                less = s.pattern.size_bytes - other.pattern.size_bytes
                how = "better" if worse else "as good"
                lower = difference_text(difference)
                said = f"{other.name} is {how} with {less:,} bytes less: KLD {lower} lower"
                found.append(Choice(s.pattern.group, s.name, "DOMINANCE", (other.name,), difference, said))
                break
        else:
            kept.append(s)
    return found


def _bad_trade(left: Sequence[Sample], limits: Limits) -> list[Choice]:
    klds = _klds(left)
    points = {s.name: Point(s.name, s.pattern.size_bytes, s.damage.value) for s in left}
    hull = _hull(list(points.values()))
    on_hull = {p.name for p in hull}
    found = []
    for s in left:
        chord = chord_at(s.pattern.size_bytes, hull)
        if s.name in on_hull or chord is None:
            continue
        allowed = contrast(klds, _times(chord, s.name, limits.bad_trade))
        if allowed.ci95[0] <= 0:
            continue
        above = contrast(klds, chord.against(s.name))
        said = (
            f"it loses {s.damage.value / chord.kld:.2f} times what the line from {chord.below} to "
            f"{chord.above} has at its bytes: KLD {difference_text(above)} above it"
        )
        found.append(Choice(s.pattern.group, s.name, "BAD_TRADE", (chord.below, chord.above), above, said))
    return found


def _times(chord: Chord, name: str, factor: float) -> dict[str, float]:
    found = {name: 1.0}
    for end, share in chord.weights.items():
        found[end] = found.get(end, 0.0) - factor * share
    return found


def _hull(points: Sequence[Point]) -> list[Point]:
    """The lower convex hull over size."""
    hull: list[Point] = []
    for p in sorted(points, key=lambda p: (p.size_bytes, p.kld)):
        if hull and p.size_bytes == hull[-1].size_bytes:
            continue
        while len(hull) >= 2 and _turns_up(hull[-2], hull[-1], p):
            hull.pop()
        hull.append(p)
    return hull


def _turns_up(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.kld - a.kld) * (c.size_bytes - a.size_bytes) >= (c.kld - a.kld) * (b.size_bytes - a.size_bytes)


def _stays(s: Sample) -> Choice:
    said = f"{s.pattern.size_bytes:,} bytes, alone it loses {difference_text(s.damage)} nats per token"
    return Choice(s.pattern.group, s.name, None, (), s.damage, said)


def _klds(samples: Sequence[Sample]) -> Mapping[str, F64Vector]:
    return {s.name: s.klds for s in samples}
