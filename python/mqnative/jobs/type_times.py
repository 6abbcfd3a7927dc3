"""How long one token takes for all matrix products of a model at each type: ``bench --types``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqnative.build.fallback import legal_type
from mqnative.core.info import devices
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import all_types, qtype
from mqnative.measure.product_times import ProductTimes, Setting, Shape, products_of


@dataclass(frozen=True)
class TypeTime:
    """One type's products.

    Attributes:
        qtype: asked for; rows that do not fill its blocks are timed at what llama.cpp takes instead.
        bpw: of the type.
        seconds: for one token, all products together.
        bytes_per_second: of weights read.
        products: seconds by shape.
    """

    qtype: str
    bpw: float
    seconds: float
    bytes_per_second: float
    products: dict[Shape, float]

    def values(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "type": self.qtype,
            "bpw": self.bpw,
            "seconds_per_token": self.seconds,
            "bytes_per_second": self.bytes_per_second,
            "products": [{**asdict(shape), "seconds": s} for shape, s in self.products.items()],
        }


def timed_types() -> tuple[str, ...]:
    """Every type that a file's weights may have."""
    return tuple(t.name for t in all_types().values() if t.is_target)


def compute_device(name: str) -> str:
    """The name, in ggml, of the device that computes: the CPU's, or the GPU's that was asked for."""
    gpus = [d.name for d in devices() if d.kind in ("gpu", "igpu")]
    if name == "cpu" or (name == "auto" and not gpus):
        return next(d.name for d in devices() if d.kind == "cpu")
    return gpus[0] if name == "auto" else name


def type_times(
    path: Path,
    types: tuple[str, ...] = (),
    *,
    device: str = "cpu",
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> list[TypeTime]:
    """Time a model's shapes at each type, the fastest first.

    Args:
        path: a GGUF file; only its header is read.
        types: default every one that ggml writes and the device multiplies with.
        device: cpu, auto or a GPU's name.
        n_threads: of the CPU; default all usable processors.
        monitor: told the products done.

    Raises:
        GGUFError: the file is damaged.
        BackendError: there is no such device.
    """
    with GGUFFile.open(path) as file:
        products = products_of(file)
    where = compute_device(device)
    known = next((d.matmul_types for d in devices() if d.name == where), ())
    named = [t for t in (types or timed_types()) if t in known]
    pairs: dict[str, list[tuple[Setting, Shape, str]]] = {}
    for name in named:
        try:
            legal = {n: legal_type(name, s.n_per_row) for n, s in products.items()}
        except UnsupportedTypeError:
            continue
        size = sum(qtype(legal[n]).row_bytes(s.n_per_row) * s.n_rows for n, s in products.items())
        setting = Setting.of(size, n_threads, where)
        pairs[name] = [(setting, s, legal[n]) for n, s in products.items()]
    times = ProductTimes()
    times.measure([p for wanted in pairs.values() for p in wanted], monitor=monitor)
    found = []
    for name, wanted in pairs.items():
        seconds = sum(times.seconds(*p) for p in wanted)
        read = sum(qtype(t).bpw * s.n_weights / 8 for _, s, t in wanted)
        by_shape = {s: times.seconds(setting, s, t) for setting, s, t in wanted}
        found.append(TypeTime(name, qtype(name).bpw, seconds, read / seconds, by_shape))
    return sorted(found, key=lambda t: t.seconds)
