"""Seconds of one matrix product by type and shape on a device: what the speed of a recipe is predicted from.

Products are timed alone, over different weights in turn until they are as large as the model would be, so
that the processor's caches help as much as they would there. The times are kept in a file of this machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, forward_log, thread_count
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.store.paths import home, made_folder

_VERSION = 2
# Each product is timed for about this long, so that a model's shapes at all types take about a minute. The
# fastest of some tries counts, since a busy machine may hold up a whole series; between the tries others are
# timed, since it may be busy for longer.
_SECONDS, _TRIES, _AT_ONCE = 0.03, 3, 24
# Beyond so much, no cache helps, whatever the model's size.
MOST_WORKING_SET = 256 << 20
EXPERTS = "_exps."


@dataclass(frozen=True)
class Shape:
    """A product's shape.

    Attributes:
        n_per_row: weights per row, the length of an activation.
        n_rows: outputs.
        n_experts: 0, or experts of which a token uses ``n_used``.
        n_used: see there.
    """

    n_per_row: int
    n_rows: int
    n_experts: int = 0
    n_used: int = 0

    @property
    def n_weights(self) -> int:
        """Weights that one token is multiplied with."""
        return self.n_per_row * self.n_rows * max(1, self.n_used)


@dataclass(frozen=True)
class Setting:
    """Where and how products are timed.

    Attributes:
        device: its name.
        n_threads: of the CPU.
        n_tokens: activations at once; 1 as in generation.
        working_set: power of two of the bytes of different weights.
    """

    device: str
    n_threads: int
    n_tokens: int
    working_set: int

    @classmethod
    def of(cls, model_bytes: int, n_threads: int | None, device: str = "CPU", n_tokens: int = 1) -> Setting:
        """For a model of a size."""
        size = min(max(model_bytes, 1), MOST_WORKING_SET)
        return cls(device, thread_count(n_threads), n_tokens, size.bit_length() - 1)


def products_of(file: GGUFFile) -> dict[str, Shape]:
    """The products that generating a token takes, by tensor; a tied embedding counts as the head.

    Lookups and vectors are none.
    """
    used = file.get(f"{file.architecture}.expert_used_count")
    n_used = used if isinstance(used, int) else 0
    has_head = "output.weight" in file.tensors
    found = {}
    for name, tensor in file.tensors.items():
        if len(tensor.shape) < 2 or not name.endswith(".weight") or tensor.n_rows <= 1:
            continue
        if name == "token_embd.weight" and has_head:
            continue
        if name.endswith(("_embd.weight", "conv1d.weight")) and name != "token_embd.weight":
            continue
        n_per_row, n_rows = tensor.shape[0], tensor.shape[1]
        if EXPERTS in name and len(tensor.shape) > 2 and n_used:
            found[name] = Shape(n_per_row, n_rows, tensor.shape[2], n_used)
        else:
            found[name] = Shape(n_per_row, tensor.n_rows)
    return found


class ProductTimes:
    """Times by setting, shape and type; what is missing is measured and kept."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or made_folder(home() / "speed") / f"{machine_key()}.json"
        self._known: dict[str, float] = {}
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        if isinstance(kept, dict) and kept.get("version") == _VERSION:
            self._known = {k: float(v) for k, v in kept.get("seconds", {}).items()}

    def seconds(self, setting: Setting, shape: Shape, name: str) -> float:
        """Of one product, once it was measured."""
        return self._known[_key(setting, shape, name)]

    def measure(
        self,
        wanted: Iterable[tuple[Setting, Shape, str]],
        *,
        monitor: Monitor = NULL_MONITOR,
    ) -> int:
        """Time what is not known yet; how much that was.

        Raises:
            UnsupportedTypeError: the device has no such product.
            OperationCancelled: what was timed is kept.
        """
        missing = [w for w in dict.fromkeys(wanted) if _key(*w) not in self._known]
        monitor.start("matrix products", _TRIES * len(missing), "tries")
        done = 0
        try:
            for start in range(0, len(missing), _AT_ONCE):
                together = missing[start : start + _AT_ONCE]
                fastest = dict.fromkeys((_key(*w) for w in together), math.inf)
                for setting, shape, name in _TRIES * together:
                    key = _key(setting, shape, name)
                    fastest[key] = min(fastest[key], _timed(setting, shape, name))
                    done += 1
                    monitor.update(done)
                self._known |= fastest
        finally:
            forward_log()
            if missing:
                kept = {"version": _VERSION, "seconds": dict(sorted(self._known.items()))}
                write_text_atomic(self.path, json.dumps(kept, indent=1) + "\n")
        monitor.finish()
        return len(missing)


def _key(setting: Setting, shape: Shape, name: str) -> str:
    numbers = (*asdict(setting).values(), *asdict(shape).values())
    return " ".join(map(str, (*numbers, name)))


def _timed(setting: Setting, shape: Shape, name: str) -> float:
    numbers = (shape.n_per_row, shape.n_rows, shape.n_experts, shape.n_used, setting.n_tokens)
    times = core().time_product(
        qtype(name).id,
        numbers,
        setting.device,
        True,
        setting.n_threads,
        1 << setting.working_set,
        _SECONDS,
        None,
    )
    # Not the mean, since a round that was interrupted says nothing of the product.
    return float(np.percentile(times, 25))


def machine_key() -> str:
    """What tells machines and builds apart: processor, instructions, upstream commit."""
    build = core().build_info()
    cpu = ""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            cpu = next(
                (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
            )
    except OSError:
        cpu = platform.processor()
    text = json.dumps([cpu, platform.machine(), build["isa"], build["upstream_commit"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
