"""Small seeded models, one for each thing that can be special about a model.

Their vocabulary is the built-in model's, so that real text can be tokenized; their weights are
heavy-tailed noise, so that types differ in what they lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mqnative import builtin
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_splits import split_name
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.qtypes import QType, qtype

SEED = 4711
STUDENT_T_DEGREES = 4.0  # variance is finite, kurtosis is not: outliers as in real weights
N_VOCAB = 4096
N_EMBD = 256
NORM_EPS = 1e-5

Floats = npt.NDArray[np.float32]
# Weights by name, rows last as in NumPy (the GGUF shape reversed), and the type to store them in.
Tensors = dict[str, tuple[Floats, str]]
ModelParts = tuple[dict[str, MetaValue], Tensors]


def bf16_bits(x: Floats) -> npt.NDArray[np.uint16]:
    """Finite floats as bfloat16 bits, rounded to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_floats(bits: npt.NDArray[np.uint16]) -> Floats:
    """What bfloat16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def heavy_tailed(rng: np.random.Generator, *shape: int) -> Floats:
    """Student-t noise of about the size that keeps activations at 1: 1 / sqrt(row length)."""
    return (rng.standard_t(STUDENT_T_DEGREES, shape) / np.sqrt(2 * shape[-1])).astype(np.float32)


def write_model(
    path: Path, metadata: Mapping[str, MetaValue], tensors: Mapping[str, tuple[Any, str]]
) -> Path:
    """Write arrays as a GGUF file; float32 arrays are stored as the type beside them."""
    order = [(name, array.shape[::-1], qtype(kind)) for name, (array, kind) in tensors.items()]

    def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
        out.write(stored_bytes(tensors[slot.name][0], slot.qtype))

    write_gguf(path, GGUFLayout.plan(metadata, order), write_tensor)
    return path


def stored_bytes(array: Floats, kind: QType) -> bytes:
    """The bytes of float32 weights in an unquantized type."""
    stored = {
        "F32": lambda: array,
        "F16": lambda: array.astype(np.float16),
        "BF16": lambda: bf16_bits(array),
    }
    return stored[kind.name]().tobytes()


def tokenizer_metadata() -> dict[str, MetaValue]:
    """The vocabulary of the built-in model."""
    with GGUFFile.open(builtin.MODEL) as file:
        return {k: v for k, v in file.metadata.items() if k.startswith("tokenizer.")}


class TinyModels:
    """Paths of the models; each is written when it is first asked for.

    Attributes:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def dense(self) -> Path:
        """Llama, tied embeddings (no output.weight) in F32, everything else BF16."""
        return self.write("dense", llama_model(n_embd=N_EMBD, n_ff=512, n_head=4, n_head_kv=2))

    @cached_property
    def moe(self) -> Path:
        """Qwen3 MoE in F16: 8 experts of which 2 work, 3-D weights, routers."""
        return self.write("moe", moe_model())

    @cached_property
    def sliding(self) -> Path:
        """Gemma 2: every other layer sees only the last SLIDING_WINDOW tokens."""
        return self.write("sliding", sliding_model())

    @cached_property
    def latent(self) -> Path:
        """DeepSeek 2: attention over latent vectors (MLA), a dense layer, then experts and a shared one."""
        return self.write("latent", latent_model())

    @cached_property
    def odd_rows(self) -> Path:
        """Llama whose rows (320 and 352) are multiples of 32, but not of 256."""
        return self.write("odd-rows", llama_model(n_embd=320, n_ff=352, n_head=5, n_head_kv=5))

    @cached_property
    def recurrent(self) -> Path:
        """Mamba: state space layers, no attention."""
        return self.write("recurrent", recurrent_model())

    @cached_property
    def split(self) -> Path:
        """The built-in model in SPLIT_PARTS files; the path of the first."""
        return _write_split(self.folder / "builtin")

    def write(self, stem: str, model: ModelParts) -> Path:
        """Another model, given its metadata (without a tokenizer) and its tensors."""
        metadata, tensors = model
        return write_model(self.folder / f"{stem}.gguf", {**metadata, **tokenizer_metadata()}, tensors)


SLIDING_WINDOW = 16
SPLIT_PARTS = 3
N_EXPERT, N_EXPERT_USED, N_FF_EXPERT = 8, 2, 256
_HEAD_DIM = 64


