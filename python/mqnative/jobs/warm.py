"""Warm start: a sibling's damage table as prior, checked by a few probes before it is believed.

A finetune's tensors are about as sensitive as its parent's, up to a factor that all of them share and a
spread around it. Both are estimated from the tensors that are probed here; if the spread is too wide, the
prior is dropped and everything is probed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mqnative.errors import ManifestError, ParityError
from mqnative.formats.groups import TensorName, reading_rank
from mqnative.hybrids.mix_file import MixFile
from mqnative.jobs.damages import Measured, anchor_of, measured_of
from mqnative.jobs.measure_plan import MeasurePlan, Pair
from mqnative.measure.steady import Chunks, steady
from mqnative.measure.weight_error import TensorSweep
from mqnative.predict.damage import Anchor, Damage

# One tensor in so many is probed, and never fewer than this: a tenth of a search's passes and a little more.
_CHECKED_SHARE = 7
_MIN_CHECKED = 6
# Standard deviation of ln(own KLD / prior): beyond it a prior says less than the weight errors do.
MAX_SPREAD = 0.5
_Z95 = 1.96


@dataclass(frozen=True)
class Prior:
    """What a sibling's manifest says of its tensors.

    Attributes:
        name: of the sibling's file.
        damages: tensor -> type -> damage.
        measured: tensor -> the type that its curve was scaled from, where that is known.
    """

    name: str
    damages: Mapping[str, Mapping[str, Damage]]
    measured: Mapping[str, str]

    def anchors(self, wanted: Mapping[str, str], known: Mapping[str, tuple[str, ...]]) -> dict[str, Anchor]:
        """One point of each tensor's curve: at the type wanted, else where it was measured, else any.

        Args:
            wanted: tensor -> anchor type.
            known: tensor -> types whose weight error is known here.
        """
        found = {}
        for name, qtype in wanted.items():
            usable = {t: d for t, d in self.damages.get(name, {}).items() if t in known[name] and d.mean > 0}
            point = next((t for t in (qtype, self.measured.get(name), *usable) if t in usable), None)
            if point is not None:
                found[name] = Anchor(point, usable[point].mean, usable[point].variance)
        return found


@dataclass(frozen=True)
class Agreement:
    """How a prior compares with what was probed here.

    Attributes:
        ratio: own KLD / prior, the geometric mean.
        spread: standard deviation of ln(own / prior) beyond what measuring explains.
        n: tensors compared.
    """

    ratio: float
    spread: float
    n: int

    @property
    def holds(self) -> bool:
        """Whether the prior may be used."""
        return self.n >= 2 and self.spread <= MAX_SPREAD


def prior_of(mix: MixFile) -> Prior:
    """The damage table in the manifest of ``mqnative auto``.

    Raises:
        ManifestError: it is another kind of file, or holds no damage table.
    """
    evaluation = None if mix.manifest is None else mix.manifest.extra.get("evaluation")
    tensors = evaluation.get("tensors") if isinstance(evaluation, dict) else None
    damages: dict[str, dict[str, Damage]] = {}
    measured: dict[str, str] = {}
    for tensor in tensors if isinstance(tensors, list) else []:
        if isinstance(tensor, dict) and isinstance(tensor.get("curve"), list):
            found = list(filter(None, map(_point, tensor["curve"])))
            name = str(tensor.get("name"))
            if found:
                damages[name] = {qtype: damage for qtype, damage, _ in found}
            for qtype, _, probed in found:
                if probed:
                    measured[name] = qtype
    if not damages:
        raise ManifestError(
            f"{mix.name} holds no damage table; give the manifest of an `mqnative auto` run", key="evaluation"
        )
    return Prior(mix.name, damages, measured)


def _point(point: Any) -> tuple[str, Damage, bool] | None:
    """Type, damage, and whether it was probed; None if the point cannot be used."""
    try:
        mean = float(point["damage"])
        low, high = (float(x) for x in point["damage_ci95"])
        found = Damage(mean, ((high - max(low, 2 * mean - high)) / (2 * _Z95)) ** 2)
        if not math.isfinite(mean + found.variance):
            return None
        return str(point["type"]), found, point.get("measured") is True
    except (KeyError, TypeError, ValueError):
        return None


def check_prior(prior: Prior, plan: MeasurePlan) -> None:
    """Refuse the damage table of another model before anything is measured.

    Raises:
        ParityError: it lacks more than half of the tensors; they are attached.
    """
    missing = tuple(name for name in plan.anchors if name not in prior.damages)
    if 2 * len(missing) > len(plan.anchors):
        raise ParityError(
            f"{prior.name} is of another model: its damage table lacks {len(missing)} of {len(plan.anchors)} "
            f"tensors, such as {missing[0]}; give the manifest of a sibling",
            tensor=missing[0],
            missing=missing,
        )


def warm_start(
    prior: Prior,
    plan: MeasurePlan,
    sweeps: dict[str, TensorSweep],
    probe: Callable[[dict[str, str]], dict[Pair, Chunks]],
) -> Measured:
    """The damage table from a sibling's, unless a few probes contradict it.

    Args:
        prior: from `prior_of`.
        plan: what a search would measure.
        sweeps: weight errors of this model.
        probe: measures tensors at types: tensor -> type in, mean KLD of each chunk of each pair out.
    """
    theirs = prior.anchors(plan.anchors, {name: tuple(s.errors) for name, s in sweeps.items()})
    probes = probe({name: plan.anchors[name] for name in to_check(theirs, plan.anchors)})
    own = {name: anchor_of(qtype, klds) for (name, qtype), klds in steady(probes).items()}
    found = agreement(theirs, own)
    facts = f"{found.n} tensors probed here have {found.ratio:.2f} times its KLD, spread {found.spread:.0%}"
    if not found.holds:
        note = f"The prior of {prior.name} was dropped ({facts}); all tensors were probed."
        return measured_of(plan, sweeps, probe(plan.anchors), notes=(note,))
    note = f"Damages of {len(theirs) - found.n} tensors are scaled from {prior.name}: {facts}."
    return measured_of(plan, sweeps, probes, scaled(theirs, found), (note,))


def to_check(prior: Mapping[str, Anchor], wanted: Mapping[str, str]) -> list[str]:
    """The tensors to probe: those without prior, and a few others of every role and depth.

    Args:
        prior: tensor -> its anchor in the sibling.
        wanted: all tensors that need one.
    """
    by_role: dict[str, list[str]] = {}
    for name in prior:
        by_role.setdefault(TensorName.of(name).role, []).append(name)
    # Roles that lose most first; where one role is drawn again, from another depth.
    roles = sorted(by_role, key=lambda r: (-sum(prior[n].kld for n in by_role[r]), reading_rank(r)))
    count = min(len(prior), max(_MIN_CHECKED, len(prior) // _CHECKED_SHARE))
    chosen: list[str] = []
    turn = 0
    while len(chosen) < count:
        for place, role in enumerate(roles):
            members = [name for name in by_role[role] if name not in chosen]
            if members and len(chosen) < count:
                # Golden-ratio steps spread the depths evenly, however many are drawn.
                at = (0.5 + 0.618 * (place + turn)) % 1.0
                chosen.append(members[int(at * len(members))])
        turn += 1
    return [name for name in wanted if name not in prior or name in chosen]


def agreement(prior: Mapping[str, Anchor], own: Mapping[str, Anchor]) -> Agreement:
    """Compare a prior with what was probed here.

    Args:
        prior: tensor -> anchor in the sibling.
        own: tensor -> the same type measured here.
    """
    logs, noise = [], []
    for name, anchor in own.items():
        theirs = prior.get(name)
        if theirs is None or theirs.qtype != anchor.qtype or anchor.kld <= 0 or theirs.kld <= 0:
            continue
        logs.append(math.log(anchor.kld / theirs.kld))
        noise.append(anchor.variance / anchor.kld**2 + theirs.variance / theirs.kld**2)
    if not logs:
        return Agreement(1.0, math.inf, 0)
    mean = fmean(logs)
    variance = sum((x - mean) ** 2 for x in logs) / max(1, len(logs) - 1)
    return Agreement(math.exp(mean), math.sqrt(max(0.0, variance - fmean(noise))), len(logs))


def scaled(prior: Mapping[str, Anchor], found: Agreement) -> dict[str, Anchor]:
    """The prior as anchors of this model: scaled by the ratio, as uncertain as the spread."""
    relative = found.spread**2 * (1 + 1 / found.n)
    return {
        name: Anchor(
            a.qtype,
            a.kld * found.ratio,
            a.variance * found.ratio**2 + relative * (a.kld * found.ratio) ** 2,
        )
        for name, a in prior.items()
    }
