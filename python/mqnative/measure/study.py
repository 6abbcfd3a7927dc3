"""Everything that is measured about one model, each number once.

A study asks the store first and measures what is missing. What it measures is committed while it goes on,
so that a killed run repeats nothing but the row in flight; a second process waits for the first one's
numbers instead of measuring them again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mqnative.core.info import Device, devices, memory_limit_bytes
from mqnative.core.model import Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, thread_count
from mqnative.formats.atomic import output_errors
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix, read_imatrix, write_imatrix
from mqnative.measure.corpus import Corpus
from mqnative.measure.imatrix import collect_imatrix
from mqnative.measure.partial_sums import PartialSums
from mqnative.source.encoded import EncodedTensors
from mqnative.source.identity import Identity, identify
from mqnative.store import Store, file_stamp
from mqnative.store.encode_cache import EncodeCache
from mqnative.store.paths import made_folder

if TYPE_CHECKING:
    from typing_extensions import Self


# Of the memory there is, what a model may take and stay in it.
_RESIDENT = 0.8


@dataclass(frozen=True)
class Compute:
    """Where and how a study computes.

    Attributes:
        device, n_gpu_layers, n_threads: as for `Model`. Threads do not change results.
        memory_bytes: for variants and hidden states, besides the model; default half of the machine's,
            or of what the devices have left.
    """

    device: str = "cpu"
    n_gpu_layers: int | None = None
    n_threads: int | None = None
    memory_bytes: int | None = None


class Study:
    """One model, one store; a context manager.

    Args:
        path: the unquantized model.
        store: where numbers are kept.
        compute: device and threads.
        monitor: told what is measured; steps that the store answers are not announced.

    Attributes:
        cache: encoded tensors of this model, beside the store; None if they are not kept.
        streams: whether the model is larger than memory, so that passes go through it layer by layer.
    """

    def __init__(
        self,
        path: str | Path,
        store: Store,
        *,
        compute: Compute | None = None,
        monitor: Monitor = NULL_MONITOR,
    ) -> None:
        self.store = store
        self.compute = compute or Compute()
        self.n_threads = thread_count(self.compute.n_threads)
        limit = memory_limit_bytes()
        self.monitor = monitor
        cache = EncodeCache.open(store.folder)
        self.file = GGUFFile.open(path)
        # A larger model would be read anew for every pass.
        self.streams = _place(self.compute) == "cpu" and self.file.file_bytes > _RESIDENT * limit
        self._model: Model | None = None
        self.identity = identity_of(store, self.file, self.n_threads)
        self.cache = EncodedTensors.of(self.file, self.identity.tensors, cache)
        # What else decides a measured number: the code that computed it.
        info = core().build_info()
        self.build = f"{info['upstream_commit']} {info['isa']} {_place(self.compute)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and its file."""
        if self._model is not None:
            self._model.close()
        self.file.close()

    @property
    def model(self) -> Model:
        """The loaded model; loaded on first use, so that a study the store answers never loads it."""
        if self._model is None:
            self._model = Model(
                self.file.path,
                device=self.compute.device,
                n_gpu_layers=self.compute.n_gpu_layers,
                n_threads=self.n_threads,
                monitor=self.monitor,
            )
        return self._model

    @property
    def memory_bytes(self) -> int:
        """For variants and hidden states, besides what is loaded now: half of what the devices have left."""
        if self.compute.memory_bytes:
            return self.compute.memory_bytes
        half = memory_limit_bytes() // 2
        used = _devices_of(self.compute)
        return min([half, sum(d.memory_free_bytes for d in used) // 2]) if used else half

    def imatrix(self, corpus: Corpus) -> Imatrix:
        """The importance matrix on ``corpus``, head included."""
        inputs = {"model": self.identity.model, "corpus": corpus.content_hash(), "build": self.build}
        with self.lock("imatrix"):
            row = self.store.get("imatrix", inputs)
            if row is None or row.data is None:
                started = time.monotonic()
                partial = PartialSums.of(
                    self.identity.model, self.file.n_weights, corpus, self.compute.device
                )
                found = collect_imatrix(self.model, corpus, partial=partial, monitor=self.monitor)
                value = {"entries": len(found.entries), "n_chunks": corpus.n_chunks}
                data = _imatrix_bytes(self.store, found)
                self.store.put("imatrix", inputs, value, data, elapsed_s=time.monotonic() - started)
                if partial is not None:
                    partial.remove()
            else:
                data = row.data
        return imatrix_from(self.store, data)

    def lock(self, kind: str) -> AbstractContextManager[None]:
        """Hold one kind of measurement of this model; a second process waits and finds them in the store."""
        return self.store.lock(f"{kind} {self.identity.model}")


def _devices_of(compute: Compute) -> list[Device]:
    """The GPUs that a study computes on."""
    if compute.n_gpu_layers == 0 or (compute.device == "cpu" and compute.n_gpu_layers is None):
        return []
    wanted = None if compute.device in ("auto", "cpu") else compute.device.split(",")
    gpus = [d for d in devices() if d.kind in ("gpu", "igpu")]
    return [d for d in gpus if wanted is None or d.name in wanted]


def _place(compute: Compute) -> str:
    """Where numbers are computed, as far as it decides their digits: other devices round otherwise."""
    used = _devices_of(compute)
    if not used:
        return "cpu" if compute.device == "auto" else compute.device
    layers = "" if compute.n_gpu_layers is None else f" -ngl {compute.n_gpu_layers}"
    return ", ".join(d.description for d in used) + layers


def identity_of(store: Store, file: GGUFFile, n_threads: int) -> Identity:
    """The identity of an open file, remembered by the store until the file changes."""
    remembered = store.remembered_identity(file.path)
    if remembered is not None:
        with suppress(ValueError, TypeError):
            return Identity(**json.loads(remembered))
    # Taken before hashing: a file that changes meanwhile is then not remembered.
    stamp = file_stamp(file.paths)
    found = identify(file, n_threads=n_threads)
    store.remember_identity(file.paths, json.dumps(asdict(found)), stamp=stamp)
    return found


def _imatrix_bytes(store: Store, imatrix: Imatrix) -> bytes:
    with _scratch(store) as path:
        write_imatrix(path, imatrix)
        return path.read_bytes()


def imatrix_from(store: Store, data: bytes) -> Imatrix:
    """The importance matrix of stored bytes."""
    with _scratch(store) as path, output_errors(path):
        path.write_bytes(data)
        return read_imatrix(path)


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    """The name of a file for a moment, in a folder that also loses what a killed process left in it."""
    folder = store.folder / "scratch"
    with store.lock("scratch"):
        shutil.rmtree(folder, ignore_errors=True)
        made_folder(folder)
        try:
            yield folder / "imatrix.gguf"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
