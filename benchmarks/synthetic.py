"""A model of a real one's shape and seeded heavy-tailed weights: good for timing, for nothing else.

    python benchmarks/synthetic.py {0.5B,1B,8B} OUT.gguf

Llama architecture, BF16. The vocabulary is the built-in model's, so that text can be tokenized, padded to a
realistic size with unused tokens. The file is written slab by slab.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mqnative import builtin
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_layout import GGUFLayout, TensorSlot
from mqnative.formats.gguf_values import MetaType
from mqnative.formats.gguf_writer import write_gguf
from mqnative.formats.qtypes import QType, qtype

SEED = 4711
STUDENT_T_DEGREES = 4.0  # variance is finite, kurtosis is not: outliers as in real weights
_SLAB_WEIGHTS = 8 * 1024 * 1024
_UNUSED_TOKEN = 5  # llama.h, LLAMA_TOKEN_TYPE_UNUSED
_UNUSED_SCORE = -1e6
_TENSOR = tuple[str, tuple[int, ...], QType]


@dataclass(frozen=True)
class Shape:
    """The numbers that decide how long things take."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    tied: bool

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


SHAPES = {
    "0.5B": Shape(24, 896, 4864, 14, 2, 151_936, tied=True),  # Qwen2.5-0.5B
    "1B": Shape(16, 2048, 8192, 32, 8, 128_256, tied=True),  # Llama 3.2 1B
    "8B": Shape(32, 4096, 14336, 32, 8, 128_256, tied=False),  # Llama 3 8B
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.size]
    metadata = model_metadata(arguments.size, shape) | padded_vocabulary(shape.n_vocab)
    layout = GGUFLayout.plan(metadata, tensors(shape))
    write_gguf(arguments.output, layout, write_weights, force=True)


def model_metadata(name: str, shape: Shape) -> dict[str, MetaValue]:
    numbers = {
        "block_count": shape.n_layer,
        "context_length": 4096,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.n_vocab,
    }
    return {
        "general.architecture": MetaValue.string("llama"),
        "general.name": MetaValue.string(f"synthetic {name}"),
        **{f"llama.{key}": MetaValue.u32(n) for key, n in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": MetaValue.f32(1e-5),
    }


def padded_vocabulary(n_vocab: int) -> dict[str, MetaValue]:
    """The built-in model's tokenizer with unused tokens after its own."""
    with GGUFFile.open(builtin.MODEL) as file:
        found = {k: v for k, v in file.metadata.items() if k.startswith("tokenizer.")}
        lists = {key: found[f"tokenizer.ggml.{key}"].plain for key in ("tokens", "scores", "token_type")}
    n_own = len(found["tokenizer.ggml.tokens"].plain)  # type: ignore[arg-type]
    unused = range(n_own, n_vocab)
    padding: dict[str, tuple[MetaType, list[str] | list[float] | list[int]]] = {
        "tokens": (MetaType.STRING, [f"<unused_{i}>" for i in unused]),
        "scores": (MetaType.F32, [_UNUSED_SCORE] * len(unused)),
        "token_type": (MetaType.I32, [_UNUSED_TOKEN] * len(unused)),
    }
    for key, (kind, more) in padding.items():
        own = lists[key]
        assert isinstance(own, list)
        found[f"tokenizer.ggml.{key}"] = MetaValue.array(kind, [*own, *more])
    return found


def tensors(shape: Shape) -> list[_TENSOR]:
    """Names, GGUF shapes (row length first) and types, in file order."""
    n_embd, n_kv = shape.n_embd, shape.n_head_kv * shape.head_dim
    bf16, f32 = qtype("BF16"), qtype("F32")
    found: list[_TENSOR] = [("token_embd.weight", (n_embd, shape.n_vocab), bf16)]
    for layer in range(shape.n_layer):
        blk = f"blk.{layer}."
        found += [
            (f"{blk}attn_norm.weight", (n_embd,), f32),
            (f"{blk}attn_q.weight", (n_embd, n_embd), bf16),
            (f"{blk}attn_k.weight", (n_embd, n_kv), bf16),
            (f"{blk}attn_v.weight", (n_embd, n_kv), bf16),
            (f"{blk}attn_output.weight", (n_embd, n_embd), bf16),
            (f"{blk}ffn_norm.weight", (n_embd,), f32),
            (f"{blk}ffn_gate.weight", (n_embd, shape.n_ff), bf16),
            (f"{blk}ffn_up.weight", (n_embd, shape.n_ff), bf16),
            (f"{blk}ffn_down.weight", (shape.n_ff, n_embd), bf16),
        ]
    if not shape.tied:
        found.append(("output.weight", (n_embd, shape.n_vocab), bf16))
    return [*found, ("output_norm.weight", (n_embd,), f32)]


def write_weights(slot: TensorSlot, out: BinaryIO) -> None:
    """Norms near 1, everything else Student-t of about the size that keeps activations at 1."""
    rng = np.random.default_rng([SEED, *slot.name.encode()])
    if slot.qtype.name == "F32":
        out.write(rng.uniform(0.5, 1.5, slot.shape[0]).astype("<f4").tobytes())
        return
    n_per_row, n_rows = slot.shape
    step = max(1, _SLAB_WEIGHTS // n_per_row)
    for row in range(0, n_rows, step):
        noise = rng.standard_t(STUDENT_T_DEGREES, (min(step, n_rows - row), n_per_row))
        out.write(bf16_bits((noise / np.sqrt(2 * n_per_row)).astype(np.float32)).tobytes())


def bf16_bits(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Finite floats as bfloat16 bits, rounded to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


if __name__ == "__main__":
    main()
