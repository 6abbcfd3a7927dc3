"""The plan of a file: every tensor's type, every byte's place, before anything is written.

Row-size fallbacks and untouchable tensors are resolved first, so that the planned size is the written size.
Tensors go in the order in which llama_model_quantize writes them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mqnative.build.fallback import legal_type
from mqnative.build.nearest import nearest_preset
from mqnative.core.presets import Preset, quantizable, requires_imatrix
from mqnative.core.untied import loads_untied
from mqnative.errors import GGUFError, ImatrixError, RecipeError, UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_header import TensorInfo
from mqnative.formats.gguf_layout import GGUFLayout
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import QType, qtype
from mqnative.formats.recipe import Recipe
from mqnative.formats.tied import EMBEDDING, HEAD, is_tied, stored_name

# ggml.h, GGML_QNT_VERSION.
_QUANTIZATION_VERSION = 2
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_BLOCK = re.compile(r"blk\.(\d+)\.")
_UNKNOWN_HASH = "0" * 64
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class ModelTensor:
    """A tensor of the source as a recipe sees it."""

    info: TensorInfo
    quantizable: bool

    @property
    def qtype_name(self) -> str:
        """Its type in the source."""
        return self.info.qtype.name


@dataclass(frozen=True)
class PlannedTensor:
    """What becomes of one tensor.

    Attributes:
        name, shape: as in GGUF, row length first.
        source_type: what the source stores.
        requested: what the recipe asks for.
        qtype: what will be written: ``requested`` after row-size fallback.
        size_bytes: bytes of its data.
        uses_imatrix: whether importances go into its encoding.
        source_name: the source's tensor, if it has another name: the embedding, for a head that was tied to it.
    """

    name: str
    shape: tuple[int, ...]
    source_type: str
    requested: str
    qtype: str
    size_bytes: int
    uses_imatrix: bool
    source_name: str = ""

    @property
    def stored(self) -> str:
        """The source's tensor that holds its weights."""
        return self.source_name or self.name

    @property
    def copied(self) -> bool:
        """Whether the source's bytes are taken as they are."""
        return self.source_type == self.qtype


@dataclass(frozen=True)
class BuildPlan:
    """A file that could be written; `mqnative.build_gguf` writes it.

    Attributes:
        source: the GGUF it is made from.
        tensors: in file order.
        layout: the header's bytes and each tensor's place.
        ftype: the preset nearest in bpw, which goes into ``general.file_type``.
        imatrix: the importances used, if any.
    """

    source: Path
    tensors: tuple[PlannedTensor, ...]
    layout: GGUFLayout
    ftype: Preset
    imatrix: Imatrix | None

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.layout.file_bytes

    @property
    def tensor_bytes(self) -> int:
        """Bytes of tensor data, without padding."""
        return sum(t.size_bytes for t in self.tensors)

    @property
    def n_weights(self) -> int:
        """Weights in all tensors."""
        return sum(_n_weights(t.shape) for t in self.tensors)

    @property
    def bpw(self) -> float:
        """8 x tensor bytes / weights."""
        return 8.0 * self.tensor_bytes / self.n_weights

    @property
    def bpw_file(self) -> float:
        """8 x file bytes / weights."""
        return 8.0 * self.file_bytes / self.n_weights

    @property
    def types(self) -> dict[str, str]:
        """Tensor name -> type to be written."""
        return {t.name: t.qtype for t in self.tensors}

    @property
    def fallbacks(self) -> tuple[PlannedTensor, ...]:
        """Tensors that do not get the type asked for, because of their row length."""
        return tuple(t for t in self.tensors if t.qtype != t.requested)


def model_tensors(file: GGUFFile) -> dict[str, ModelTensor]:
    """Every tensor of a model with llama.cpp's verdict on whether it may be quantized.

    Raises:
        GGUFError: the file has no tensors or names no architecture.
        ModelLoadError: llama.cpp does not know the architecture.
    """
    if file.architecture is None or not file.tensors:
        raise GGUFError(
            f"{file.path} has no {'tensors' if file.architecture else 'general.architecture'}; give a model",
            path=str(file.path),
            key="general.architecture",
        )
    verdicts = quantizable(file.architecture, {name: t.shape for name, t in file.tensors.items()})
    return {name: ModelTensor(info, verdicts[name]) for name, info in file.tensors.items()}


