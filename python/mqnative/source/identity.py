"""What makes a model this very model: a hash of its metadata and of every tensor's bytes.

A file's name, date and way of being split do not count; one changed weight does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mqnative.core.native import usable_cpus
from mqnative.formats.gguf import GGUFFile

_BLOCK_BYTES = 1 << 20
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class Identity:
    """SHA-256 hashes, in hex.

    Attributes:
        model: of metadata, tensor names, shapes, types and data.
        tensors: of each tensor's data, by name.
    """

    model: str
    tensors: Mapping[str, str]


def identify(file: GGUFFile, *, n_threads: int | None = None) -> Identity:
    """Hash an open model; the tensors are read once, on several threads."""

    def hash_of(name: str) -> str:
        return hashlib.sha256(file.data(name).data).hexdigest()

    names = sorted(file.tensors)
    with ThreadPoolExecutor(n_threads or usable_cpus()) as pool:
        return identity_of(file, dict(zip(names, pool.map(hash_of, names), strict=True)))


def identity_of(file: GGUFFile, hashes: Mapping[str, str]) -> Identity:
    """The same from hashes of every tensor's bytes, for a file of which only the header is there."""
    total = hashlib.sha256(b"mqnative model/1\0")
    for key in sorted(file.metadata):
        if key not in _SPLIT_KEYS:
            total.update(key.encode("utf-8", "surrogateescape") + b"\0" + file.metadata[key].encode())
    for name in sorted(file.tensors):
        tensor = file.tensors[name]
        line = f"\0{name}\0{tensor.qtype.name}\0{tensor.shape}\0{hashes[name]}"
        total.update(line.encode("utf-8", "surrogateescape"))
    return Identity(total.hexdigest(), hashes)


def file_sha256(paths: Iterable[Path]) -> str:
    """SHA-256, in hex, of the bytes of a file, or of a split one's files one after the other."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                total.update(block)
    return total.hexdigest()
