"""A tensor with everything that was measured of it, as reports and pages show it."""

from __future__ import annotations

import math
import re

from mqnative.formats.qtypes import qtype as known_type
from mqnative.jobs.damages import Measured
from mqnative.jobs.tell import interval
from mqnative.predict.damage import Damage
from mqnative.report.summary import CurvePoint, TensorRow

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def tensor_row(
    name: str, shape: tuple[int, ...], source_type: str, qtype: str, size_bytes: int, measured: Measured
) -> TensorRow:
    """A tensor at the type it has in a mix.

    Args:
        name: as in GGUF.
        shape: as in GGUF.
        source_type: in the reference.
        qtype: in the mix.
        size_bytes: in the mix.
        measured: what is known.
    """
    by_type = measured.table.get(name, {})
    chosen = by_type.get(qtype)
    block = _BLOCK.match(name)
    return TensorRow(
        name,
        int(block[1]) if block else None,
        (block[2] if block else name).removesuffix(".weight"),
        shape,
        math.prod(shape),
        source_type,
        qtype,
        size_bytes,
        0.0 if chosen is None else chosen.mean,
        importance_percentile(name, measured),
        tuple(_point(name, t, d, measured) for t, d in by_type.items()),
    )


def _point(name: str, qtype: str, damage: Damage, measured: Measured) -> CurvePoint:
    sweep = measured.sweeps.get(name)
    error = None if sweep is None else sweep.errors.get(qtype)
    return CurvePoint(
        qtype,
        known_type(qtype).bpw,
        damage.mean,
        *interval(damage),
        measured=(name, qtype) in measured.probes,
        error=None if error is None else error.weighted,
        error_half_width=None if error is None else error.half_width,
        rmse=None if error is None else error.rmse,
    )


def importance_percentile(name: str, measured: Measured) -> float | None:
    """Where the tensor's importance lies within the model, 0 to 100; None without importances."""
    if measured.importances.get(name) is None:
        return None
    values = [s.importance for n, s in measured.sweeps.items() if measured.importances.get(n) is not None]
    own = measured.sweeps[name].importance if name in measured.sweeps else None
    if own is None or len(values) < 2:
        return None
    return 100.0 * sum(v < own for v in values) / (len(values) - 1)