def plan_build(
    file: GGUFFile,
    recipe: Recipe,
    imatrix: Imatrix | None = None,
    *,
    imatrix_name: str = "",
    source_hash: str = "",
    allow_requantize: bool = False,
    labels: Mapping[str, str] | None = None,
) -> BuildPlan:
    """Plan the file that ``recipe`` makes of ``file``.

    Args:
        file: the open source.
        recipe: a type for every tensor.
        imatrix: importances by tensor name.
        imatrix_name: the imatrix' file name, for the metadata; folders in it are dropped.
        source_hash: `identify(file).model`, for the metadata. A plan without it has the same size, but its file
            could not be told from that of another model of the same shape.
        allow_requantize: accept tensors that are quantized already.
        labels: further texts for the metadata, under keys of ours.

    Raises:
        RecipeError: the recipe does not fit the model.
        UnsupportedTypeError: a type without encoder or substitute, or a source that is quantized already.
        ImatrixError: importances of the wrong length, or missing where llama.cpp insists on them.
        GGUFError, ModelLoadError: as `model_tensors`.
    """
    tensors = model_tensors(file)
    if HEAD in recipe.tensors and is_tied(tensors):
        tensors[HEAD] = _own_head(file, tensors[EMBEDDING])
    requested = recipe.resolve(tensors)
    planned = []
    for name in sorted(tensors, key=_upstream_order):
        tensor = tensors[name]
        target = qtype(_target(tensor, requested[name], allow_requantize=allow_requantize))
        weights = None
        if target.name != tensor.qtype_name:
            stored = stored_name(name, file.tensors)
            weights = imatrix.weights_for(stored, tensor.info.shape) if imatrix else None
            if weights is None and requires_imatrix(name, target.name):
                raise _missing_importances(name, target, imatrix)
        planned.append(
            PlannedTensor(
                name,
                tensor.info.shape,
                tensor.qtype_name,
                requested[name],
                target.name,
                target.tensor_bytes(tensor.info.shape),
                weights is not None,
                "" if name in file.tensors else EMBEDDING,
            )
        )
    chosen = tuple(planned)
    n_weights = sum(_n_weights(t.shape) for t in chosen)
    bpw = 8.0 * sum(t.size_bytes for t in chosen) / n_weights
    ftype = nearest_preset(file, {t.name: t.qtype for t in chosen}, bpw, with_imatrix=imatrix is not None)
    metadata = _metadata(file, chosen, ftype, imatrix, imatrix_name)
    metadata["mqnative.source.sha256"] = MetaValue.string(source_hash or _UNKNOWN_HASH)
    metadata |= {key: MetaValue.string(text) for key, text in (labels or {}).items()}
    layout = GGUFLayout.plan(metadata, [(t.name, t.shape, qtype(t.qtype)) for t in chosen])
    return BuildPlan(file.path, chosen, layout, ftype, imatrix)


def _own_head(file: GGUFFile, embedding: ModelTensor) -> ModelTensor:
    """A head with the embedding's weights, for a model that has none of its own."""
    if not loads_untied(file):
        raise RecipeError(
            f"{file.path} uses its embedding as the head, and llama.cpp reads no other for this architecture; "
            f"remove {HEAD} from the recipe",
            path=str(file.path),
            tensor=HEAD,
        )
    return ModelTensor(replace(embedding.info, name=HEAD), embedding.quantizable)