def _common(arch: str, **numbers: float) -> dict[str, MetaValue]:
    values = {
        key: MetaValue.f32(n) if isinstance(n, float) else MetaValue.u32(n) for key, n in numbers.items()
    }
    return {
        "general.architecture": MetaValue.string(arch),
        "general.name": MetaValue.string(f"tiny {arch}"),
        **{f"{arch}.{key}": value for key, value in values.items()},
    }


def _attention(
    rng: np.random.Generator, layer: int, n_embd: int, n_head: int, n_head_kv: int, kind: str
) -> Tensors:
    blk = f"blk.{layer}."
    return {
        f"{blk}attn_norm.weight": (_near_one(rng, n_embd), "F32"),
        f"{blk}attn_q.weight": (heavy_tailed(rng, n_head * _HEAD_DIM, n_embd), kind),
        f"{blk}attn_k.weight": (heavy_tailed(rng, n_head_kv * _HEAD_DIM, n_embd), kind),
        f"{blk}attn_v.weight": (heavy_tailed(rng, n_head_kv * _HEAD_DIM, n_embd), kind),
        f"{blk}attn_output.weight": (heavy_tailed(rng, n_embd, n_head * _HEAD_DIM), kind),
        f"{blk}ffn_norm.weight": (_near_one(rng, n_embd), "F32"),
    }


def _feed_forward(rng: np.random.Generator, layer: int, n_embd: int, n_ff: int, kind: str) -> Tensors:
    blk = f"blk.{layer}."
    return {
        f"{blk}ffn_gate.weight": (heavy_tailed(rng, n_ff, n_embd), kind),
        f"{blk}ffn_up.weight": (heavy_tailed(rng, n_ff, n_embd), kind),
        f"{blk}ffn_down.weight": (heavy_tailed(rng, n_embd, n_ff), kind),
    }


def _near_one(rng: np.random.Generator, n: int) -> Floats:
    return rng.uniform(0.5, 1.5, n).astype(np.float32)


def llama_model(n_embd: int, n_ff: int, n_head: int, n_head_kv: int, n_layer: int = 2) -> ModelParts:
    rng = np.random.default_rng([SEED, n_embd])
    metadata = _common(
        "llama",
        **{
            "block_count": n_layer,
            "context_length": 2048,
            "embedding_length": n_embd,
            "feed_forward_length": n_ff,
            "attention.head_count": n_head,
            "attention.head_count_kv": n_head_kv,
            "attention.layer_norm_rms_epsilon": NORM_EPS,
            "rope.dimension_count": _HEAD_DIM,
        },
    )
    embedding = heavy_tailed(rng, N_VOCAB, n_embd)
    tensors: Tensors = {"token_embd.weight": (embedding, "F32" if n_embd == N_EMBD else "BF16")}
    for layer in range(n_layer):
        tensors |= _attention(rng, layer, n_embd, n_head, n_head_kv, "BF16")
        tensors |= _feed_forward(rng, layer, n_embd, n_ff, "BF16")
    return metadata, tensors | {"output_norm.weight": (_near_one(rng, n_embd), "F32")}


def moe_model(n_layer: int = 2) -> ModelParts:
    rng = np.random.default_rng([SEED, 1])
    metadata = _common(
        "qwen3moe",
        **{
            "block_count": n_layer,
            "context_length": 2048,
            "embedding_length": N_EMBD,
            "feed_forward_length": 2 * N_FF_EXPERT,
            "expert_feed_forward_length": N_FF_EXPERT,
            "expert_count": N_EXPERT,
            "expert_used_count": N_EXPERT_USED,
            "attention.head_count": 4,
            "attention.head_count_kv": 2,
            "attention.key_length": _HEAD_DIM,
            "attention.value_length": _HEAD_DIM,
            "attention.layer_norm_rms_epsilon": NORM_EPS,
            "rope.freq_base": 10000.0,
        },
    )
    tensors: Tensors = {"token_embd.weight": (heavy_tailed(rng, N_VOCAB, N_EMBD), "F16")}
    for layer in range(n_layer):
        blk = f"blk.{layer}."
        tensors |= _attention(rng, layer, N_EMBD, 4, 2, "F16")
        tensors |= {
            f"{blk}attn_q_norm.weight": (_near_one(rng, _HEAD_DIM), "F32"),
            f"{blk}attn_k_norm.weight": (_near_one(rng, _HEAD_DIM), "F32"),
            f"{blk}ffn_gate_inp.weight": (heavy_tailed(rng, N_EXPERT, N_EMBD), "F32"),
        }
        for role in ("gate", "up", "down"):
            experts = heavy_tailed(rng, N_EXPERT, N_FF_EXPERT, N_EMBD)  # both lengths are 256
            tensors[f"{blk}ffn_{role}_exps.weight"] = (experts, "F16")
    return metadata, tensors | {"output_norm.weight": (_near_one(rng, N_EMBD), "F32")}


