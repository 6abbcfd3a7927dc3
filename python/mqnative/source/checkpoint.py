"""A Hugging Face checkpoint by its headers: every tensor's place, on this machine or on the hub.

No weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mqnative.errors import SafetensorsError
from mqnative.formats.atomic import output_errors
from mqnative.formats.safetensors import (
    LENGTH_BYTES,
    StoredTensor,
    header_bytes,
    join,
    parse_header,
    parse_index,
)
from mqnative.source.hub import Hub, Repository
from mqnative.source.listing import INDEX, ListedFile, Selection, weight_files

# Most headers are shorter, so that one request gets them.
_FIRST_READ = 64 << 10
_AT_ONCE = 8

# Reads (start, size) of a file.
Reader = Callable[[ListedFile, int, int], bytes]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a checkpoint.

    Attributes:
        files: that hold them; what an index leaves out is not among them.
        tensors: by name; empty for PyTorch checkpoints, whose headers are code.
        headers: the beginning of each file, by name.
    """

    files: tuple[ListedFile, ...]
    tensors: Mapping[str, StoredTensor]
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def n_weights(self) -> int:
        """Numbers stored."""
        return sum(t.n_elements for t in self.tensors.values())


def read_checkpoint(selection: Selection, index: bytes | None, read: Reader, where: str) -> Checkpoint:
    """The tensors of a checkpoint.

    Args:
        selection: its files.
        index: what ``model.safetensors.index.json`` holds, if it is there.
        read: gives pieces of its files.
        where: the repository or folder, for messages.

    Raises:
        SourceError: the index names a file that is not there.
        SafetensorsError: a header is damaged, or contradicts the index.
    """
    if selection.kind != "safetensors":
        return Checkpoint(selection.weights, {})
    weight_map = None if index is None else parse_index(index, INDEX)
    files = weight_files(selection, None if weight_map is None else weight_map.values(), where)

    headers: dict[str, bytes] = {}

    def tensors_of(file: ListedFile) -> dict[str, StoredTensor]:
        beginning = read(file, 0, min(_FIRST_READ, file.size))
        end = header_bytes(beginning, file.name)
        if end > file.size:
            raise SafetensorsError(
                f"{file.name} announces a header of {end - LENGTH_BYTES} bytes but has {file.size}; fetch it "
                "again",
                path=file.name,
                offset=0,
            )
        if end > len(beginning):
            beginning += read(file, len(beginning), end - len(beginning))
        headers[file.name] = beginning[:end]
        return parse_header(beginning, file.size, file.name)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        parts = dict(zip((f.name for f in files), pool.map(tensors_of, files), strict=True))
    return Checkpoint(files, join(parts, weight_map), headers)


def write_stubs(checkpoint: Checkpoint, folder: Path) -> None:
    """Write files that have the headers and sizes of a checkpoint's, and holes for weights.

    Raises:
        OutputError: the folder cannot be written.
    """
    for file in checkpoint.files:
        path = folder / file.name
        with output_errors(path), path.open("wb") as out:
            out.write(checkpoint.headers[file.name])
            out.truncate(file.size)


def folder_reader(folder: Path) -> Reader:
    """Reads files of a folder."""

    def read(file: ListedFile, start: int, size: int) -> bytes:
        with (folder / file.name).open("rb") as opened:
            opened.seek(start)
            return opened.read(size)

    return read


def hub_reader(hub: Hub, repository: Repository) -> Reader:
    """Reads files of a repository, by ranged requests."""
    return lambda file, start, size: hub.read(repository, file.name, start, size)
