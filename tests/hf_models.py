"""Hugging Face checkpoints made at test time: the built-in model turned back into one, and seeded ones.

They are written byte by byte, so that neither torch nor safetensors nor sentencepiece is needed to make them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mqnative import builtin
from mqnative.formats.gguf import GGUFFile

SEED = 4711
Array = npt.NDArray[Any]


def bf16(x: npt.NDArray[np.float32]) -> Array:
    """Floats as bfloat16 bits, rounded to nearest."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def noise(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Heavy-tailed weights."""
    return (rng.standard_t(4.0, shape) / math.sqrt(2 * shape[-1])).astype(np.float32)


def safetensors_bytes(tensors: Mapping[str, tuple[str, Array]]) -> bytes:
    """A safetensors file: dtype and array by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(a).tobytes() for _, a in tensors.values())
    return len(text).to_bytes(8, "little") + text + data


def stored(x: npt.NDArray[np.float32], dtype: str) -> tuple[str, Array]:
    """An array as a checkpoint stores it."""
    return dtype, {"BF16": bf16, "F16": lambda a: a.astype(np.float16), "F32": lambda a: a}[dtype](x)


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, Array]],
    *,
    n_shards: int = 1,
    tokenizer: bool = True,
) -> Path:
    """Write a folder as the hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        write_tokenizer(folder)
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return folder
    names, weight_map = list(tensors), {}
    for i in range(n_shards):
        file = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        part = names[i::n_shards]
        (folder / file).write_bytes(safetensors_bytes({n: tensors[n] for n in part}))
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


