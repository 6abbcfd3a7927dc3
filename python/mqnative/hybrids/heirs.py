"""Who has a removed file's place in the end, through others or at once, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mqnative.hybrids.entries import Entry
from mqnative.hybrids.verdicts import Kept, Removal, Removed, listed

# Reasons that say nothing of the file, but that there were too many.
_THINNED: tuple[Removed, ...] = ("SPACING", "COLLAPSE")


def heir_of(name: str, removed: Mapping[str, Removal]) -> str | None:
    """The published file that has the place of ``name``; None if none has."""
    last = _chain(name, removed)[-1].by
    return None if last is None or last in removed else last


def _chain(name: str, removed: Mapping[str, Removal]) -> list[Removal]:
    found = [removed[name]]
    while (by := found[-1].by) in removed and all(r.name != by for r in found):
        assert by is not None
        found.append(removed[by])
    return found


def is_thinned(
    name: str, removed: Mapping[str, Removal], entries: Mapping[str, Entry], premium: float
) -> bool:
    """Whether no file of its size is left because there were too many, not because one was better.

    Args:
        name: of a removed file.
        removed: by name.
        entries: all files by name.
        premium: files that differ by no greater share have the same size.
    """
    heir = heir_of(name, removed)
    if heir is None or all(r.reason not in _THINNED for r in _chain(name, removed)):
        return False
    sizes = sorted((entries[heir].size_bytes, entries[name].size_bytes))
    return sizes[1] > sizes[0] * (1.0 + premium)


def settled(
    removed: Mapping[str, Removal], entries: Mapping[str, Entry], premium: float
) -> tuple[Removal, ...]:
    """Removals that say who is left where the file that took the place is not published either."""
    found = []
    for name, removal in removed.items():
        heir, links = heir_of(name, removed), _chain(name, removed)[1:]
        if heir is None or not links:
            found.append(removal)
            continue
        reasons = list(dict.fromkeys(r.reason for r in links))
        words = ", ".join(r.lower().replace("_", " ") for r in reasons)
        said = f"{removal.said}; {heir} is the nearest that is left ({words})"
        is_gone = is_thinned(name, removed, entries, premium)
        reason = next((r for r in reasons if is_gone and r in _THINNED), removal.reason)
        found.append(replace(removal, said=said, reason=reason))
    return tuple(found)


def place_text(entry: Entry, replaced: Sequence[Entry], thinned: Sequence[Entry]) -> tuple[Kept | None, str]:
    """Why a file stands where baselines stood: in one word, and as a phrase; neither for none.

    Args:
        entry: the file.
        replaced: those that it is as good as, or better.
        thinned: those that it is only nearest to.
    """
    same = [e.name for e in replaced if e.size_bytes >= entry.size_bytes]
    near = [e.name for e in replaced if e.size_bytes < entry.size_bytes]
    parts = [f"in place of {listed(same)} at no more bytes"] if same else []
    parts += [f"in place of {listed(near)}, a little larger and much better"] if near else []
    if thinned:
        parts.append(f"the nearest that is left to {listed([e.name for e in thinned])}, thinned out")
    reason: Kept | None = "REPLACES_BASELINE" if same else "NEAR_BASELINE_PREMIUM" if near else None
    return reason, "; ".join(parts)
