"""Which files are worth publishing: those that nothing smaller equals, and that trade better than a line.

In this order: a hybrid must be below the chord of the baselines next to it (nonlinear win), or be ahead of
a baseline of its bytes; a file that a smaller one beats or equals goes (real dominance); a baseline with a
hybrid a hair larger and clearly better goes (premium); files too close in size to be told apart by users are
thinned out (spacing); and what is left is checked once more. Every comparison is paired on the same chunks.

Being ahead is less than better: it holds with 95 % confidence by itself, though not together with all other
comparisons. For a new size that would be too little. In a baseline's place the choice is between two files of
one size, one of them is taken anyway, and a tie goes to the smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mqnative.hybrids.chords import Chord, chord_at, gains
from mqnative.hybrids.contrast import Contest, judge_together
from mqnative.hybrids.entries import Entry, anchors_of, in_order, undominated
from mqnative.hybrids.heirs import heir_of, is_thinned, place_text, settled
from mqnative.hybrids.places import is_ahead, same_size
from mqnative.hybrids.thinning import least_worth, too_close
from mqnative.hybrids.verdicts import (
    Removal,
    Removed,
    Survivor,
    chord_text,
    difference_text,
    less_text,
)
from mqnative.measure.uncertainty import Estimate

PREMIUM_SHARE = 0.01
SPACING = 0.05


@dataclass(frozen=True)
class Rules:
    """How entries are judged.

    Attributes:
        premium: how much larger, as a share, a hybrid may be that takes a baseline's place; files that differ
            by no more have the same size.
        spacing: files whose sizes differ by a smaller share are too close.
        most: at most so many files; None for any number.
        original_bytes: of the unquantized model.
    """

    premium: float = PREMIUM_SHARE
    spacing: float = SPACING
    most: int | None = None
    original_bytes: int | None = None


@dataclass(frozen=True)
class Table:
    """What is published and what is not.

    Attributes:
        survivors: in order of size, the smallest first.
        removed: in the order of the decisions.
        anchors: baselines that no other baseline beats: the ends of chords.
        critical: half of a simultaneous 95 % interval of pairs, in standard errors.
        n_comparisons: pairs judged together.
    """

    survivors: tuple[Survivor, ...]
    removed: tuple[Removal, ...]
    anchors: tuple[str, ...]
    critical: float
    n_comparisons: int


def choose_survivors(entries: Sequence[Entry], rules: Rules | None = None) -> Table:
    """Judge entries; nothing depends on their order.

    Args:
        entries: by distinct names, scored on the same chunks.
        rules: how.
    """
    if len({e.name for e in entries}) < len(entries):
        raise ValueError("expected each file once")
    return _Judge(entries, rules or Rules()).table()


class _Judge:
    """One run over the entries; `_removed` grows, `_kept` shrinks."""

    def __init__(self, entries: Sequence[Entry], rules: Rules) -> None:
        self._rules = rules
        self._entries = {e.name: e for e in sorted(entries, key=in_order)}
        self._contest = Contest({n: e.klds for n, e in self._entries.items()})
        self._anchors = anchors_of(self._entries.values(), self._contest)
        self._removed: dict[str, Removal] = {}
        self._kept = list(self._entries.values())
        self._chords: dict[str, tuple[Chord, Estimate]] = {}

    def table(self) -> Table:
        self._exclude()
        self._judge_chords()
        self._below_chords()
        self._dominance("STRICT_DOMINANCE")
        self._premium()
        self._space()
        self._dominance("FINAL_DOMINANCE")
        self._collapse()
        survivors = self._survivors()
        return Table(
            survivors,
            settled(self._removed, self._entries, self._rules.premium),
            tuple(a.name for a in self._anchors),
            self._contest.critical,
            self._contest.n_comparisons,
        )

    def _remove(self, removal: Removal) -> None:
        self._removed[removal.name] = removal
        self._kept = [e for e in self._kept if e.name != removal.name]

    def _exclude(self) -> None:
        for entry in list(self._kept):
            if entry.excluded is not None:
                reason, said = entry.excluded
                self._remove(Removal(entry.name, reason, None, said))

    def _dominance(self, reason: Removed) -> None:
        _, beaten = undominated(self._kept, self._contest)
        for entry, winner in beaten:
            tie = self._contest.verdict(winner.name, entry.name) == "tie"
            less = less_text(entry.size_bytes, winner.size_bytes)
            lower = difference_text(self._contest.difference(entry.name, winner.name))
            said = f"{winner.name} is {'as good' if tie else 'better'} at {less}: KLD {lower} lower"
            if tie:
                said += ", which is a tie, and ties go to the smaller file"
            why: Removed = "TIE_SMALLER" if tie and reason == "STRICT_DOMINANCE" else reason
            self._remove_for(entry, winner, why, said)

    def _judge_chords(self) -> None:
        """The chords of all hybrids that are left, as one family."""
        points = [a.point for a in self._anchors]
        chords = {
            e.name: chord
            for e in self._kept
            if not e.is_baseline
            and (chord := chord_at(e.size_bytes, points, self._rules.original_bytes)) is not None
        }
        family = judge_together(self._contest.klds, [c.against(name) for name, c in chords.items()])
        self._chords = dict(zip(chords, zip(chords.values(), family.estimates, strict=True), strict=True))

    def _is_below_chord(self, name: str) -> bool:
        return name in self._chords and self._chords[name][1].ci95[1] < 0

    def _premium(self) -> None:
        # A size that was asked for is not served by a larger file.
        for base in [e for e in self._kept if e.is_baseline and not e.is_asked]:
            most = base.size_bytes * (1.0 + self._rules.premium)
            near = [
                e
                for e in self._kept
                if not e.is_baseline
                and base.size_bytes < e.size_bytes <= most
                and self._contest.verdict(e.name, base.name) == "better"
                and self._is_below_chord(e.name)
            ]
            if not near:
                continue
            winner = min(near, key=lambda e: (e.point.kld, e.size_bytes, e.name))
            lower = difference_text(self._contest.difference(base.name, winner.name))
            more = 100.0 * (winner.size_bytes / base.size_bytes - 1.0)
            said = f"{winner.name} is {more:.2f} % larger and its KLD {lower} lower, below the chord"
            self._remove_for(base, winner, "NEAR_BASELINE_PREMIUM", said)

    def _below_chords(self) -> None:
        for entry in [e for e in self._kept if not e.is_baseline]:
            if self._is_below_chord(entry.name) or is_ahead(entry, self._of_its_size(entry)):
                continue
            served = self._served(entry) if entry.is_asked else ""
            if entry.is_asked and not served:
                continue
            if entry.name not in self._chords:
                self._remove(Removal(entry.name, "NO_CHORD", None, "there is no larger file to compare with"))
                continue
            chord, found = self._chords[entry.name]
            said = f"KLD minus {chord_text(chord)} is {difference_text(found)}, not below it beyond doubt"
            self._remove(Removal(entry.name, "NOT_BELOW_CHORD", None, said + served, found))

    def _of_its_size(self, entry: Entry) -> list[Entry]:
        """The ends of chords that it may take the place of."""
        ends = {a.name for a in self._anchors}
        return same_size(entry, [e for e in self._kept if e.name in ends], self._rules.premium)

    def _served(self, asked: Entry) -> str:
        """Which baseline serves a size that was asked for as well, as a phrase; it is kept for that."""
        same = [e for e in self._of_its_size(asked) if e.serves(asked)]
        if not same:
            return ""
        best = min(same, key=lambda e: (e.point.kld, e.size_bytes, e.name))
        self._entries[best.name] = replace(best, is_asked=True)
        self._kept = [self._entries[e.name] for e in self._kept]
        return f"; {best.name} serves this size"

    def _space(self) -> None:
        while (near := too_close(self._kept, self._rules.spacing)) is not None:
            loser, winner = near
            apart = 100.0 * abs(loser.size_bytes / winner.size_bytes - 1.0)
            said = f"only {apart:.1f} % of size from {winner.name}, which gains more over its neighbours"
            self._remove_for(loser, winner, "SPACING", said)

    def _collapse(self) -> None:
        most = self._rules.most
        while most is not None and len(self._kept) > max(most, 1):
            loser, winner = least_worth(self._kept)
            said = f"of more than {most} files it gains least; {winner.name} is nearest"
            self._remove_for(loser, winner, "COLLAPSE", said)

    def _remove_for(self, loser: Entry, winner: Entry, reason: Removed, said: str) -> None:
        found = self._contest.difference(loser.name, winner.name)
        more = loser.size_bytes - winner.size_bytes
        self._remove(Removal(loser.name, reason, winner.name, said, found, more))

    def _survivors(self) -> tuple[Survivor, ...]:
        kept = sorted(self._kept, key=in_order)
        names = {e.name for e in kept}
        replaced: dict[str, list[Entry]] = {name: [] for name in names}
        for removal in self._removed.values():
            entry, heir = self._entries[removal.name], heir_of(removal.name, self._removed)
            if entry.is_baseline and heir is not None and heir in replaced:
                replaced[heir].append(entry)
        worth = gains([e.point for e in kept])
        found = []
        for entry in kept:
            mine = sorted(replaced[entry.name], key=in_order)
            found.append(replace(self._survivor(entry, mine), gain=worth[entry.name]))
        return tuple(found)

    def _survivor(self, entry: Entry, replaced: Sequence[Entry]) -> Survivor:
        names = tuple(e.name for e in replaced)
        if entry.is_baseline:
            said = "no file of at most its size is better or as good"
            return Survivor(entry.name, "NOT_BEATEN", names, said)
        chord, found = self._chords.get(entry.name, (None, None))
        beaten: list[Entry] = []
        thinned: list[Entry] = []
        for e in replaced:
            is_gone = is_thinned(e.name, self._removed, self._entries, self._rules.premium)
            (thinned if is_gone else beaten).append(e)
        reason, said = place_text(entry, beaten, thinned)
        if reason is None:
            is_win = self._is_below_chord(entry.name)
            own = "a better trade than the files next to it" if is_win else "of a size that was asked for"
            reason = "NONLINEAR_WIN" if is_win else "ASKED_SIZE"
            said = f"{own}; {said}" if said else own
        if chord is None or found is None:
            return Survivor(entry.name, reason, names, said)
        if chord.kld > 0:
            said += f"; {100.0 * (1.0 - entry.point.kld / chord.kld):.0f} % below {chord_text(chord)}"
        return Survivor(entry.name, reason, names, said, found, chord.kld, (chord.below, chord.above))
