"""The tensors of one model as blocks, taken from the cache where it has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mqnative.core.native import core
from mqnative.core.quantize import quantize_blocks
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.store.encode_cache import Blocks, EncodeCache, EntryWriter

Importances = npt.NDArray[np.float32]

# One core writes 250 MB/s and more of these, all cores more than a disk reads: on the built-in model Q8_0
# 270, F16 800, BF16 1700, and without importances Q4_0 to Q5_1 380 to 420. The next are MXFP4 with 120 and
# TQ2_0 with 70; K types write 3 to 33, IQ types 1 to 3.
_FAST = ("F32", "F16", "BF16", "Q8_0")
_FAST_WITHOUT_IMPORTANCES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
# build_info()["upstream_commit"] of a tree that is no git checkout: two of them cannot be told apart.
_UNKNOWN_COMMIT = "own checkout"


def weights_hash(weights: Importances | None) -> str:
    """SHA-256, in hex, of one tensor's importances; ``none`` without any."""
    if weights is None:
        return "none"
    return hashlib.sha256(np.ascontiguousarray(weights, "<f4").tobytes()).hexdigest()


def worth_keeping(target: str, weights: Importances | None) -> bool:
    """Whether reading blocks of a type back can be faster than encoding them."""
    return target not in _FAST and not (weights is None and target in _FAST_WITHOUT_IMPORTANCES)


@dataclass(frozen=True)
class EncodedTensors:
    """Encodes a model's tensors, each once; later runs read it. The bytes are those of `quantize_blocks`.

    Attributes:
        file: the model, open.
        hashes: SHA-256 of each tensor's bytes, as `Identity.tensors` has them.
        cache: where blocks are kept.
        keeps: whether what is encoded is put there, too.
    """

    file: GGUFFile
    hashes: Mapping[str, str]
    cache: EncodeCache
    keeps: bool = True

    @classmethod
    def of(
        cls, file: GGUFFile, hashes: Mapping[str, str], cache: EncodeCache | None
    ) -> EncodedTensors | None:
        """None without a cache, or where this build cannot name its encoder."""
        if cache is None or core().build_info()["upstream_commit"] == _UNKNOWN_COMMIT:
            return None
        return cls(file, hashes, cache)

    def only_reading(self) -> EncodedTensors:
        """The same, but nothing more is kept."""
        return replace(self, keeps=False)

    def find(self, name: str, target: str, weights: Importances | None) -> Blocks | None:
        """The tensor's blocks, if they are there: uint8, 1-D, read-only.

        Args:
            name: a tensor of the model.
            target: the type of the blocks.
            weights: the importances they are encoded with, float32, (slices, weights) or flat.
        """
        if not worth_keeping(target, weights):
            return None
        return self.cache.get(self._key(name, target, weights), self._size(name, target))

    def writer(
        self, name: str, target: str, weights: Importances | None
    ) -> AbstractContextManager[EntryWriter | None]:
        """Keep blocks that are encoded piece by piece, see `EncodeCache.writer`; None if they are not kept.

        Args:
            name: as for `find`.
            target: as for `find`.
            weights: as for `find`.
        """
        if not self.keeps or not worth_keeping(target, weights):
            return nullcontext()
        return self.cache.writer(self._key(name, target, weights), self._size(name, target))

    def blocks(
        self, name: str, target: str, weights: Importances | None, *, n_threads: int | None = None
    ) -> Blocks:
        """The tensor's blocks, read or encoded now: uint8, 1-D.

        Args:
            name: as for `find`.
            target: as for `find`.
            weights: as for `find`.
            n_threads: default all usable processors.

        Raises:
            as `mqnative.quantize`; the cache itself raises nothing.
        """
        found = self.find(name, target, weights)
        if found is not None:
            return found
        info = self.file.tensors[name]
        flat = None if weights is None else np.ascontiguousarray(weights, np.float32).reshape(-1)
        blocks = quantize_blocks(
            self.file.data(name), info.qtype, info.matrix_shape, qtype(target), flat, n_threads=n_threads
        )
        with self.writer(name, target, weights) as kept:
            if kept is not None:
                kept.write(blocks)
        return blocks

    def _key(self, name: str, target: str, weights: Importances | None) -> str:
        info, build = self.file.tensors[name], core().build_info()
        return EncodeCache.key(
            tensor=self.hashes[name],
            source=info.qtype.name,
            shape=info.shape,
            target=target,
            weights=weights_hash(weights),
            # Of the instructions it was built for the bytes do not depend.
            encoder=f"{build['upstream_commit']} {build['version']}",
        )

    def _size(self, name: str, target: str) -> int:
        return qtype(target).tensor_bytes(self.file.tensors[name].shape)
