"""A checkpoint on this machine: in a user's folder or in the hub's cache, looked at and made ready."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.errors import SourceError
from mqnative.formats.safetensors import StoredTensor
from mqnative.source.argument import HubModel
from mqnative.source.checkpoint import Checkpoint, folder_reader, read_checkpoint
from mqnative.source.hub_cache import list_folder
from mqnative.source.listing import CONFIG, INDEX, ListedFile, Selection, select_files

_NATIVE = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f32"}


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint whose files are all there.

    Attributes:
        name: what the model is called: its repository, or its folder.
        folder: where the files are.
        files: that make the model.
        config: what ``config.json`` says.
        checkpoint: its tensors.
        origin: where on the hub it is from, with its commit.
    """

    name: str
    folder: Path
    files: tuple[ListedFile, ...]
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    origin: HubModel | None = None


@dataclass(frozen=True)
class Reference:
    """A GGUF to measure.

    Attributes:
        path: the file, the first of a split one.
        mmproj: the projector for images or sound that belongs to it.
        notes: what a user should know of it.
        origin: where on the hub it is from, with its commit.
    """

    path: Path
    mmproj: Path | None = None
    notes: tuple[str, ...] = ()
    origin: HubModel | None = None


def direct(folder: Path, weights: tuple[ListedFile, ...], mmproj: tuple[ListedFile, ...]) -> Reference:
    """A GGUF that lies in a folder."""
    return Reference(folder / weights[0].name, folder / mmproj[0].name if mmproj else None)


def select_in_folder(folder: Path) -> Selection:
    """The model in a folder: the checkpoint, else an unquantized GGUF.

    Raises:
        SourceError: it holds none, or it cannot be read.
    """
    try:
        files = list_folder(folder)
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}", path=str(folder)) from error
    return select_files(files, str(folder), prefer_gguf=False)


def open_checkpoint(folder: Path, selection: Selection, name: str = "") -> CheckpointFolder:
    """Read configuration and headers of a checkpoint that is all there.

    Raises:
        SourceError, SafetensorsError: a part is missing or damaged.
    """
    config = read_config((folder / CONFIG).read_bytes(), str(folder))
    indexed = any(f.name == INDEX for f in selection.others)
    index = (folder / INDEX).read_bytes() if indexed else None
    checkpoint = read_checkpoint(selection, index, folder_reader(folder), str(folder))
    files = (*selection.others, *checkpoint.files)
    return CheckpointFolder(name or folder.resolve().name, folder, files, config, checkpoint)


def read_config(text: bytes, where: str) -> dict[str, Any]:
    """What a ``config.json`` says.

    Raises:
        SourceError: it is no JSON object.
    """
    try:
        config = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise SourceError(f"{where}: its config.json is damaged; fetch it again", path=where, file=CONFIG)
    return config


def reference_type(tensors: Iterable[StoredTensor]) -> str:
    """The type of a reference that loses nothing: bf16, f16 or f32, by what most weights are stored as.

    Weights that are packed or have eight bits become bf16, as upstream has it; auto without tensors.
    """
    n_bytes: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.shape) > 1:
            kind = _NATIVE.get(tensor.dtype, "bf16")
            n_bytes[kind] = n_bytes.get(kind, 0) + tensor.size_bytes
    return max(n_bytes, key=lambda kind: n_bytes[kind], default="auto")


@contextmanager
def staged(model: CheckpointFolder, *, with_code: bool = False) -> Iterator[Path]:
    """A folder that has the model's name and links to its files alone.

    Upstream names a model after its folder, which in the hub's cache is a commit, and runs Python code that
    lies beside the tokenizer: here is none, unless it is asked for.
    """
    with tempfile.TemporaryDirectory(prefix="mqnative-") as parent:
        folder = Path(parent) / (model.name or "model")
        folder.mkdir()
        names = [f.name for f in model.files]
        if with_code:
            names += [p.name for p in sorted(model.folder.glob("*.py"))]
        for name in names:
            link(model.folder / name, folder / name)
        yield folder


def link(source: Path, target: Path) -> None:
    """Have a file under another name as well, without a copy of it where that can be."""
    source = source.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except OSError:  # a system on which that takes a privilege
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
