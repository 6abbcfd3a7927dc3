"""Files that could be published, and which of them no smaller one beats or equals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mqnative.hybrids.chords import Point
from mqnative.hybrids.contrast import Contest, F64Vector
from mqnative.hybrids.verdicts import Removed


@dataclass(frozen=True, eq=False)
class Entry:
    """A file that could be published.

    Attributes:
        name: what it is called until it is published.
        size_bytes: of the whole file.
        klds: mean KLD of each chunk, float64, shape (n_chunks,), the same chunks for all entries.
        is_baseline: a preset or another's mix; hybrids are the rest.
        is_asked: of a size that the user asked for, or there for one; spacing does not take it away.
        excluded: why it may not be published, as (reason, sentence); it is compared with all the same.
        asked_bytes: the size that was asked for, where it matters which; None for any.
        own_bytes: of the file that its maker writes, which has a shorter header; None: ``size_bytes``.
    """

    name: str
    size_bytes: int
    klds: F64Vector
    is_baseline: bool
    is_asked: bool = False
    excluded: tuple[Removed, str] | None = None
    asked_bytes: int | None = None
    own_bytes: int | None = None

    def serves(self, asked: Entry) -> bool:
        """Whether it has the size that another one was asked for, too."""
        own = self.size_bytes if self.own_bytes is None else self.own_bytes
        return asked.asked_bytes is None or own <= asked.asked_bytes

    @property
    def point(self) -> Point:
        """Where it stands."""
        return Point(self.name, self.size_bytes, float(self.klds.mean()))


def anchors_of(entries: Iterable[Entry], contest: Contest) -> list[Entry]:
    """The baselines that no other baseline of at most their size beats or equals, the smallest first."""
    kept, _ = undominated([e for e in entries if e.is_baseline], contest)
    return kept


def undominated(entries: Sequence[Entry], contest: Contest) -> tuple[list[Entry], list[tuple[Entry, Entry]]]:
    """What no smaller kept one beats or equals; and the others, each with the best of those that do."""
    kept: list[Entry] = []
    beaten = []
    for entry in sorted(entries, key=in_order):
        # A size that a hybrid was asked for is given up only for what is better.
        enough = ("better",) if entry.is_asked and not entry.is_baseline else ("better", "tie")
        winners = [k for k in kept if contest.verdict(k.name, entry.name) in enough]
        if winners:
            beaten.append((entry, min(winners, key=_best)))
        else:
            kept.append(entry)
    return kept, beaten


def _best(entry: Entry) -> tuple[float, int, str]:
    return entry.point.kld, entry.size_bytes, entry.name


def in_order(entry: Entry) -> tuple[int, float, str]:
    """By size; of equal ones the better first."""
    return entry.size_bytes, entry.point.kld, entry.name
