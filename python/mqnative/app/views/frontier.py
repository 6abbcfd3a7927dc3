"""Size against KLD: the best mixes, presets and the recipe on it, chords between presets, and who wins."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mqnative.app.views.mix import Mix, mix_of
from mqnative.app.views.model_view import ModelView
from mqnative.app.views.others import RESULT
from mqnative.app.views.resolve import frontier_types, problem_of
from mqnative.report.choices import FrontierFacts, FrontierPoint, KneeRow, PlacedRow
from mqnative.report.frontier_plot import front_of
from mqnative.report.numbers import change, significant, size_text, typeset
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table
from mqnative.solve.knees import knees

RECIPE = "your recipe"
Types = Mapping[str, str]


def frontier_of(
    view: ModelView, draft: Types, others: Mapping[str, Types], hybrids: Collection[str] = ()
) -> FrontierFacts | None:
    """The frontier of a model with other mixes on it; None where nothing is measured.

    Args:
        view: the model.
        draft: types of the recipe being edited.
        others: name -> types.
        hybrids: the names among them that are no presets.
    """
    own = mix_of(view, draft)
    named = {name: mix_of(view, types) for name, types in others.items()}
    # At the sizes of the others too, so that each is held against the best of its very size.
    sizes = [mix.size_bytes for mix in (own, *named.values())]
    mixes = [mix_of(view, types) for types in frontier_types(view, sizes)]
    points = tuple(
        FrontierPoint(m.size_bytes, m.bpw, m.kld, m.ci95)
        for m in mixes
        if m.kld is not None and m.ci95 is not None
    )
    if len(points) < 2:
        return None
    placed = [_placed(RECIPE, "recipe", own, points)]
    for name, mix in named.items():
        kind = "result" if name == RESULT else ("hybrid" if name in hybrids else "preset")
        placed.append(_placed(name, kind, mix, points))
    found = []
    for knee in knees(problem_of(view)):
        nearest = min(points, key=lambda p: abs(p.size_bytes - knee.size_bytes))
        ci95 = knee.ci95_bytes
        found.append(KneeRow(knee.rule, knee.size_bytes, nearest.bpw, nearest.kld, knee.reason, ci95))
    return FrontierFacts(points, tuple(found), tuple(placed))


def _placed(name: str, kind: str, mix: Mix, points: Sequence[FrontierPoint]) -> PlacedRow:
    best = next((p.kld for p in reversed(points) if p.size_bytes <= mix.size_bytes), None)
    return PlacedRow(name, kind, mix.size_bytes, mix.bpw, mix.kld, mix.ci95, best)


@dataclass(frozen=True)
class Chord:
    """A mix against the line between the presets next to it in size.

    Attributes:
        name: of the mix.
        smaller, larger: the presets.
        kld: of the mix.
        expected: of the line at its size: logarithmic in KLD, linear in bytes.
    """

    name: str
    smaller: str
    larger: str
    kld: float
    expected: float

    @property
    def ratio(self) -> float:
        """Below 1: the mix wins."""
        return self.kld / self.expected


def chords(mixes: Sequence[tuple[str, int, float]], presets: Sequence[tuple[str, int, float]]) -> list[Chord]:
    """Every mix that lies between two presets in size.

    Args:
        mixes: (name, bytes, KLD).
        presets: the same; those that a smaller one beats do not count.
    """
    front, found = front_of(presets), []
    for name, size, kld in mixes:
        below = [p for p in front if p[1] <= size]
        above = [p for p in front if p[1] > size]
        if not (below and above and kld > 0):
            continue
        low, high = below[-1], above[0]
        share = (size - low[1]) / (high[1] - low[1])
        expected = math.exp((1 - share) * math.log(low[2]) + share * math.log(high[2]))
        found.append(Chord(name, low[0], high[0], kld, expected))
    return found


def chord_table(found: Sequence[Chord]) -> str:
    """Chords as a table; empty without any."""
    rows = [
        [
            Cell(f"{escape(c.name)}<small>{escape(f'{c.smaller} to {c.larger}')}</small>", c.name),
            Cell(escape(typeset(significant(c.expected))), c.expected),
            Cell(escape(typeset(significant(c.kld))), c.kld),
            Cell(_verdict(c.ratio), c.ratio),
        ]
        for c in sorted(found, key=lambda c: c.ratio)
    ]
    head = ("mix, between", "chord's KLD:", "its KLD:", "difference:")
    wins = sum(c.ratio < 1 for c in found)
    said = f"<p>{wins} of {len(found)} lie below their chord.</p>"
    return said + table("Chords between presets", head, rows, "dense sortable") if rows else ""


def _verdict(ratio: float) -> str:
    kind = "better" if ratio < 1 else "worse"
    return f'<span class="verdict {kind}">{escape(typeset(change(ratio)))}</span>'


def placed_words(facts: FrontierFacts) -> str:
    """How far the recipe is from the best of its size, in a sentence."""
    own = next((p for p in facts.placed if p.name == RECIPE), None)
    if own is None or own.kld is None:
        return ""
    name = f"{RECIPE.capitalize()} ({size_text(own.size_bytes)})"
    if own.best is None or own.best <= 0:
        return f"{name} is smaller than every mix on the line."
    ratio = own.kld / own.best
    if ratio <= 1.005:
        return f"{name} lies on the line: no mix of its size is better."
    more = change(ratio).removeprefix("+")
    return f"{name} has {more} more predicted KLD than the best mix of its size."
