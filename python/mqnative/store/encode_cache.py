"""Quantized tensors kept as files, so that a second use of one is a read instead of an encode.

A file is the blocks, then a footer with their number and checksum. Those longest unused go first when
the limit is reached. Whatever goes wrong here costs an encode, never a result: a damaged file counts as
absent, and after a failed write nothing more is kept.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mqnative.errors import StoreError
from mqnative.store.keys import content_key
from mqnative.store.locks import hold, named_lock
from mqnative.store.paths import home

LIMIT_VARIABLE = "MQNATIVE_CACHE_BYTES"
FOLDER = Path("cache") / "encoded"
DEFAULT_LIMIT_BYTES = 20 * 10**9
# The rest of the disk is for models.
_SHARE_OF_DISK = 0.1
_SUFFIX, _PART_SUFFIX = ".enc", ".part"
# A file that is this old may have no lock yet.
_FIRST_MOMENT_NS = 1_000_000_000
# No encode takes that long, so that its process is dead, where the file system has no locks.
_PART_LIFETIME_S = 24 * 3600.0
_LOCK = "encode cache"
_MAGIC = b"MQNENC\x00\x01"
# Magic, bytes of blocks, CRC-32 of key and blocks. The CRC reads 4 GB/s here (blake2b 0.8), where the fastest
# encoder kept writes 0.12 GB/s; it is what makes a flush to the disk before the rename unnecessary.
_FOOTER = struct.Struct("<8sQI")

_log = logging.getLogger(__name__)

Blocks = npt.NDArray[np.uint8]


class EncodeCache:
    """Encoded tensors under the hash of everything that decides their bytes.

    Processes may share a folder. No method raises because of the disk.

    Args:
        folder: where the files lie; made by the first that is kept.
        limit_bytes: what all entries together may take; a larger one is not kept.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._keeps = True
        if folder.is_dir():
            self._tidy()

    @classmethod
    def open(cls, folder: Path | None = None) -> EncodeCache | None:
        """The cache beside the store, as large as MQNATIVE_CACHE_BYTES says.

        Args:
            folder: the store's; the default is `mqnative.store.home`.

        Returns:
            None if the variable is 0, which leaves entries that are there alone, and, with a line in the
            log, if the folder cannot be used. Without the variable the limit is 20 GB, or 10 % of what
            is free on that disk, entries counted as free.

        Raises:
            StoreError: the variable is no number of bytes.
        """
        limit_bytes = _limit_wanted()
        if limit_bytes == 0:
            return None
        try:
            folder = home() if folder is None else folder
            limit_bytes = _default_limit(folder) if limit_bytes is None else limit_bytes
        except (OSError, StoreError) as error:
            _log.warning("encoded tensors are not cached in this run: %s", error)
            return None
        return cls(folder / FOLDER, limit_bytes)

    @staticmethod
    def key(
        *, tensor: str, source: str, shape: tuple[int, ...], target: str, weights: str, encoder: str
    ) -> str:
        """What an encoded tensor is kept under; its name does not count.

        Args:
            tensor: SHA-256 of the source's bytes.
            source: type of the source, such as ``BF16``.
            shape: as in GGUF, row length first.
            target: type of the blocks.
            weights: SHA-256 of the importances, or ``none``.
            encoder: the code that encodes.
        """
        inputs = {
            "tensor": tensor,
            "source": source,
            "shape": shape,
            "target": target,
            "weights": weights,
            "encoder": encoder,
        }
        return content_key("encoded", inputs)

    def get(self, key: str, n_bytes: int) -> Blocks | None:
        """The blocks kept under ``key``, checked against their checksum.

        Args:
            key: from `key`.
            n_bytes: their size.

        Returns:
            uint8, shape (n_bytes,), read-only and memory-mapped; it stays good when the file is removed.
            None if there are none; damaged ones are removed.
        """
        path = self._path(key)
        try:
            mapped = _mapped(path, n_bytes + _FOOTER.size)
        except OSError:
            return None
        if mapped is None or not _is_whole(mapped, key, n_bytes):
            _log.info("removed %s, which is damaged", path)
            if mapped is not None:
                mapped.close()
            _removed(path)
            return None
        # Only for the order of removal; in a folder that may not be changed there is none.
        with suppress(OSError):
            _touch(path)
        return np.frombuffer(mapped, np.uint8, n_bytes)

    def put(self, key: str, blocks: Blocks) -> None:
        """Keep the blocks of a tensor: uint8, C-contiguous."""
        with self.writer(key, blocks.nbytes) as part:
            part.write(blocks)

    @contextmanager
    def writer(self, key: str, n_bytes: int) -> Iterator[EntryWriter]:
        """Keep blocks that come piece by piece.

        They are there when the block ends well and all ``n_bytes`` were written; otherwise nothing is left.

        Args:
            key: from `key`.
            n_bytes: what all pieces have together.
        """
        part = EntryWriter(self, key, n_bytes)
        try:
            yield part
            part.publish()
        finally:
            part.discard()

    def _takes(self, n_bytes: int) -> bool:
        return self._keeps and n_bytes + _FOOTER.size <= self.limit_bytes

    def _new_part(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{secrets.token_hex(8)}{_PART_SUFFIX}"

    def _publish(self, part: Path, key: str) -> None:
        """Make a whole file the entry, unless another process was faster."""
        with named_lock(self.folder, _LOCK):
            if not self._path(key).exists() and self._make_room():
                _touch(part)
                part.replace(self._path(key))

    def _give_up(self, error: Exception) -> None:
        """Keep nothing more in this run, and say so once."""
        if self._keeps:
            self._keeps = False
            _log.warning("the cache %s keeps nothing more in this run: %s", self.folder, error)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _tidy(self) -> None:
        """Clear what dead processes left, and come below a limit that is lower than the last one."""
        try:
            with named_lock(self.folder, _LOCK):
                oldest = time.time_ns() - int(_PART_LIFETIME_S * 1e9)
                for file in _files(self.folder):
                    if file.path.endswith(_PART_SUFFIX) and (file.used_ns < oldest or _is_left(file)):
                        _removed(Path(file.path))
                self._make_room()
        except (OSError, StoreError) as error:
            self._give_up(error)

    def _make_room(self) -> bool:
        """Remove entries, the one longest unused first, until all files fit; the lock is held."""
        files = _files(self.folder)
        too_much = sum(f.size_bytes for f in files) - self.limit_bytes
        if too_much > 0:
            for file in sorted(f for f in files if f.path.endswith(_SUFFIX)):
                if too_much > 0 and _removed(Path(file.path)):
                    too_much -= file.size_bytes
        return too_much <= 0


class EntryWriter:
    """Takes the pieces of one entry; made by `EncodeCache.writer`. No method raises because of the disk."""

    def __init__(self, cache: EncodeCache, key: str, n_bytes: int) -> None:
        self._cache, self._key, self._n_bytes = cache, key, n_bytes
        self._file: BinaryIO | None = None
        self._crc = zlib.crc32(key.encode())
        self._n_written = 0
        if cache._takes(n_bytes):
            try:
                self._path = cache._new_part()
                self._file = self._path.open("xb")
                hold(self._file.fileno())
            except OSError as error:
                cache._give_up(error)

    def write(self, blocks: Blocks) -> None:
        """The next piece: uint8, C-contiguous."""
        if self._file is None:
            return
        self._crc = zlib.crc32(blocks.data, self._crc)
        self._n_written += blocks.nbytes
        try:
            _write(self._file, blocks.data)
        except OSError as error:
            self._cache._give_up(error)
            self.discard()

    def publish(self) -> None:
        """Keep the entry if it is whole."""
        if self._file is None or self._n_written != self._n_bytes:
            return
        try:
            _write(self._file, _FOOTER.pack(_MAGIC, self._n_bytes, self._crc))
            self._file.close()
            self._cache._publish(self._path, self._key)
        except (OSError, StoreError) as error:
            self._cache._give_up(error)

    def discard(self) -> None:
        """Remove what was written and not published."""
        if self._file is not None:
            with suppress(OSError):  # what was buffered goes with the file
                self._file.close()
            self._file = None
            _removed(self._path)


class _File(NamedTuple):
    """One file in the folder and when it was used last; they sort by that. Paths of thousands take time."""

    used_ns: int
    path: str
    size_bytes: int


def _files(folder: Path) -> list[_File]:
    """Entries and files being written; what other processes remove meanwhile is left out."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith((_SUFFIX, _PART_SUFFIX)):
                with suppress(FileNotFoundError):
                    s = entry.stat()
                    found.append(_File(s.st_mtime_ns, entry.path, s.st_size))
    return found


def _is_left(file: _File) -> bool:
    """Whether nobody writes the file any more: its writer holds a lock on it from the first moment on."""
    if time.time_ns() - file.used_ns < _FIRST_MOMENT_NS:
        return False
    try:
        with Path(file.path).open("r+b") as opened:
            return hold(opened.fileno())
    except OSError:
        return False


def _touch(path: Path) -> None:
    """Mark as used now; the clock of the file system may be too coarse to tell an order."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    file.write(data)


def _mapped(path: Path, size_bytes: int) -> mmap.mmap | None:
    """The file in memory; None if it has another size."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size_bytes:
            return None
        return mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ)


def _is_whole(mapped: mmap.mmap, key: str, n_bytes: int) -> bool:
    footer = mapped[n_bytes:]
    with memoryview(mapped) as view, view[:n_bytes] as blocks:
        return footer == _FOOTER.pack(_MAGIC, n_bytes, zlib.crc32(blocks, zlib.crc32(key.encode())))


def _removed(path: Path) -> bool:
    """Whether the file is gone now, whoever removed it; Windows keeps one that is in use."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _limit_wanted() -> int | None:
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise StoreError(
            f"{LIMIT_VARIABLE} is {text!r}, which is no number of bytes; set it to one such as 20000000000, "
            "or to 0 for no cache"
        )
    return int(text)


def _default_limit(folder: Path) -> int:
    # What is cached counts as free, or else the limit would shrink as the cache grows.
    free = shutil.disk_usage(folder).free + sum(f.size_bytes for f in _files(folder / FOLDER))
    return min(DEFAULT_LIMIT_BYTES, int(free * _SHARE_OF_DISK))
