"""How damage grows between two types a tensor was probed at: what `mqnative.predict.curve` takes for usual.

    python benchmarks/quality/curve.py MODEL-bf16.gguf... --texts FOLDER

FOLDER holds calib.txt and eval.txt. Every tensor but the head is probed, on the probe text, at Q3_K, at TQ2_0
and at types whose error lies between. Prints for each of these, by the power in k = a e + b e^power through
the two ends (and for the power law through them), the root mean square of ln(predicted / measured), and the
sum of what is predicted over the sum of what is measured. Held-out text plays no part.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mqnative.app.output import ProgressMonitor
from mqnative.formats.tied import HEAD
from mqnative.jobs.options import Options
from mqnative.jobs.run import Run
from mqnative.measure.probes import probe_until
from mqnative.measure.steady import steady
from mqnative.measure.study import Study
from mqnative.store import Store

_ENDS = ("Q3_K", "TQ2_0")
_BETWEEN = ("Q2_K", "IQ2_S", "IQ1_M", "Q2_0")
_POWERS = (2, 3, 4, 5, 6, 8)
_CHUNKS = 6

Ends = tuple[float, float, float, float]  # error and KLD of one end, of the other
Form = Callable[[Ends, float], float]


def power_law(ends: Ends, error: float) -> float:
    e1, k1, e2, k2 = ends
    return k1 * math.exp(math.log(error / e1) * math.log(k2 / k1) / math.log(e2 / e1))


def linear_and(power: int) -> Form:
    """k = a e + b e^power where the second end exceeds the first's line, else the power law."""

    def form(ends: Ends, error: float) -> float:
        e1, k1, e2, k2 = ends
        r, x = e2 / e1, error / e1
        b = (k2 / r - k1) / (r ** (power - 1) - 1)
        return (k1 - b) * x + b * x**power if 0 < b < k1 else power_law(ends, error)

    return form


FORMS: Mapping[str, Form] = {"power law": power_law} | {f"e^{p}": linear_and(p) for p in _POWERS}


def measured(study: Study, texts: Path) -> Iterator[tuple[str, Ends, float, float]]:
    """Type between, ends, error and KLD at it, of every tensor and type whose error lies between."""
    run = Run(study, Options(bpw=3.5, compute=study.compute), study.monitor)
    parts = run.parts(texts / "calib.txt", texts / "eval.txt")
    known = run.measure(parts)
    errors = {n: {t: e.weighted for t, e in s.errors.items()} for n, s in known.sweeps.items() if n != HEAD}
    pairs = [(n, t) for n, row in errors.items() for t in (*_ENDS, *_BETWEEN) if t in row]
    found = probe_until(study, parts.probe.head(_CHUNKS), pairs, known.importances, precision=0)
    klds = {pair: float(v.mean()) for pair, v in steady({p: m.kld for p, m in found.items()}).items()}
    for name, row in errors.items():
        if all(klds.get((name, t), 0) > 0 for t in _ENDS):
            e1, e2 = (row[t] for t in _ENDS)
            ends = (e1, klds[name, _ENDS[0]], e2, klds[name, _ENDS[1]])
            for t in _BETWEEN:
                if (name, t) in klds and e1 < row[t] < e2:
                    yield t, ends, row[t], klds[name, t]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--texts", type=Path, required=True)
    given = parser.parse_args()
    print(f"| model | type | tensors | {' | '.join(FORMS)} |")
    print(f"|---|---|---:|{'---|' * len(FORMS)}")
    for model in given.models:
        with ProgressMonitor() as monitor, Study(model, Store.open(), monitor=monitor) as study:
            rows = list(measured(study, given.texts))
        for t in _BETWEEN:
            own = [(ends, error, kld) for at, ends, error, kld in rows if at == t]
            if not own:
                continue
            cells = []
            for form in FORMS.values():
                made = np.array([form(ends, error) for ends, error, _ in own])
                true = np.array([kld for *_, kld in own])
                rms = float(np.sqrt((np.log(made / true) ** 2).mean()))
                cells.append(f"{rms:.2f}, {made.sum() / true.sum():.2f}")
            print(f"| {model.stem} | {t} | {len(own)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
