"""The weights whose quantized bytes are kept in golden/quantized_bytes.json.

They come from a hash function and exact arithmetic only, so that every NumPy on every machine makes the
same bits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mqnative.formats.gguf import MetaType, MetaValue
from tiny_models import Floats, Tensors, bf16_bits, bf16_floats, write_model

SEED = "mqnative golden 1"

# Shapes are rows last; both row lengths hold whole blocks of every type.
SHAPES = {
    "blk.0.attn_q.weight": ((24, 256), "F32"),
    "blk.0.ffn_up.weight": ((20, 512), "F16"),
    "blk.0.ffn_down.weight": ((20, 512), "BF16"),
    "blk.0.ffn_gate_exps.weight": ((3, 8, 256), "F32"),
}


def uniform(label: str, n: int) -> npt.NDArray[np.float64]:
    """n numbers in [0, 1), 24 bits each, that depend on the label alone."""
    words = np.frombuffer(hashlib.shake_256(f"{SEED}/{label}".encode()).digest(4 * n), "<u4")
    return (words >> 8).astype(np.float64) / 2**24


def golden_tensors() -> dict[str, Floats]:
    """Weights by name, float32, already rounded to the type that the file stores them in."""
    tensors = {}
    for name, (shape, kind) in SHAPES.items():
        centred = 2 * uniform(name, int(np.prod(shape))) - 1
        # Division makes the tails heavy: the quantiles are those of u / (1.02 - |u|), up to 50.
        weights = (0.02 * centred / (1.02 - np.abs(centred))).astype(np.float32).reshape(shape)
        rows = weights.reshape(-1, shape[-1])
        rows[0] = 0.0  # nothing
        rows[1] = 0.25  # all alike
        rows[2] *= np.float32(2.0**-14)  # 16-bit scales become subnormal
        rows[3, ::2] = 0.0  # sparse
        rows[4, 7] = 8.0  # one outlier
        tensors[name] = _rounded(weights, kind)
    return tensors


def golden_imatrix() -> dict[str, Floats]:
    """Importances by name, shape (slices, row length), for every tensor of the set."""
    importances = {}
    for name, (shape, _) in SHAPES.items():
        n_slices = shape[0] if len(shape) == 3 else 1
        u = uniform(f"{name} imatrix", n_slices * shape[-1])
        values = (u / (1.02 - u)).astype(np.float32).reshape(n_slices, shape[-1])
        values[:, 5] = 0.0  # a channel that was never active
        importances[name] = values
    return importances


def _rounded(weights: Floats, kind: str) -> Floats:
    if kind == "F16":
        return weights.astype(np.float16).astype(np.float32)
    return bf16_floats(bf16_bits(weights)) if kind == "BF16" else weights


def write_golden_model(path: Path) -> Path:
    """A GGUF with the tensors, enough of one for llama-quantize (which does not evaluate it)."""
    numbers = {
        "context_length": 512,
        "embedding_length": 256,
        "block_count": 1,
        "feed_forward_length": 512,
        "attention.head_count": 4,
        "rope.dimension_count": 64,
    }
    metadata = {
        "general.architecture": MetaValue.string("llama"),
        **{f"llama.{key}": MetaValue.u32(n) for key, n in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": MetaValue.f32(1e-5),
    }
    tensors: Tensors = {n: (w, SHAPES[n][1]) for n, w in golden_tensors().items()}
    return write_model(path, metadata, tensors)


def write_golden_imatrix(path: Path) -> Path:
    """The importances as llama-imatrix would store them, with counts of 1."""
    metadata = {
        "general.type": MetaValue.string("imatrix"),
        "imatrix.datasets": MetaValue.array(MetaType.STRING, [SEED]),
        "imatrix.chunk_count": MetaValue.u32(1),
        "imatrix.chunk_size": MetaValue.u32(512),
    }
    tensors: Tensors = {}
    for name, values in golden_imatrix().items():
        tensors[f"{name}.in_sum2"] = (values, "F32")
        tensors[f"{name}.counts"] = (np.ones((len(values), 1), np.float32), "F32")
    return write_model(path, metadata, tensors)


def sha256(data: npt.NDArray[np.generic] | bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).hexdigest()
