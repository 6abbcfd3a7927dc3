"""llama.cpp's file types: what each would do to a model, from llama.cpp's own code.

A preset's exact types come from the dry run of llama_model_quantize on the model's header, so that they hold
for every architecture upstream knows, with and without an imatrix.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, forward_log, thread_count
from mqnative.core.quantize import progress
from mqnative.errors import UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype, types_by_id

# Names that llama-quantize accepts for another preset (tools/quantize/quantize.cpp, QUANT_OPTIONS).
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


@dataclass(frozen=True)
class Preset:
    """A file type: its number in ``general.file_type``, its name, and the type of most of its tensors."""

    ftype: int
    name: str
    default_type: str


@cache
def presets() -> dict[str, Preset]:
    """Every file type that llama_model_quantize accepts, by name."""
    types = types_by_id()
    found = (Preset(p["ftype"], p["name"], types[p["default_type"]].name) for p in core().presets())
    return {p.name: p for p in found}


def preset(name: str) -> Preset:
    """The preset called ``name``, in any case; Q4_K means Q4_K_M, as in llama-quantize.

    Raises:
        UnsupportedTypeError: no such preset; the message lists them.
    """
    upper = name.upper()
    found = presets().get(_ALIASES.get(upper, upper))
    if found is None:
        raise UnsupportedTypeError(
            f"unknown preset {name!r}; known presets: {', '.join(presets())}",
            qtype=name,
            reason="unknown preset",
            allowed=tuple(presets()),
        )
    return found


def preset_types(model: str | Path, name: str, *, with_imatrix: bool) -> dict[str, str]:
    """The type of every tensor of ``model`` under a preset, without quantizing anything.

    Args:
        model: a GGUF file, the first part of a split one; only its header is read.
        name: the preset.
        with_imatrix: whether an imatrix would be given, which changes some presets' choices.

    Returns:
        tensor name -> type name, row-size fallbacks applied, untouchable tensors at their own type.

    Raises:
        GGUFError: the file is damaged.
        QuantizeError: llama.cpp does not know the architecture.
    """
    return _plan(model, preset(name), {}, with_imatrix=with_imatrix)


def override_types(model: str | Path, types: Mapping[str, str]) -> dict[str, str]:
    """What llama.cpp would make of a mix: fallbacks for rows that do not fit, untouchable tensors kept.

    Args:
        model: a GGUF file.
        types: tensor name -> type, for every tensor that is to change.

    Raises:
        GGUFError, QuantizeError: as `preset_types`; also for a type without a fallback for a tensor's rows.
    """
    return _plan(model, preset("Q8_0"), types, with_imatrix=True)


def _plan(model: str | Path, p: Preset, types: Mapping[str, str], *, with_imatrix: bool) -> dict[str, str]:
    with GGUFFile.open(model) as file:
        path = file.paths[0]
    if not types:
        # A study asks for every preset again and again, and a large vocabulary takes long to read.
        status = path.stat()
        return dict(_remembered(path, status.st_size, status.st_mtime_ns, p.ftype, with_imatrix))
    return _dry_run(path, p.ftype, types, with_imatrix=with_imatrix)


@lru_cache(maxsize=256)
def _remembered(path: Path, _size: int, _mtime_ns: int, ftype: int, with_imatrix: bool) -> Mapping[str, str]:
    return _dry_run(path, ftype, {}, with_imatrix=with_imatrix)


def _dry_run(path: Path, ftype: int, types: Mapping[str, str], *, with_imatrix: bool) -> dict[str, str]:
    # Upstream asks only whether there is an imatrix; its content plays no part in the choice.
    imatrix = {"any": np.ones(1, np.float32)} if with_imatrix else {}
    pairs = [(name, qtype(t).id) for name, t in types.items()]
    plan = core().upstream_plan(os.fsencode(path), ftype, bool(types), pairs, imatrix)
    forward_log()
    known = types_by_id()
    return {name: known[t].name for name, t in plan.items()}


def quantizable(architecture: str, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, bool]:
    """Whether llama-quantize may change each tensor: tensor name -> GGUF shape in, verdicts out.

    Raises:
        ModelLoadError: llama.cpp does not know the architecture.

    Source: src/llama-quant.cpp, tensor_allows_quantization.
    """
    shapes = [(name, _n_dims(shape)) for name, shape in tensors.items()]
    verdicts = core().allows_quantization(architecture, shapes)
    return dict(zip(tensors, verdicts, strict=True))


def _n_dims(shape: tuple[int, ...]) -> int:
    """Dimensions that count for ggml: trailing ones do not."""
    return max((i + 1 for i, n in enumerate(shape) if n > 1), default=1)


def requires_imatrix(name: str, target: str, *, ftype: int | None = None) -> bool:
    """Whether upstream refuses to write this tensor at this type without importances.

    Its driver is stricter than its kernels, except for the embedding and the head, where only the kernels'
    own needs count.

    Source: src/llama-quant.cpp, tensor_requires_imatrix; ggml.c, ggml_quantize_requires_imatrix.
    """
    wanted = qtype(target)
    if wanted.needs_imatrix:
        return True
    if name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight"):
        return False
    q2_k_s = ftype == presets()["Q2_K_S"].ftype
    return wanted.name in ("IQ3_XXS", "IQ2_S", "IQ1_M") or (wanted.name == "Q2_K" and q2_k_s)


def upstream_quantize(
    model: str | Path,
    output: str | Path,
    name: str,
    *,
    types: Mapping[str, str] | None = None,
    imatrix: Mapping[str, npt.NDArray[np.float32]] | None = None,
    pure: bool = False,
    allow_requantize: bool = False,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> None:
    """llama_model_quantize itself, with per-tensor types, progress and cancel.

    The ordinary way to write a file is `mqnative.build`; this one is for comparison. A run that is stopped or
    fails leaves a partial ``output``.

    Args:
        model: a GGUF file.
        output: where to write.
        name: the preset (ftype).
        types: exact tensor name -> type, over the preset's choice.
        imatrix: normalised importances by tensor name.
        pure: every tensor not in ``types`` at the preset's default type.
        allow_requantize: accept a source that is quantized already.
        n_threads: default all usable processors.
        monitor: told the tensors done.

    Raises:
        QuantizeError: upstream refused; its last words are in the message.
        OperationCancelled: takes effect at the next tensor.
    """
    with GGUFFile.open(model) as file:
        path = file.paths[0]
        monitor.start("llama_model_quantize", len(file.tensors), "tensors")
    flat = {n: np.ascontiguousarray(w, np.float32).reshape(-1) for n, w in (imatrix or {}).items()}
    pairs = [(n, qtype(t).id) for n, t in (types or {}).items()]
    core().upstream_quantize(
        os.fsencode(path),
        os.fsencode(output),
        preset(name).ftype,
        pure,
        allow_requantize,
        pairs,
        flat,
        thread_count(n_threads),
        progress(monitor),
    )
    monitor.finish()
    forward_log()
