"""Measures the priors of `mqnative.predict.priors` on models, and how well some serve another.

    python benchmarks/quality/priors.py CALIB.txt MODEL-bf16.gguf...

Every tensor is probed at one type; ln of its KLD per absolute weight error is explained by role and depth.
Prints the numbers to keep, and for each model the deviation that is left with priors from the others.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mqnative.app.output import ProgressMonitor
from mqnative.jobs.damages import Measured, measured_of
from mqnative.jobs.measure_plan import plan_of_file
from mqnative.jobs.places import places_of
from mqnative.measure.corpus import read_corpus
from mqnative.measure.parts import deal_parts
from mqnative.measure.probes import probe_until
from mqnative.measure.stored_sweep import sweep
from mqnative.measure.study import Study
from mqnative.predict.priors import WRITERS, Place, Priors, log_factor
from mqnative.store import Store

ANCHOR = "Q3_K"
PRECISION = 0.1
CHUNKS = 16
# Few tensors of a role on few models: terms are drawn towards nothing.
RIDGE = 0.3

Row = tuple[Place, float]
Rows = dict[str, list[Row]]
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("calib", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    arguments = parser.parse_args()
    rows = {path.stem: measured_rows(path, arguments.calib) for path in arguments.models}
    print(fit(rows))
    for name in rows if len(rows) > 1 else ():
        others = fit({n: r for n, r in rows.items() if n != name})
        plain = np.array([y for _, y in rows[name]])
        left = plain - np.array([log_factor(place, others) for place, _ in rows[name]])
        print(f"{name}: deviation {plain.std():.2f}, with priors from the others {left.std():.2f}")


def measured_rows(path: Path, calib: Path) -> list[Row]:
    """Each tensor's place, and ln of its KLD per absolute weight error, per use."""
    with Store.open() as store, ProgressMonitor() as monitor, Study(path, store, monitor=monitor) as study:
        parts = deal_parts(read_corpus(study.model, calib, n_ctx=512))
        plan = plan_of_file(study.file, study.imatrix(parts.imatrix), (), ANCHOR, lossless="layers")
        sweeps = sweep(study, plan.wanted, plan.importances)
        pairs = [*plan.anchors.items(), *plan.lossless]
        text = parts.probe.head(CHUNKS)
        probes = probe_until(study, text, pairs, plan.importances, precision=PRECISION)
        measured = measured_of(plan, sweeps, {pair: means.kld for pair, means in probes.items()})
        where = places_of(study.file, list(plan.candidates))
    return [(where[name], log_ratio(measured, name)) for name in plan.anchors]


def log_ratio(measured: Measured, name: str) -> float:
    anchor = measured.anchors[name]
    absolute = measured.sweeps[name].energy * measured.sweeps[name].errors[anchor].weighted
    return math.log(measured.table[name][anchor].mean / absolute)


def fit(rows: Rows) -> Priors:
    """Ridge regression; every model has a level of its own, since only proportions carry over."""
    roles = sorted({place.role for found in rows.values() for place, _ in found})
    x = np.array([[*terms(place, roles), *levels(model, rows)] for model in rows for place, _ in rows[model]])
    y = np.array([value - math.log(place.used) for found in rows.values() for place, value in found])
    n = x.shape[1]
    solved = np.linalg.lstsq(
        np.vstack([x, RIDGE * np.eye(n)]), np.concatenate([y - y.mean(), np.zeros(n)]), rcond=None
    )[0]
    spread = float((y - y.mean() - x @ solved).std())
    numbers = [round(float(v), 2) for v in solved]
    return Priors(
        round(float(y.mean()), 2),
        dict(zip(roles, numbers, strict=False)),
        *numbers[len(roles) : len(roles) + 4],
        spread=round(spread, 2),
    )


def terms(place: Place, roles: list[str]) -> list[float]:
    writer, first = float(place.role in WRITERS), float(place.layer == 0)
    return [
        *(float(place.role == role) for role in roles),
        place.depth, writer * place.depth, first, writer * first,
    ]  # fmt: skip


def levels(model: str, rows: Rows) -> list[float]:
    return [float(model == name) for name in list(rows)[1:]]


if __name__ == "__main__":
    main()
