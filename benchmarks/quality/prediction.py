"""Predicted against measured KLD of random mixes that nothing was fitted on.

    python benchmarks/quality/prediction.py MODEL-bf16.gguf... --texts FOLDER [--mixes 100] [--chunks 32]

FOLDER holds calib.txt and eval.txt. A mix' level is uniform in 2 to 8 bits per weight, and every tensor's
type lies within 1.5 of it. It is predicted as `mqnative auto` predicts for the nearest of the budgets 2.5,
3.5 .. 7.5 bits per weight, and measured on held-out text. Prints a Markdown table; numbers are kept in
MQNATIVE_HOME, so that a second run is quick.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from mqnative.app.output import ProgressMonitor
from mqnative.core.info import build_info
from mqnative.jobs.damages import Measured
from mqnative.jobs.known import damages_of
from mqnative.jobs.linking import damage_sum, predicted_kld, random_mix
from mqnative.jobs.options import Options
from mqnative.jobs.run import Run
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.study import Study
from mqnative.measure.uncertainty import Resamples, mean_estimate
from mqnative.predict.damage import Damage
from mqnative.predict.link import IDENTITY
from mqnative.store import Store

_SEED = 20261
_BUDGETS = (2.5, 3.5, 4.5, 5.5, 6.5, 7.5)
_LEVELS = (2.0, 8.0)
_Z95 = 1.96


@dataclass(frozen=True)
class Cell:
    """One mix: its level, what was predicted (without and with link), what was measured and its variance."""

    level: float
    summed: float
    predicted: Damage
    measured: float
    variance: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.predicted.mean / self.measured - 1

    @property
    def is_covered(self) -> bool:
        """Whether the 95 % interval of the prediction, and of the measurement, holds the difference."""
        width = _Z95 * (self.predicted.variance + self.variance) ** 0.5
        return abs(self.predicted.mean - self.measured) <= width


def cells(study: Study, texts: Path, n_mixes: int, n_chunks: int) -> Iterator[Cell]:
    rng = random.Random(_SEED)
    levels = [rng.uniform(*_LEVELS) for _ in range(n_mixes)]
    for budget in _BUDGETS:
        near = [i for i in range(n_mixes) if min(_BUDGETS, key=lambda b: abs(b - levels[i])) == budget]
        run = Run(study, Options(bpw=budget, compute=study.compute), study.monitor)
        parts = run.parts(texts / "calib.txt", texts / "eval.txt")
        measured = run.measure(parts)
        chosen = run.choose(parts, {"imatrix": damages_of(measured)})
        link = run.link(parts, measured, chosen.fit)
        mixes = {str(i): random_mix(measured, levels[i], _SEED + i) for i in near}
        means = mix_means(study, "mixes", parts.held_out.head(n_chunks), mixes, measured.importances)
        for i in near:
            mix, klds = mixes[str(i)], means[str(i)].kld[:, None]
            predicted, summed = predicted_kld(measured, mix, link), _summed(measured, mix)
            assert predicted is not None
            spread = mean_estimate(klds, Resamples.of(len(klds)))
            low, high = spread.ci95
            yield Cell(levels[i], summed, predicted, spread.value, ((high - low) / (2 * _Z95)) ** 2)


def _summed(measured: Measured, mix: dict[str, str]) -> float:
    total = damage_sum(measured, mix)
    assert total is not None
    return IDENTITY.apply(total).mean + measured.floor


def row(name: str, found: list[Cell]) -> str:
    errors = np.array([abs(c.error) for c in found])
    rank = spearmanr([c.predicted.mean for c in found], [c.measured for c in found]).statistic
    summed = [replace(c, predicted=Damage(c.summed, 0.0)) for c in found]
    plain = np.array([abs(c.error) for c in summed])
    figures = (
        name,
        len(found),
        f"{rank:.4f}",
        f"{np.median(errors):.1%}",
        f"{np.quantile(errors, 0.9):.1%}",
        f"{np.mean([c.is_covered for c in found]):.0%}",
        f"{np.median(plain):.1%}",
        f"{np.quantile(plain, 0.9):.1%}",
    )
    return f"| {' | '.join(map(str, figures))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--mixes", type=int, default=100)
    parser.add_argument("--chunks", type=int, default=32)
    given = parser.parse_args()
    info = build_info()
    print(f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, {given.chunks} chunks\n")
    print("| model, bpw | mixes | Spearman | median error | 90 % | covered | without link: median | 90 % |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for model in given.models:
        with ProgressMonitor() as monitor, Study(model, Store.open(), monitor=monitor) as study:
            found = list(cells(study, given.texts, given.mixes, given.chunks))
        print(row(model.stem, found), flush=True)
        for low in range(int(_LEVELS[0]), int(_LEVELS[1])):
            some = [c for c in found if low <= c.level < low + 1]
            if len(some) > 2:
                print(row(f"{low} to {low + 1}", some), flush=True)


if __name__ == "__main__":
    main()
