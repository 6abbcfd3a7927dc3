"""Files appear under their final name whole, or not at all.

A reader that has mapped the old file keeps its bytes: the new file is written beside it and renamed
over it.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mqnative.errors import MQNativeError, OutputError, OutputExistsError

_WAY_OUT = {
    errno.ENOENT: "its folder does not exist, create it or choose another one",
    errno.ENOTDIR: "a part of its path is a file, choose another folder",
    errno.EISDIR: "a folder has that name, choose another name",
    errno.ENAMETOOLONG: "the name is too long, choose a shorter one",
    errno.EACCES: "permission denied, choose a folder you may write to",
    errno.EPERM: "permission denied, choose a folder you may write to",
    errno.EROFS: "the file system is read-only, choose another folder",
    errno.ENOSPC: "the disk is full, free some space or choose another disk",
    errno.EDQUOT: "your disk quota is used up, free some space or choose another disk",
    errno.EFBIG: "the file system cannot hold a file this large, choose another disk",
}
# Raised by write() without a file name; reading a source cannot raise them.
_ONLY_FROM_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` that takes its place when the block ends well.

    The block writes to the path it is given and closes it; then the bytes are flushed to the disk
    and renamed over ``path`` in one step. If the block raises anything, the temporary file is
    removed and ``path`` is as it was. A killed process leaves ``.{name}.{random}.part`` behind,
    never half a result.

    Args:
        path: the final name; its folder must exist.

    Yields:
        The path to write to: an empty file in the same folder.

    Raises:
        OutputError: the folder is missing or read-only, the disk is full, or ``path`` is a folder.
            Errors of the block that are not about the output pass through unchanged.
    """
    temporary = _create_beside(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, MQNativeError) or not _concerns_output(error, {path, temporary}):
            raise
        raise _output_error(path, error) from error
    finally:
        # After success the name is gone; a failure to clean up must not hide what went wrong.
        with suppress(OSError):
            temporary.unlink()
    _flush_folder(path.parent)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Failures to write to ``path`` as OutputError, for files that grow over several runs.

    Raises:
        OutputError: as `atomic_path`; errors that are not about the output pass through unchanged.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, MQNativeError) or not _concerns_output(error, {path, path.parent}):
            raise
        raise _output_error(path, error) from error


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what was there in one step.

    Raises:
        OutputError: as ``atomic_path``.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def give_name(part: Path, path: Path) -> None:
    """Let a whole file take its name in one step; a power cut cannot leave the name without the bytes.

    For files that grow over several runs; all others are written through `atomic_path`.

    Raises:
        OutputError: as ``atomic_path``.
    """
    with output_errors(path):
        _flush(part)
        part.replace(path)
    _flush_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8 with its line ends unchanged, in one step.

    Raises:
        OutputError: as ``atomic_path``.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


def _create_beside(path: Path) -> Path:
    """An empty temporary file: a folder that cannot be written to shows before any work is done."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _output_error(path, error) from error
    return temporary


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = _WAY_OUT.get(error.errno or 0, f"{error.strerror or error}, choose another output")
    return OutputError(f"cannot write {path}: {reason}", path=str(path))


def _concerns_output(error: OSError, paths: set[Path]) -> bool:
    if error.errno in _ONLY_FROM_WRITING:
        return True
    return isinstance(error.filename, (str, os.PathLike)) and Path(error.filename) in paths


def _flush(path: Path) -> None:
    """Wait until the file's bytes are on the disk, so that the rename never overtakes them."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # fsync names no file, and EIO here means that the output is lost.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make the rename survive a power cut, where the system can (Windows cannot open a folder).

    The file is already whole under its name, so a refusal here is no failure of the write.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_output(path: Path, *, force: bool = False) -> None:
    """Refuse an output before hours of work: it exists, or its folder cannot be written.

    Raises:
        OutputExistsError: something is at ``path`` and ``force`` is not set.
        OutputError: the folder is missing or read-only.
    """
    if not path.name or path.is_dir():
        raise OutputError(f"cannot write {path}: a folder has that name, choose another name", path=str(path))
    if os.path.lexists(path) and not force:
        raise OutputExistsError(f"{path} exists already, pass --force to replace it", path=str(path))
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(
            f"cannot write {path}: its folder does not exist, create it or choose another one", path=str(path)
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {path}: permission denied, choose a folder you may write to", path=str(path)
        )
