"""Importance matrix files: which of the two forms a file has, and the way in and out.

llama.cpp writes GGUF today; the legacy form is what ik_llama.cpp and older tools exchange.
"""

from __future__ import annotations

import os
from pathlib import Path

from mqnative.errors import GGUFError, ImatrixError, OutputExistsError
from mqnative.formats.atomic import atomic_path
from mqnative.formats.gguf_rules import MAGIC
from mqnative.formats.imatrix_data import DEFAULT_CHUNK_SIZE, Imatrix, ImatrixEntry
from mqnative.formats.imatrix_gguf import read_gguf, write_as_gguf
from mqnative.formats.imatrix_legacy import read_legacy, write_legacy

__all__ = ["DEFAULT_CHUNK_SIZE", "Imatrix", "ImatrixEntry", "read_imatrix", "write_imatrix"]


def read_imatrix(path: str | Path) -> Imatrix:
    """The importance matrix in a file of either form; the first bytes decide which.

    Raises:
        ImatrixError: the file is missing, damaged or something else; ``path`` is set, and the
            ``offset``, ``key`` or ``tensor`` at fault where there is one.
    """
    path = Path(path)
    if not path.is_file():
        raise ImatrixError(
            f"{path} does not exist or is no regular file; give the path of an imatrix file",
            path=str(path),
        )
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
        if magic == MAGIC:
            return read_gguf(path)
        if magic:
            return read_legacy(path)
    except GGUFError as error:
        raise _of_imatrix(error, path) from error
    except OSError as error:
        raise ImatrixError(
            f"cannot read {path}: {error.strerror or error}; copy it to a place you may read",
            path=str(path),
        ) from error
    raise ImatrixError(f"{path} is empty; copy or make it again", path=str(path))


def write_imatrix(path: str | Path, imatrix: Imatrix, legacy: bool = False, force: bool = False) -> None:
    """Write an importance matrix, as GGUF or in the legacy form; equal matrices give equal bytes.

    GGUF counts tokens: counts that came from a legacy file, in chunks, are converted with the
    default chunk size, as llama-imatrix does. Weights keep their bits.

    Raises:
        OutputExistsError: something is there already, and ``force`` is not set.
        OutputError: the file cannot be written.
        ImatrixError: the matrix is empty, or does not fit the form; see ``write_legacy``.
    """
    path = Path(path)
    if os.path.lexists(path) and not force:
        raise OutputExistsError(f"{path} exists already, pass force to replace it", path=str(path))
    try:
        if not legacy:
            write_as_gguf(path, imatrix.in_tokens(), force=force)
            return
        with atomic_path(path) as temporary, temporary.open("wb") as out:
            write_legacy(out, imatrix)
    except GGUFError as error:
        raise _of_imatrix(error, path) from error


def _of_imatrix(error: GGUFError, path: Path) -> ImatrixError:
    """What is wrong with a GGUF file, said of an imatrix."""
    fields = {name: getattr(error, name) for name in GGUFError.fields}
    return ImatrixError(error.message, **{**fields, "path": str(path)})
