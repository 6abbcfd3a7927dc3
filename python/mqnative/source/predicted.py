"""The GGUF tensors that a checkpoint would become, told from names and shapes alone.

What every model has is done here: upstream's table of names, experts that are stacked, gate and up that are
split, packed weights that are unpacked. What single models do besides (fusing, dropping, transposing some
tensor) only the converter knows, so that this is a forecast: whatever it cannot name is listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mqnative.formats.gguf_rules import name_fault
from mqnative.formats.safetensors import StoredTensor
from mqnative.source.converter_tree import tensor_names

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_SKIPPED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
# Names of parts for images and sound, see `TextModel.filter_tensors`.
_OTHER_PARTS = (
    "visual.", "vision.", "audio.", "talker.", "vision_", "audio_", "token2wav.", "code2wav.", "projector.",
    "pre_mm_projector_norm", "image_newline", "view_seperator", "patch_embed", "patch_merger.",
    "model.connector.",
)  # fmt: skip
_OTHER_STARTS = (
    "mlp", "vit.", "vpm.", "siglip2.", "conformer.", "merger.", "resampler.", "sound_encoder.",
    "sound_projection.", "speech_embeddings.",
)  # fmt: skip
# What stands beside packed weights and goes into them.
_SCALES = (
    ".weight_scale_inv", ".weight_scale", ".weight_scale_2", ".input_scale", ".activation_scale", ".qzeros",
    ".scales", ".g_idx", ".weight_shape", ".weight_zero_point", ".k_scale", ".v_scale",
)  # fmt: skip
_PACKED = (".qweight", ".weight_packed")
_SUFFIXES = (".weight", ".bias")
# Always single precision, see `ModelBase.prepare_tensors`.
_SINGLE = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight",
           "ssm_conv1d.weight", "shortconv.conv.weight")  # fmt: skip


@dataclass(frozen=True)
class PredictedTensor:
    """A tensor of the file that a conversion would write.

    Attributes:
        name: in GGUF.
        shape: row length first.
        type: it would be stored in.
        sources: the tensors of the checkpoint it is made of.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    sources: tuple[StoredTensor, ...]


@dataclass(frozen=True)
class Prediction:
    """A forecast.

    Attributes:
        tensors: of the text model, in the checkpoint's order.
        others: tensors of parts for images or sound.
        unknown: tensors that upstream's table has no name for; they may be left out, or be made into others.
    """

    tensors: tuple[PredictedTensor, ...]
    others: tuple[StoredTensor, ...]
    unknown: tuple[StoredTensor, ...]


def predict_tensors(
    stored: Iterable[StoredTensor], architecture: str, n_blocks: int, outtype: str, config: Mapping[str, Any]
) -> Prediction:
    """Forecast what the converter would write.

    Args:
        stored: the checkpoint's tensors.
        architecture: llama.cpp's name for the model.
        n_blocks: its layers.
        outtype: bf16, f16 or f32, of weights.
        config: ``config.json``, for how packed weights are packed.
    """
    names = tensor_names(architecture, max(1, n_blocks))
    bits = _packed_bits(config)
    found: dict[str, list[tuple[StoredTensor, tuple[int, ...]]]] = {}
    others, unknown = [], []
    for tensor in stored:
        key = _plain_name(tensor.name)
        if _is_other(tensor.name):
            others.append(tensor)
            continue
        if key.endswith(_SKIPPED) or key.endswith(_SCALES):
            continue
        shape = tensor.shape
        if key.endswith(_PACKED):
            key = key.rpartition(".")[0] + ".weight"
            shape = _unpacked(tensor, bits)
        for part, part_shape in _split(key, shape):
            name = names.get_name(_EXPERT.sub(".experts.", part), try_suffixes=_SUFFIXES)
            if name is None or name_fault(name.encode()):
                unknown.append(tensor)
                break
            found.setdefault(name, []).append((tensor, part_shape))
    tensors = [_tensor(name, parts, outtype) for name, parts in found.items()]
    return Prediction(tuple(t for t in tensors if t is not None), tuple(others), tuple(unknown))


def _tensor(
    name: str, parts: Sequence[tuple[StoredTensor, tuple[int, ...]]], outtype: str
) -> PredictedTensor | None:
    shape = parts[0][1]
    experts = len(parts) > 1 or _EXPERT.search(parts[0][0].name) is not None
    if experts and "_exps" in name:
        shape = (len(parts), *shape)
    stored = tuple(p for p, _ in parts)
    shape = tuple(reversed(shape)) or (1,)
    if not all(shape):
        return None
    single = len(shape) <= 1 or name.endswith(("_norm.weight", *_SINGLE)) or not name.endswith(".weight")
    return PredictedTensor(name, shape, "F32" if single else outtype.upper(), stored)


def _plain_name(name: str) -> str:
    name = name.replace("language_model.", "")
    return name.replace("e_score_correction_bias", "e_score_correction.bias")


def _is_other(name: str) -> bool:
    return name.startswith(_OTHER_STARTS) or any(part in name for part in _OTHER_PARTS)


def _split(key: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Gate and up in one tensor of experts become two."""
    base = key.removesuffix(".weight")
    if not base.endswith(".experts.gate_up_proj") or len(shape) != 3 or shape[1] % 2:
        return [(key if key.endswith(_SUFFIXES) or len(shape) < 2 else f"{key}.weight", shape)]
    base = base.removesuffix("gate_up_proj")
    half = (shape[0], shape[1] // 2, shape[2])
    return [(f"{base}gate_proj.weight", half), (f"{base}up_proj.weight", half)]


def _packed_bits(config: Mapping[str, Any]) -> int:
    about = config.get("quantization_config")
    bits = about.get("bits") if isinstance(about, dict) else None
    return bits if isinstance(bits, int) and bits in (2, 3, 4, 8) else 4


def _unpacked(tensor: StoredTensor, bits: int) -> tuple[int, ...]:
    """The shape of weights that are packed into 32-bit numbers."""
    if len(tensor.shape) != 2:
        return tensor.shape
    rows, columns = tensor.shape
    if tensor.name.endswith(".qweight"):  # GPTQ: packed along the inputs, and transposed
        return columns, rows * 32 // bits
    return rows, columns * 32 // bits
