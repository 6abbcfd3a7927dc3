"""Models in several files: which files belong together, and whether they do.

Source: src/llama-model-loader.cpp (constructor), src/llama.cpp (`llama_split_path`) at the pinned
commit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mqnative.errors import GGUFError
from mqnative.formats.gguf_header import Header
from mqnative.formats.gguf_rules import shown
from mqnative.formats.gguf_values import MetaType

NO_KEY = "split.no"
COUNT_KEY = "split.count"
TENSORS_KEY = "split.tensors.count"
# llama.cpp reads these keys with exactly these types.
_TYPES = {NO_KEY: MetaType.U16, COUNT_KEY: MetaType.U16, TENSORS_KEY: MetaType.I32}


def split_name(stem: str, index: int, count: int) -> str:
    """The file name of split ``index`` (from 0) of ``count``, as llama.cpp looks for it."""
    return f"{stem}-{index + 1:05d}-of-{count:05d}.gguf"


def split_paths(path: Path, header: Header) -> tuple[Path, ...]:
    """The files of the model whose first file is ``path``: itself, or all its splits.

    Raises:
        GGUFError: ``path`` is not the first split, its name does not fit, or a sibling is missing
            (then the error's ``path`` is the missing one).
    """
    count = _number(path, header, COUNT_KEY)
    number = _number(path, header, NO_KEY)
    if count is None or count <= 1:  # merged files keep a count of 0
        return (path,)
    if number is None or number >= count:
        said = f"lacks {NO_KEY}" if number is None else f"counts itself as number {number + 1}"
        raise _split_error(path, NO_KEY, f"is one of {count} splits but {said}, split it again")
    name = re.fullmatch(rf"(.+)-{number + 1:05d}-of-{count:05d}\.gguf", path.name, re.DOTALL)
    if name is None:
        raise _split_error(
            path,
            COUNT_KEY,
            f"is split {number + 1} of {count}, which its name does not say; "
            f"rename it {split_name('NAME', number, count)}",
        )
    paths = tuple(path.with_name(split_name(name[1], index, count)) for index in range(count))
    if number != 0:
        raise _split_error(path, NO_KEY, f"is split {number + 1} of {count}, open {paths[0]}")
    for sibling in paths[1:]:
        if not sibling.exists():
            raise GGUFError(
                f"{sibling} is missing; {path.name} needs all {count} splits beside it, fetch it",
                path=str(sibling),
            )
    return paths


def check_splits(paths: Sequence[Path], headers: Sequence[Header]) -> None:
    """Refuse splits that llama.cpp would not join.

    Raises:
        GGUFError: a split is out of place, a tensor is in two of them, or tensors are missing.
    """
    count = len(paths)
    holders: dict[str, Path] = {}
    for index, (path, header) in enumerate(zip(paths, headers, strict=True)):
        number = _number(path, header, NO_KEY)
        if number != index:
            said = f"lacks {NO_KEY}" if number is None else f"counts itself as number {number + 1}"
            raise _split_error(
                path, NO_KEY, f"is named split {index + 1} of {count} but {said}, fetch it again"
            )
        if (said_count := _number(path, header, COUNT_KEY)) not in (None, count):
            raise _split_error(
                path, COUNT_KEY, f"is one of {said_count} splits, not of {count}, fetch it again"
            )
        for name in header.tensors:
            if name in holders:
                raise GGUFError(
                    f"{path}: tensor {shown(name)} is also in {holders[name].name}, "
                    "fetch all splits of one model again",
                    path=str(path),
                    tensor=name,
                )
            holders[name] = path
    announced = _number(paths[0], headers[0], TENSORS_KEY)
    if announced != len(holders):
        raise _split_error(
            paths[0],
            TENSORS_KEY,
            f"announces {announced} tensors but the {count} splits hold {len(holders)}, "
            "fetch all splits of one model again",
        )


def _number(path: Path, header: Header, key: str) -> int | None:
    stored = header.metadata.get(key)
    if stored is None:
        return None
    if stored.type is not _TYPES[key] or not isinstance(stored.value, int):
        wanted = _TYPES[key].name
        fault = f"stores {key} as {stored.type.name} instead of {wanted}, split it again"
        raise _split_error(path, key, fault)
    return stored.value


def _split_error(path: Path, key: str, fault: str) -> GGUFError:
    return GGUFError(f"{path} {fault}", path=str(path), key=key)
