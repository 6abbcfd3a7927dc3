"""A model as a GGUF without its weights: a header, and a hole where the data would be.

What reads headers reads it as it reads any file. Of a GGUF on the hub the header is its own, read by ranges;
of a checkpoint it is a forecast of what the conversion would write.
"""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mqnative.core.presets import preset_types
from mqnative.errors import GGUFError, QuantizeError
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue
from mqnative.formats.gguf_header import parse_header
from mqnative.formats.gguf_layout import GGUFLayout
from mqnative.formats.gguf_rules import MAX_HEADER_BYTES
from mqnative.formats.qtypes import qtype
from mqnative.source.listing import ListedFile
from mqnative.source.predicted import PredictedTensor

# Few requests for the headers of large vocabularies, which have 5 to 8 MB, and little beyond their end.
_FIRST_READ = 2 << 20
_MOST_KEYS = 48
_MISSING_KEY = re.compile(r"key not found in model: (\S+)")
_WRONG_TYPE = re.compile(r"key (\S+) has wrong type \S+ but expected type (\w+)")
# A value of each type that stands for one that plays no part.
_STAND_INS: Mapping[str, MetaValue] = {
    "u32": MetaValue.u32(1),
    "i32": MetaValue.i32(1),
    "f32": MetaValue.f32(1.0),
    "bool": MetaValue.boolean(False),
    "str": MetaValue.string("none"),
    "arr": MetaValue.array(MetaType.I32, [1, 1, 1, 1]),
}

# Reads (start, size) of a file of the hub.
Reader = Callable[[ListedFile, int, int], bytes]


@dataclass(frozen=True)
class Outline:
    """A GGUF of holes.

    Attributes:
        path: the first file of it.
        preset_note: why the presets' choices cannot be told; None if they can.
    """

    path: Path
    preset_note: str | None = None


def outline_gguf(files: Iterable[ListedFile], read: Reader, folder: Path) -> Outline:
    """The headers of a GGUF on the hub.

    Args:
        files: of the model, in order.
        read: gives pieces of them.
        folder: where to; gone after use.

    Raises:
        GGUFError: a header is damaged.
    """
    paths = [_outline_file(file, read, folder) for file in files]
    return Outline(paths[0])


def _outline_file(file: ListedFile, read: Reader, folder: Path) -> Path:
    """Read as much of a file as its header takes, which only the header tells."""
    path = folder / file.name.rpartition("/")[2]
    have, wanted = b"", min(_FIRST_READ, file.size)
    fault: tuple[str, object] | None = None
    while True:
        have += read(file, len(have), wanted - len(have))
        with path.open("wb") as out:
            out.write(have)
            out.truncate(file.size)
        try:
            end = _header_end(path)
            if end <= len(have):
                return path
            wanted = end
        except GGUFError as error:
            # Zeros where the header goes on look like damage, but not at the same place twice.
            found = (error.message, error.offset)
            if found == fault or len(have) >= min(file.size, MAX_HEADER_BYTES):
                raise
            fault = found
            wanted = min(file.size, MAX_HEADER_BYTES, len(have) + max(_FIRST_READ, len(have) // 2))


def _header_end(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        tensors = parse_header(mapped, path).tensors
        return min((t.offset for t in tensors.values()), default=len(mapped))


@contextmanager
def without_vocabulary(file: GGUFFile) -> Iterator[Path]:
    """A file of holes that differs from ``file`` in having no tokenizer, which takes long to read.

    llama.cpp's choice of types does not look at it, and is asked for once for every preset.
    """
    dropped = ("tokenizer.", "split.")
    metadata = {key: value for key, value in file.metadata.items() if not key.startswith(dropped)}
    layout = GGUFLayout.plan(metadata, [(t.name, t.shape, t.qtype) for t in file.tensors.values()])
    with tempfile.TemporaryDirectory(prefix="mqnative-") as folder:
        path = Path(folder) / "outline.gguf"
        with path.open("wb") as out:
            out.write(layout.header_bytes)
            out.truncate(layout.file_bytes)
        yield path


def outline_checkpoint(
    metadata: Mapping[str, MetaValue], tensors: Iterable[PredictedTensor], path: Path
) -> Outline:
    """The forecast of a conversion as a file.

    Keys that llama.cpp insists on but that play no part in the choice of types get any value.

    Args:
        metadata: as `mqnative.source.hyperparameters` gives it.
        tensors: as `mqnative.source.predicted` gives them.
        path: where to.

    Raises:
        GGUFError: no file could hold them.
    """
    wanted = [(t.name, t.shape, qtype(t.type)) for t in tensors]
    filled = dict(metadata)
    note: str | None = None
    for _ in range(_MOST_KEYS):
        layout = GGUFLayout.plan(filled, wanted)
        with path.open("wb") as out:
            out.write(layout.header_bytes)
            out.truncate(layout.file_bytes)
        try:
            preset_types(path, "Q8_0", with_imatrix=True)
        except QuantizeError as error:
            note = error.message
            missing, wrong = _MISSING_KEY.search(note), _WRONG_TYPE.search(note)
            if missing and missing[1] not in filled:
                filled[missing[1]] = _STAND_INS["u32"]
            elif wrong and wrong[1] not in metadata and wrong[2] in _STAND_INS:
                filled[wrong[1]] = _STAND_INS[wrong[2]]
            else:
                return Outline(path, note)
        else:
            return Outline(path)
    return Outline(path, note)
