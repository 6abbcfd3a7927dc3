"""A checkpoint seen through upstream's converter: metadata, tensors, their bytes when they are asked for.

Runs in the converter's own process, which loads torch; see `mqnative.jobs.convert`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative.core.quantize import quantize_blocks
from mqnative.errors import ConversionError, MQNativeError
from mqnative.formats.gguf_rules import padded, shown
from mqnative.formats.qtypes import qtype
from mqnative.source.converter_tree import converter_tree, require_packages
from mqnative.source.lazy_rows import row_pieces, source_of

# Numbers at a time: little beside what torch itself takes.
_STEP = 4 << 20
_FTYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "auto": "GUESSED"}
OUTTYPES = tuple(_FTYPES)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ReferenceTensor:
    """A tensor of the file that the converter would write.

    Attributes:
        name: in GGUF.
        shape: row length first.
        type: the type it is stored in.
        size_bytes: of its data.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int


class UpstreamModel:
    """What upstream's converter makes of a folder, before a weight is read.

    Attributes:
        architecture: llama.cpp's name for it.
        tensors: in the converter's order.
    """

    def __init__(self, folder: Path, outtype: str = "auto", *, mmproj: bool = False) -> None:
        """Have the converter read configuration, tokenizer and headers.

        Args:
            folder: the checkpoint; its name becomes the model's, unless its card has a better one.
            outtype: one of `OUTTYPES`.
            mmproj: convert the projector for images or sound instead of the text model.

        Raises:
            MissingExtraError: torch or the like are not installed.
            ConversionError: the converter cannot read the model.
        """
        require_packages()
        self._gguf, self._conversion = _load()
        try:
            self._model = self._made(folder, outtype, mmproj=mmproj)
            self._model.prepare_tensors()
            self._model.prepare_metadata(vocab_only=False)
        except MQNativeError:
            raise
        except Exception as error:
            raise _failed(folder, error) from error
        self._writer = self._model.gguf_writer
        self.architecture = str(self._writer.arch)
        self.tensors = tuple(self._reference(n, t) for n, t in self._writer.tensors[0].items())
        self._lazy = {name: info.tensor for name, info in self._writer.tensors[0].items()}

    def _made(self, folder: Path, outtype: str, *, mmproj: bool) -> Any:
        import torch

        kind = self._conversion.ModelType.MMPROJ if mmproj else self._conversion.ModelType.TEXT
        # For the life of the process.
        torch.inference_mode().__enter__()
        config = self._conversion.ModelBase.load_hparams(folder, False)
        name = self._conversion.get_model_architecture(config, kind)
        try:
            made = self._conversion.get_model_class(name, mmproj=mmproj)
        except NotImplementedError:
            raise ConversionError(
                f"{folder.name} is a {name}, which the converter of this llama.cpp does not know",
                path=str(folder),
                architecture=name,
            ) from None
        ftype = getattr(self._gguf.LlamaFileType, _FTYPES[outtype])
        # The name of the file plays no part in what is in it.
        return made(folder, ftype, folder / "converted.gguf")

    def _reference(self, name: str, info: Any) -> ReferenceTensor:
        shape = tuple(int(n) for n in reversed(info.shape)) or (1,)
        return ReferenceTensor(name, shape, info.dtype.name, int(info.nbytes))

    def write_skeleton(self, path: Path) -> int:
        """Write the file but for its weights, which are a hole; it reads as the whole file would.

        Args:
            path: where; replaced.

        Returns:
            Bytes before the first tensor.
        """
        writer = self._writer
        writer.write_header_to_file(path=path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (out,) = writer.fout
        alignment = int(writer.data_alignment)
        start = padded(out.tell(), alignment)
        out.truncate(start + sum(padded(t.size_bytes, alignment) for t in self.tensors))
        writer.close()
        return start

    @property
    def alignment(self) -> int:
        """Bytes to which tensors are padded."""
        return int(self._writer.data_alignment)

    def pieces(self, tensor: ReferenceTensor) -> Iterator[Bytes]:
        """The tensor's bytes as the converted file has them: uint8, 1-D, whole rows at a time.

        What has been read is forgotten; a second time it is read again.

        Raises:
            ConversionError: the checkpoint's data cannot be read, or are not what its header said.
        """
        lazy = self._lazy[tensor.name]
        before = source_of(lazy, tensor.type)
        n_bytes = 0
        try:
            for rows in row_pieces(lazy if before is None else before, _STEP):
                stored = _bytes(rows) if before is None else _stored(rows, tensor.type)
                n_bytes += len(stored)
                yield stored
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            if isinstance(error, MQNativeError):
                raise
            raise ConversionError(
                f"{shown(tensor.name)} cannot be converted: {error}", log=str(error)
            ) from error
        if n_bytes != tensor.size_bytes:
            raise ConversionError(
                f"{shown(tensor.name)} has {n_bytes} bytes instead of {tensor.size_bytes}; the checkpoint "
                "changed while it was read"
            )


def _load() -> tuple[Any, Any]:
    """Upstream's modules, with the tree's own gguf-py."""
    tree = str(converter_tree())
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for place in (tree, str(Path(tree) / "gguf-py")):
        if place not in sys.path:
            sys.path.insert(0, place)
    import conversion
    import gguf

    logging.getLogger("hf-to-gguf").setLevel(logging.INFO)
    return gguf, conversion


def _bytes(rows: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)


def _stored(rows: npt.NDArray[Any], kind: str) -> Bytes:
    """Floats in the type that the converter stores them in."""
    if kind == "BF16":
        floats = np.ascontiguousarray(rows, np.float32)
        return quantize_blocks(_bytes(floats), qtype("F32"), (1, *floats.shape), qtype("BF16"), None)
    return _bytes(rows.astype({"F32": np.float32, "F16": np.float16}[kind], copy=False))


def _failed(folder: Path, error: Exception) -> ConversionError:
    """What upstream raised: its own words are the best there are."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return ConversionError(
            f"{folder.name} needs a package that is not installed ({said}); install it and try again",
            path=str(folder),
            log=said,
        )
    return ConversionError(f"{folder.name} cannot be converted: {said[:500]}", path=str(folder), log=said)
