"""From a frontier to the facts that reports show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mqnative.jobs.curve import Curve, Placed
from mqnative.jobs.tell import interval
from mqnative.predict.damage import Damage
from mqnative.predict.link import IDENTITY, Total
from mqnative.report.choices import FrontierFacts, FrontierPoint, KneeRow, PlacedRow


def frontier_facts(curve: Curve, kld_of: Callable[[Total], Damage] = IDENTITY.apply) -> FrontierFacts:
    """A frontier, as reports show it.

    Args:
        curve: the frontier.
        kld_of: the KLD that a mix' damages stand for.
    """
    klds = [kld_of(p.damage) for p in curve.points]
    points = tuple(
        FrontierPoint(p.size_bytes, p.bpw, kld.mean, interval(kld))
        for p, kld in zip(curve.points, klds, strict=True)
    )

    def mean_of(damage: float) -> float:
        # Of a mix on the frontier only the sum is known: its neighbours say what it stands for.
        nearest = min(curve.points, key=lambda p: abs(p.damage.mean - damage)).damage
        if nearest.mean <= 0:
            return kld_of(Total(damage, 0.0)).mean
        ratio = damage / nearest.mean
        return kld_of(replace(nearest, mean=damage, interaction=nearest.interaction * ratio**2)).mean

    def placed_row(p: Placed) -> PlacedRow:
        kld = None if p.damage is None else kld_of(p.damage)
        return PlacedRow(
            p.name,
            p.kind,
            p.size_bytes,
            p.bpw,
            None if kld is None else kld.mean,
            None if kld is None else interval(kld),
            None if p.best is None else mean_of(p.best),
        )

    def bpw_at(size_bytes: int) -> float:
        # Points differ from the knee by less than a step between sizes.
        nearest = min(points, key=lambda p: abs(p.size_bytes - size_bytes))
        return nearest.bpw + 8.0 * (size_bytes - nearest.size_bytes) / max(curve.n_weights, 1)

    return FrontierFacts(
        points,
        tuple(
            KneeRow(k.rule, k.size_bytes, bpw_at(k.size_bytes), mean_of(k.damage), k.reason, k.ci95_bytes)
            for k in curve.knees
        ),
        tuple(map(placed_row, curve.placed)),
    )