def sliding_model(n_layer: int = 2) -> ModelParts:
    rng = np.random.default_rng([SEED, 2])
    metadata = _common(
        "gemma2",
        **{
            "block_count": n_layer,
            "context_length": 2048,
            "embedding_length": N_EMBD,
            "feed_forward_length": 512,
            "attention.head_count": 4,
            "attention.head_count_kv": 2,
            "attention.key_length": _HEAD_DIM,
            "attention.value_length": _HEAD_DIM,
            "attention.layer_norm_rms_epsilon": NORM_EPS,
            "attention.sliding_window": SLIDING_WINDOW,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    )
    tensors: Tensors = {"token_embd.weight": (heavy_tailed(rng, N_VOCAB, N_EMBD), "BF16")}
    for layer in range(n_layer):
        blk = f"blk.{layer}."
        tensors |= _attention(rng, layer, N_EMBD, 4, 2, "BF16")
        tensors |= _feed_forward(rng, layer, N_EMBD, 512, "BF16")
        tensors |= {
            f"{blk}post_attention_norm.weight": (_near_one(rng, N_EMBD), "F32"),
            f"{blk}post_ffw_norm.weight": (_near_one(rng, N_EMBD), "F32"),
        }
    return metadata, tensors | {"output_norm.weight": (_near_one(rng, N_EMBD), "F32")}


def latent_model(n_layer: int = 3) -> ModelParts:
    rng = np.random.default_rng([SEED, 4])
    n_head, kv_rank, q_rank, n_rope, n_nope, n_value = 4, 128, 96, 32, 64, 64
    metadata = _common(
        "deepseek2",
        **{
            "block_count": n_layer,
            "context_length": 2048,
            "embedding_length": N_EMBD,
            "feed_forward_length": 512,
            "leading_dense_block_count": 1,
            "expert_feed_forward_length": N_FF_EXPERT,
            "expert_count": N_EXPERT,
            "expert_used_count": N_EXPERT_USED,
            "expert_shared_count": 1,
            "attention.head_count": n_head,
            "attention.head_count_kv": 1,
            "attention.key_length": kv_rank + n_rope,
            "attention.value_length": kv_rank,
            "attention.key_length_mla": n_nope + n_rope,
            "attention.value_length_mla": n_value,
            "attention.q_lora_rank": q_rank,
            "attention.kv_lora_rank": kv_rank,
            "attention.layer_norm_rms_epsilon": NORM_EPS,
            "rope.dimension_count": n_rope,
            "rope.freq_base": 10000.0,
        },
    )
    tensors: Tensors = {"token_embd.weight": (heavy_tailed(rng, N_VOCAB, N_EMBD), "BF16")}
    for layer in range(n_layer):
        blk = f"blk.{layer}."
        tensors |= {
            f"{blk}attn_norm.weight": (_near_one(rng, N_EMBD), "F32"),
            f"{blk}attn_q_a_norm.weight": (_near_one(rng, q_rank), "F32"),
            f"{blk}attn_kv_a_norm.weight": (_near_one(rng, kv_rank), "F32"),
            f"{blk}attn_q_a.weight": (heavy_tailed(rng, q_rank, N_EMBD), "BF16"),
            f"{blk}attn_q_b.weight": (heavy_tailed(rng, n_head * (n_nope + n_rope), q_rank), "BF16"),
            f"{blk}attn_kv_a_mqa.weight": (heavy_tailed(rng, kv_rank + n_rope, N_EMBD), "BF16"),
            f"{blk}attn_k_b.weight": (heavy_tailed(rng, n_head, kv_rank, n_nope), "BF16"),
            f"{blk}attn_v_b.weight": (heavy_tailed(rng, n_head, n_value, kv_rank), "BF16"),
            f"{blk}attn_output.weight": (heavy_tailed(rng, N_EMBD, n_head * n_value), "BF16"),
            f"{blk}ffn_norm.weight": (_near_one(rng, N_EMBD), "F32"),
        }
        if layer == 0:
            tensors |= _feed_forward(rng, layer, N_EMBD, 512, "BF16")
            continue
        tensors[f"{blk}ffn_gate_inp.weight"] = (heavy_tailed(rng, N_EXPERT, N_EMBD), "F32")
        for role in ("gate", "up", "down"):
            tensors[f"{blk}ffn_{role}_exps.weight"] = (
                heavy_tailed(rng, N_EXPERT, N_FF_EXPERT, N_EMBD),
                "BF16",
            )
            tensors[f"{blk}ffn_{role}_shexp.weight"] = (heavy_tailed(rng, N_FF_EXPERT, N_EMBD), "BF16")
    return metadata, tensors | {"output_norm.weight": (_near_one(rng, N_EMBD), "F32")}


def recurrent_model(n_layer: int = 2) -> ModelParts:
    rng = np.random.default_rng([SEED, 3])
    n_inner, n_state, n_rank, n_conv = 2 * N_EMBD, 16, 32, 4
    metadata = _common(
        "mamba",
        **{
            "block_count": n_layer,
            "context_length": 2048,
            "embedding_length": N_EMBD,
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "attention.layer_norm_rms_epsilon": NORM_EPS,
            "ssm.conv_kernel": n_conv,
            "ssm.inner_size": n_inner,
            "ssm.state_size": n_state,
            "ssm.time_step_rank": n_rank,
        },
    )
    tensors: Tensors = {"token_embd.weight": (heavy_tailed(rng, N_VOCAB, N_EMBD), "BF16")}
    for layer in range(n_layer):
        blk = f"blk.{layer}."
        tensors |= {
            f"{blk}attn_norm.weight": (_near_one(rng, N_EMBD), "F32"),
            f"{blk}ssm_in.weight": (heavy_tailed(rng, 2 * n_inner, N_EMBD), "BF16"),
            f"{blk}ssm_conv1d.weight": (heavy_tailed(rng, n_inner, n_conv), "F32"),
            f"{blk}ssm_conv1d.bias": (heavy_tailed(rng, n_inner), "F32"),
            f"{blk}ssm_x.weight": (heavy_tailed(rng, n_rank + 2 * n_state, n_inner), "BF16"),
            f"{blk}ssm_dt.weight": (heavy_tailed(rng, n_inner, n_rank), "BF16"),
            f"{blk}ssm_dt.bias": (heavy_tailed(rng, n_inner), "F32"),
            f"{blk}ssm_a": (-rng.uniform(0.1, 2, (n_inner, n_state)).astype(np.float32), "F32"),
            f"{blk}ssm_d": (_near_one(rng, n_inner), "F32"),
            f"{blk}ssm_out.weight": (heavy_tailed(rng, N_EMBD, n_inner), "BF16"),
        }
    return metadata, tensors | {"output_norm.weight": (_near_one(rng, N_EMBD), "F32")}


def _write_split(stem: Path) -> Path:
    with GGUFFile.open(builtin.MODEL) as file:
        names = list(file.tensors)
        for part in range(SPLIT_PARTS):
            own = names[part::SPLIT_PARTS]
            metadata = dict(file.metadata) if part == 0 else {}
            metadata |= {
                "split.no": MetaValue.u16(part),
                "split.count": MetaValue.u16(SPLIT_PARTS),
                "split.tensors.count": MetaValue.i32(len(names)),
            }
            layout = GGUFLayout.plan(
                metadata, [(n, file.tensors[n].shape, file.tensors[n].qtype) for n in own]
            )

            def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
                out.write(file.data(slot.name).tobytes())

            write_gguf(stem.with_name(split_name(stem.name, part, SPLIT_PARTS)), layout, write_tensor)
    return stem.with_name(split_name(stem.name, 0, SPLIT_PARTS))