def write_tokenizer(folder: Path) -> None:
    """The built-in model's tokenizer as SentencePiece has it."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    about = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(about | {"add_bos_token": True, "add_eos_token": False, "model_max_length": 2048})
    )


@cache
def sentencepiece_model() -> bytes:
    """The vocabulary of the built-in model as the protocol buffer of a BPE model."""
    with GGUFFile.open(builtin.MODEL) as file:
        tokens, scores, types = (file.get(f"tokenizer.ggml.{k}") for k in ("tokens", "scores", "token_type"))
    out = bytearray()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        piece = _field(1, token.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        out += _field(1, piece)
    trainer = b"\x18\x02" + b"\x98\x02\x01"  # model_type BPE, byte_fallback
    normalizer = (
        _field(1, b"identity") + b"\x18\x01\x20\x00"
    )  # add_dummy_prefix, not remove_extra_whitespaces
    return bytes(out) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(n: int) -> bytes:
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


# ---- The built-in model as its authors would have published it

_QWEN3 = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
}
_QWEN3_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def hf_name(name: str) -> str:
    """A tensor of the built-in model as Hugging Face calls it."""
    if name in _QWEN3:
        return _QWEN3[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{_QWEN3_LAYER[rest]}"


def builtin_checkpoint(folder: Path, *, n_shards: int = 1, dtype: str = "BF16") -> Path:
    """The built-in model as a checkpoint."""
    with GGUFFile.open(builtin.MODEL) as file:
        tensors = {}
        for name in file.tensors:
            array = file.array(name)
            floats = (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array
            tensors[hf_name(name)] = stored(np.ascontiguousarray(floats, np.float32), dtype)
        config = {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": file.get("qwen3.embedding_length"),
            "intermediate_size": file.get("qwen3.feed_forward_length"),
            "num_hidden_layers": file.get("qwen3.block_count"),
            "num_attention_heads": file.get("qwen3.attention.head_count"),
            "num_key_value_heads": file.get("qwen3.attention.head_count_kv"),
            "head_dim": file.get("qwen3.attention.key_length"),
            "max_position_embeddings": file.get("qwen3.context_length"),
            "rms_norm_eps": 1e-6,
            "rope_theta": file.get("qwen3.rope.freq_base"),
            "vocab_size": len(file.get("tokenizer.ggml.tokens")),
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
    return write_checkpoint(folder, config, tensors, n_shards=n_shards)


def llama_config(*, layers: int = 2, heads: int = 4, kv_heads: int = 2, **more: Any) -> dict[str, Any]:
    """A small Llama with tied embeddings."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def mixtral_config(*, experts: int = 4, **more: Any) -> dict[str, Any]:
    """The same as a mixture of experts."""
    about = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    return llama_config(**more) | about | {"num_local_experts": experts, "num_experts_per_tok": 2}


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of `llama_config` or `mixtral_config`, rows last."""
    n, ff, kv = config["hidden_size"], config["intermediate_size"], config["num_key_value_heads"]
    n_kv = n // config["num_attention_heads"] * kv
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], n)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        found |= {
            f"{at}.input_layernorm.weight": (n,),
            f"{at}.post_attention_layernorm.weight": (n,),
            f"{at}.self_attn.q_proj.weight": (n, n),
            f"{at}.self_attn.k_proj.weight": (n_kv, n),
            f"{at}.self_attn.v_proj.weight": (n_kv, n),
            f"{at}.self_attn.o_proj.weight": (n, n),
        }
        if "num_local_experts" not in config:
            mlp = f"{at}.mlp"
            found |= {f"{mlp}.{k}_proj.weight": (ff, n) for k in ("gate", "up")}
            found[f"{mlp}.down_proj.weight"] = (n, ff)
            continue
        moe = f"{at}.block_sparse_moe"
        found[f"{moe}.gate.weight"] = (config["num_local_experts"], n)
        for e in range(config["num_local_experts"]):
            found |= {f"{moe}.experts.{e}.{w}.weight": (ff, n) for w in ("w1", "w3")}
            found[f"{moe}.experts.{e}.w2.weight"] = (n, ff)
    found["model.norm.weight"] = (n,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], n)
    return found


def random_tensors(config: Mapping[str, Any], dtype: str = "BF16") -> dict[str, tuple[str, Array]]:
    """Seeded weights for `llama_config` or `mixtral_config`."""
    rng = np.random.default_rng(SEED)
    found = {}
    for name, shape in tensor_shapes(config).items():
        x = noise(rng, *shape)
        found[name] = stored(x if len(shape) > 1 else 1 + x, dtype)
    return found


def header_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The beginning of a BF16 file of these tensors, and the size of the whole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + end


def vision_checkpoint(folder: Path) -> Path:
    """A small Gemma 3 that sees: a text model, a SigLIP tower, and the projector between them."""
    n, ff, n_vision, patch, side = 256, 512, 64, 14, 56
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": n, "intermediate_size": ff, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 128,
            "max_position_embeddings": 512, "vocab_size": 4096, "rms_norm_eps": 1e-6,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": n_vision, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": side, "patch_size": patch,
        },
        "mm_tokens_per_image": 4, "image_token_index": 4095, "eoi_token_index": 4094, "boi_token_index": 4093,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"language_model.model.embed_tokens.weight": (4096, n)}
    for i in range(2):
        at = f"language_model.model.layers.{i}"
        norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        shapes |= {f"{at}.{k}_layernorm.weight": (n,) for k in norms}
        shapes |= {f"{at}.self_attn.{k}_proj.weight": (256 if k == "q" else 128, n) for k in "qkv"}
        shapes |= {f"{at}.self_attn.{k}_norm.weight": (64,) for k in "qk"}
        shapes |= {f"{at}.self_attn.o_proj.weight": (n, 256), f"{at}.mlp.down_proj.weight": (n, ff)}
        shapes |= {f"{at}.mlp.{k}_proj.weight": (ff, n) for k in ("gate", "up")}
    shapes["language_model.model.norm.weight"] = (n,)
    tower = "vision_tower.vision_model"
    shapes |= {
        f"{tower}.embeddings.patch_embedding.weight": (n_vision, 3, patch, patch),
        f"{tower}.embeddings.patch_embedding.bias": (n_vision,),
        f"{tower}.embeddings.position_embedding.weight": ((side // patch) ** 2, n_vision),
        f"{tower}.post_layernorm.weight": (n_vision,),
        f"{tower}.post_layernorm.bias": (n_vision,),
        "multi_modal_projector.mm_input_projection_weight": (n_vision, n),
        "multi_modal_projector.mm_soft_emb_norm.weight": (n_vision,),
    }
    for i in range(2):
        at = f"{tower}.encoder.layers.{i}"
        for k in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{at}.self_attn.{k}.weight": (n_vision,) * 2, f"{at}.self_attn.{k}.bias": (n_vision,)}
        for k in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}.{k}.weight": (n_vision,), f"{at}.{k}.bias": (n_vision,)}
        shapes |= {f"{at}.mlp.fc1.weight": (128, n_vision), f"{at}.mlp.fc1.bias": (128,)}
        shapes |= {f"{at}.mlp.fc2.weight": (n_vision, 128), f"{at}.mlp.fc2.bias": (n_vision,)}
    rng = np.random.default_rng(SEED)
    write_checkpoint(folder, config, {name: stored(noise(rng, *s), "BF16") for name, s in shapes.items()})
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_seq_length": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder
