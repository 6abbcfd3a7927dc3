"""What each part of the search is worth: held-out KLD of its mixes with parts left out or added.

    python benchmarks/quality/ablations.py MODEL-bf16.gguf --texts FOLDER [--sizes Q4_K_M,IQ4_XS,...]

FOLDER holds calib.txt and eval.txt. Every way solves exactly for the preset's bytes; only its damage table
differs. Prints a Markdown table: KLD of each way as a share of the whole search's, on the same held-out
tokens, with its 95 % interval, and the passes that it took. Numbers are kept in MQNATIVE_HOME.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from presets import SIZES, preset_sizes

from mqnative.app.output import ProgressMonitor
from mqnative.core.info import build_info
from mqnative.jobs.damages import Measured, anchor_of, curves_of, measured_fast, measured_of
from mqnative.jobs.fit import Fit
from mqnative.jobs.known import damages_of
from mqnative.jobs.measure_plan import MeasurePlan, Pair, anchor_for, lossless_for, plan_of_file
from mqnative.jobs.options import Options
from mqnative.jobs.run import Run
from mqnative.measure.parts import Parts
from mqnative.measure.probes import probe_until
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import Resamples, estimate
from mqnative.measure.weight_error import TensorSweep
from mqnative.predict.damage import Damage, damage_table
from mqnative.store import Store

# A second type to probe every tensor at.
_SECOND = {"Q2_K": "Q3_K", "Q3_K": "Q4_K"}
Types = dict[str, str]
Table = dict[str, dict[str, Damage]]


class Ways:
    """The ways to a damage table for one budget, and what each found and took."""

    def __init__(self, study: Study, texts: Path, size_bytes: int) -> None:
        self.study = study
        self.run = Run(study, Options(size_bytes=size_bytes, compute=study.compute), study.monitor)
        self.parts = self.run.parts(texts / "calib.txt", texts / "eval.txt")
        self.found: dict[str, Types] = {}
        self.passes: dict[str, int] = {}

    def all(self) -> Parts:
        run, parts, study = self.run, self.parts, self.study
        measured = run.measure(parts)
        solved = self._fit(measured)
        probes = sum(map(len, measured.probes.values()))
        refined, steps = run.refine(parts, measured, solved)
        chunks = parts.probe.head(10).n_chunks
        moves = sum((s.n_moves + 1) * chunks + 2 * parts.select.n_chunks for s in steps)
        self._add("the whole search", refined.plan.types, probes + moves)
        self._add("no refinement", solved.plan.types, probes)

        bpw = run.bpw()
        anchor = anchor_for(bpw)
        plan = plan_of_file(study.file, measured.imatrix, (), anchor, lossless=lossless_for(bpw))
        single = {pair: klds for pair, klds in measured.probes.items() if pair in plan.anchors.items()}
        few = sum(map(len, single.values()))
        kept = replace(plan, lossless=())
        self._solve("rounding taken for damage", measured_of(kept, measured.sweeps, single), few)
        second = self._probes(plan, _SECOND[anchor])
        self._solve("two anchors", self._two(plan, measured, second), probes + sum(map(len, second.values())))
        self._solve("weight errors without imatrix", self._unweighted(plan, measured), few)
        self._solve("priors, no probe (--fast)", measured_fast(study, plan, measured.sweeps), 0)
        self._solve("weight errors alone", self._errors_alone(plan, measured), 0)
        return parts

    def _add(self, way: str, types: Mapping[str, str], passes: int) -> None:
        self.found[way], self.passes[way] = dict(types), passes

    def _solve(self, way: str, measured: Measured, passes: int) -> None:
        self._add(way, self._fit(measured).plan.types, passes)

    def _fit(self, measured: Measured) -> Fit:
        return self.run.choose(self.parts, {"imatrix": damages_of(measured)}).fit

    def _probes(self, plan: MeasurePlan, qtype: str) -> dict[Pair, np.ndarray]:
        text = self.parts.probe.head(self.run.options.probe_chunks)
        pairs = [(name, qtype) for name in plan.anchors if qtype in plan.wanted[name]]
        found = probe_until(self.study, text, pairs, plan.importances, precision=self.run.options.precision)
        return {pair: means.kld for pair, means in found.items()}

    def _two(self, plan: MeasurePlan, measured: Measured, second: Mapping[Pair, np.ndarray]) -> Measured:
        curves = []
        every = {p: k for p, k in measured.probes.items() if p in plan.anchors.items()} | dict(second)
        for name, curve in curves_of(plan, measured.sweeps).items():
            anchors = tuple(anchor_of(t, klds) for (n, t), klds in every.items() if n == name)
            curves.append(replace(curve, anchors=anchors))
        return replace(measured, table=_table(plan, damage_table(curves).damages))

    def _unweighted(self, plan: MeasurePlan, measured: Measured) -> Measured:
        sweeps = {
            name: replace(s, errors={t: replace(e, weighted=e.unweighted) for t, e in s.errors.items()})
            for name, s in measured.sweeps.items()
        }
        return measured_of(plan, sweeps, measured.probes)

    def _errors_alone(self, plan: MeasurePlan, measured: Measured) -> Measured:
        return replace(measured, table=_table(plan, _absolute(plan, measured.sweeps)))


def _absolute(plan: MeasurePlan, sweeps: Mapping[str, TensorSweep]) -> Table:
    curves = curves_of(plan, sweeps)
    return {name: {t: Damage(e, 0.0) for t, e in curve.errors.items()} for name, curve in curves.items()}


def _table(plan: MeasurePlan, table: Mapping[str, Mapping[str, Damage]]) -> Table:
    return {n: {t: table[n][t] for t in types if t in table[n]} for n, types in plan.candidates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--chunks", type=int, default=60)
    given = parser.parse_args()
    info = build_info()
    print(f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, {given.model.stem}\n")
    sizes = preset_sizes(given.model, given.sizes.split(","))
    shares: dict[str, dict[str, str]] = {}
    logs: dict[str, list[float]] = {}
    passes: dict[str, list[int]] = {}
    for name, size in sizes.items():
        with (
            ProgressMonitor() as monitor,
            Store.open() as store,
            Study(given.model, store, monitor=monitor) as s,
        ):
            ways = Ways(s, given.texts, size)
            parts = ways.all()
            measured = ways.run.measure(parts)
            text = parts.held_out.head(given.chunks)
            means = mix_means(s, "ways", text, ways.found, measured.importances)
        resamples = Resamples.of(text.n_chunks)
        own = means["the whole search"].kld
        for way, found in means.items():
            ratio = float(found.kld.mean() / own.mean())
            drawn = resamples.means(found.kld) / resamples.means(own)
            low, high = estimate(ratio, drawn).ci95
            shares.setdefault(way, {})[name] = f"{ratio:.3f} ({low:.3f} .. {high:.3f})"
            logs.setdefault(way, []).append(float(np.log(ratio)))
            passes.setdefault(way, []).append(ways.passes[way])
    print(f"| way | {' | '.join(sizes)} | geometric mean | passes |")
    print(f"|---|{'---|' * (len(sizes) + 2)}")
    for way, by_size in shares.items():
        cells = (*by_size.values(), f"{np.exp(np.mean(logs[way])):.3f}", f"{np.mean(passes[way]):.0f}")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