def _target(tensor: ModelTensor, requested: str, *, allow_requantize: bool) -> str:
    if not tensor.quantizable or requested == tensor.qtype_name:
        return tensor.qtype_name
    name, wanted = tensor.info.name, qtype(requested)
    if not wanted.is_target:
        raise UnsupportedTypeError(
            f"{name} cannot become {requested}: ggml has no encoder for it; choose another type",
            tensor=name,
            qtype=requested,
            reason="no encoder",
        )
    if tensor.info.qtype.is_quantized and not allow_requantize:
        raise UnsupportedTypeError(
            f"{name} is {tensor.qtype_name} already, and quantizing twice loses more than once; start from a "
            "BF16 or F16 model, or pass --allow-requantize",
            tensor=name,
            qtype=requested,
            reason="requantize",
        )
    if tensor.qtype_name not in _UNQUANTIZED and not tensor.info.qtype.is_quantized:
        raise UnsupportedTypeError(
            f"{name} holds {tensor.qtype_name} numbers, which are not weights; leave it as it is",
            tensor=name,
            qtype=requested,
            reason="not weights",
        )
    try:
        return legal_type(requested, tensor.info.shape[0])
    except UnsupportedTypeError as error:
        raise UnsupportedTypeError(
            f"{name}: {error.message}", tensor=name, qtype=requested, reason=error.reason
        ) from None


def _missing_importances(name: str, target: QType, imatrix: Imatrix | None) -> ImatrixError:
    what = "the imatrix has no row for it" if imatrix else "there is no imatrix"
    return ImatrixError(
        f"{name} cannot become {target.name}: the type needs importances, and {what}; give an imatrix that "
        "covers the tensor or choose a type of more bits for it",
        tensor=name,
    )


def _upstream_order(name: str) -> tuple[int, bytes]:
    """The order of llama.cpp's weights map: by block, then by name (src/llama-model-loader.h)."""
    block = _BLOCK.match(name)
    return (int(block.group(1)) if block else -1, name.encode("utf-8", errors="surrogateescape"))


def _n_weights(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n


def _metadata(
    file: GGUFFile,
    tensors: tuple[PlannedTensor, ...],
    ftype: Preset,
    imatrix: Imatrix | None,
    imatrix_name: str,
) -> dict[str, MetaValue]:
    """llama-quantize's metadata and where the mix comes from: no time, host or path."""
    metadata = _upstream_metadata(file, ftype.ftype, imatrix, imatrix_name)
    if imatrix is not None:
        metadata["mqnative.imatrix.sha256"] = MetaValue.string(imatrix.content_hash())
    counts = Counter(t.qtype for t in tensors)
    summary = " ".join(f"{name}:{n}" for name, n in sorted(counts.items()))
    metadata["mqnative.recipe.summary"] = MetaValue.string(summary)
    metadata["mqnative.recipe.sha256"] = MetaValue.string(types_hash({t.name: t.qtype for t in tensors}))
    return metadata


def upstream_header_bytes(file: GGUFFile, imatrix: Imatrix | None, imatrix_name: str) -> int:
    """Length of the header that llama-quantize would write for this model; the types do not matter."""
    metadata = _upstream_metadata(file, 0, imatrix, imatrix_name)
    tensors = [(t.name, t.shape, t.qtype) for t in file.tensors.values()]
    return len(GGUFLayout.plan(metadata, tensors).header_bytes)


def _upstream_metadata(
    file: GGUFFile, ftype: int, imatrix: Imatrix | None, imatrix_name: str
) -> dict[str, MetaValue]:
    metadata = {key: value for key, value in file.metadata.items() if key not in _SPLIT_KEYS}
    metadata["general.quantization_version"] = MetaValue.u32(_QUANTIZATION_VERSION)
    metadata["general.file_type"] = MetaValue.u32(ftype)
    if imatrix is not None:
        metadata.update(_imatrix_metadata(imatrix, imatrix_name))
    return metadata


def _imatrix_metadata(imatrix: Imatrix, name: str) -> dict[str, MetaValue]:
    """llama-quantize's keys (tools/quantize/quantize.cpp), with file names only."""
    found = {
        "quantize.imatrix.file": MetaValue.string(Path(name).name),
        "quantize.imatrix.entries_count": MetaValue.u32(len(imatrix.entries)),
        "quantize.imatrix.chunks_count": MetaValue.u32(imatrix.chunk_count),
    }
    if imatrix.datasets:
        found["quantize.imatrix.dataset"] = MetaValue.string(Path(imatrix.datasets[0]).name)
    return found


def types_hash(types: Mapping[str, str]) -> str:
    """SHA-256, in hex, of a mix: names and types in order of names."""
    lines = "".join(f"{name}={types[name]}\n" for name in sorted(types))
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()
