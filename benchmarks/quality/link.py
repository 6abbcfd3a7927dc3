"""How tensors amplify each other's damage: what `mqnative.predict.link` takes for usual.

    python benchmarks/quality/link.py MODEL-bf16.gguf... --texts FOLDER

FOLDER holds calib.txt and eval.txt. For random mixes about each of the budgets 2.5, 3.5 .. 7.5 bits per
weight, KLD on the select text is fitted with scale * (sum + coupling * interaction), with a scale of each
model and budget that is drawn to 1 as in a fit. Prints, by the power in the interaction, the common coupling
and what remains. Held-out text plays no part.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from mqnative.app.output import ProgressMonitor
from mqnative.jobs.damages import Measured
from mqnative.jobs.known import damages_of
from mqnative.jobs.linking import input_share, link_mixes, mix_damages
from mqnative.jobs.options import Options
from mqnative.jobs.run import Run
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.study import Study
from mqnative.predict.link import head_shares
from mqnative.store import Store

_BUDGETS = (2.5, 3.5, 4.5, 5.5, 6.5, 7.5)
_POWERS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0)
_SCALE_DEVIATION, _NOISE = 0.05, 0.1


@dataclass(frozen=True)
class Row:
    """One mix: whose scale it shares, the damages of head and body tensors, and what was measured."""

    place: tuple[str, float]
    head: float
    body: np.ndarray[tuple[int], np.dtype[np.float64]]
    kld: float

    def ratio(self, coupling: float, power: float) -> float:
        """Measured over predicted, without scale."""
        others = np.maximum(self.body.sum() - self.body, 0.0)
        return self.kld / (self.head + float((self.body * (1 + coupling * others**power)).sum()))


def rows_of(study: Study, texts: Path) -> Iterator[Row]:
    for budget in _BUDGETS:
        run = Run(study, Options(bpw=budget, compute=study.compute), study.monitor)
        parts = run.parts(texts / "calib.txt", texts / "eval.txt")
        measured = run.measure(parts)
        chosen = run.choose(parts, {"imatrix": damages_of(measured)})
        mixes = link_mixes(measured, chosen.fit.plan.bpw)
        text = parts.select.head(run.options.select_chunks)
        means = mix_means(study, "link", text, mixes, measured.importances)
        for name, types in mixes.items():
            kld = float(means[name].kld.mean()) - measured.floor
            yield _row(measured, types, (study.file.path.stem, budget), kld)


def _row(measured: Measured, types: dict[str, str], place: tuple[str, float], kld: float) -> Row:
    damages = mix_damages(measured, types)
    assert damages is not None
    heads = head_shares(measured.tensors, input_share(measured))
    head = math.fsum(d.mean * heads.get(n, 0.0) for n, d in damages.items())
    body = np.array([max(0.0, d.mean) * (1 - heads.get(n, 0.0)) for n, d in damages.items()])
    return Row(place, head, body, kld)


def fitted(rows: list[Row], power: float) -> tuple[float, float]:
    """The common coupling, and the root mean square of what remains in ln KLD."""
    places = sorted({row.place for row in rows})

    def rests(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        scales = dict(zip(places, x[1:], strict=True))
        return np.array([math.log(r.ratio(math.exp(x[0]), power)) - scales[r.place] for r in rows])

    def weighed(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.concatenate([rests(x) / _NOISE, x[1:] / _SCALE_DEVIATION])

    found = least_squares(weighed, np.zeros(1 + len(places)), loss="soft_l1").x
    return math.exp(found[0]), float(np.sqrt((rests(found) ** 2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--texts", type=Path, required=True)
    given = parser.parse_args()
    rows: list[Row] = []
    for model in given.models:
        with ProgressMonitor() as monitor, Study(model, Store.open(), monitor=monitor) as study:
            rows += rows_of(study, given.texts)
    names = [m.stem for m in given.models]
    print(f"| power | coupling | rms | {' | '.join(f'{n}: coupling, rms' for n in names)} |")
    print(f"|---:|---:|---:|{'---|' * len(names)}")
    for power in _POWERS:
        each = [fitted([r for r in rows if r.place[0] == n], power) for n in names]
        pairs = " | ".join(f"{c:.2f}, {rms:.3f}" for c, rms in each)
        coupling, rms = fitted(rows, power)
        print(f"| {power:g} | {coupling:.2f} | {rms:.3f} | {pairs} |")


if __name__ == "__main__":
    main()
