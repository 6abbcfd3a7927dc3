"""``mqnative inspect`` of folders and of repositories on a hub: everything from headers, nothing paid for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_process import DONE, FAILED, Finished, mqnative, succeed
from hf_models import (
    builtin_checkpoint,
    header_of,
    llama_config,
    mixtral_config,
    random_tensors,
    tensor_shapes,
    write_checkpoint,
)
from hub_content import Content, sparse
from hub_server import HubServer
from mqnative import builtin
from mqnative.core.presets import preset_types, presets
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_layout import GGUFLayout
from mqnative.formats.qtypes import qtype
from mqnative.source.outline import without_vocabulary
from tiny_models import TinyModels

GIGABYTE = 10**9


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def env(hub: HubServer, folder: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": ""}


def seen(hub: HubServer, folder: Path, *arguments: str) -> Any:
    done = mqnative("inspect", *arguments, "--json", env=env(hub, folder))
    assert done.code == DONE, done.err
    return done.json


def test_a_folder_is_seen_as_its_conversion_would_be(tmp_path: Path) -> None:
    found = succeed("inspect", builtin_checkpoint(tmp_path / "m", n_shards=2), "--json").json
    with GGUFFile.open(builtin.MODEL) as model:
        expected = {n: (list(t.shape), t.qtype.name, t.size_bytes) for n, t in model.tensors.items()}
        assert {t["name"]: (t["shape"], t["type"], t["size_bytes"]) for t in found["tensors"]} == expected
        assert found["n_weights"] == found["n_active_weights"] == model.n_weights
        assert found["architecture"] == model.architecture
        for preset in found["presets"]:
            types = preset_types(builtin.MODEL, preset["name"], with_imatrix=True)
            size = sum(qtype(types[t.name]).tensor_bytes(t.shape) for t in model.tensors.values())
            assert preset["tensor_bytes"] == size, preset["name"]
    assert {p["name"] for p in found["presets"]} == set(presets())
    # 8 layers, 2 heads of keys and of values, 64 numbers each, 2 bytes
    assert found["kv_bytes_per_token"] == 8 * 2 * 2 * 64 * 2
    assert found["kind"] == "safetensors"
    assert found["hf_architecture"] == "Qwen3ForCausalLM"
    assert found["config"]["num_hidden_layers"] == 8
    assert found["tokenizer"]["tokenizer_class"] == "LlamaTokenizer"
    assert found["tokenizer"]["bos_token"] == "<s>"
    assert len(found["checkpoint_tensors"]) == len(found["tensors"])
    query = next(t for t in found["tensors"] if t["name"] == "blk.0.attn_q.weight")
    assert query["source_types"] == ["BF16"]
    assert {"Q4_K", "IQ2_XS", "Q8_0"} <= set(query["target_types"])
    norm = next(t for t in found["tensors"] if t["name"] == "output_norm.weight")
    assert norm["target_types"] == []


def test_a_mixture_tells_what_is_active(tmp_path: Path) -> None:
    config = mixtral_config(experts=8)
    found = succeed(
        "inspect", write_checkpoint(tmp_path / "m", config, random_tensors(config)), "--json"
    ).json
    shapes = tensor_shapes(config)
    total = sum(a * (b[0] if b else 1) for a, *b in shapes.values())
    experts = 2 * 8 * 3 * 256 * 512
    assert found["n_weights"] == total
    assert found["n_active_weights"] == total - experts * 6 // 8
    stacked = next(t for t in found["tensors"] if t["name"] == "blk.1.ffn_down_exps.weight")
    assert stacked["shape"] == [512, 256, 8]


def test_rows_that_fill_no_block_limit_the_types(tmp_path: Path) -> None:
    config = llama_config(heads=3, kv_heads=3) | {"hidden_size": 96, "intermediate_size": 160}
    found = succeed(
        "inspect", write_checkpoint(tmp_path / "m", config, random_tensors(config)), "--json"
    ).json
    types = {t["name"]: t["target_types"] for t in found["tensors"]}
    listed = {p["name"] for p in found["presets"]}
    assert {"Q4_K_M", "Q8_0"} <= listed
    assert "Q1_0" not in listed  # which has no substitute for such rows
    assert "Q4_K" not in types["blk.0.attn_q.weight"]
    assert {"Q8_0", "Q4_0", "IQ4_NL", "F16"} <= set(types["blk.0.ffn_down.weight"])


def big(config: dict[str, Any], n_shards: int, **more: Any) -> dict[str, bytes | str | Content]:
    """A repository whose weights are holes."""
    shapes = tensor_shapes(config)
    names = list(shapes)
    files: dict[str, bytes | str | Content] = {
        "config.json": json.dumps(config),
        "tokenizer.json": "{" + " " * 12_000_000 + "}",
        **more,
    }
    weight_map: dict[str, str] = {}
    for i in range(n_shards):
        part = names[i * len(names) // n_shards : (i + 1) * len(names) // n_shards]
        file = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        head, size = header_of({n: shapes[n] for n in part})
        files[file] = sparse(head, size)
        weight_map |= dict.fromkeys(part, file)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map})
    return files


HUGE = {
    "dense": (
        llama_config(layers=80, heads=64, kv_heads=8, tie_word_embeddings=False)
        | {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
        },
        30,
        80 * 8 * 128 * 2 * 2,
    ),
    "experts": (
        mixtral_config(experts=128, layers=48, heads=32, kv_heads=4, tie_word_embeddings=False)
        | {"hidden_size": 4096, "intermediate_size": 768, "vocab_size": 151936, "num_experts_per_tok": 8},
        25,
        48 * 4 * 128 * 2 * 2,
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_hundred_gigabytes_on_the_hub_are_seen_in_seconds(
    name: str, hub: HubServer, tmp_path: Path
) -> None:
    config, n_shards, kv_bytes = HUGE[name]
    repo = hub.add("acme/huge", big(config, n_shards))
    assert sum(f.size for f in repo.head().values()) > 100 * GIGABYTE
    found = seen(hub, tmp_path, "acme/huge")
    shapes = tensor_shapes(config)
    assert found["n_weights"] == sum(a * (b[0] if b else 1) for a, *b in shapes.values())
    assert found["kv_bytes_per_token"] == kv_bytes
    assert len(found["checkpoint_tensors"]) == len(shapes)
    assert found["presets"][0]["tensor_bytes"] > found["presets"][-1]["tensor_bytes"] > GIGABYTE
    assert found["commit"] == repo.refs["main"]
    assert found["download_bytes"] > 100 * GIGABYTE
    assert hub.sent_bytes < 10_000_000


@pytest.mark.parametrize("label", ["dense", "moe", "sliding", "latent", "odd_rows", "recurrent", "split"])
def test_presets_do_not_depend_on_the_vocabulary(label: str, tiny_models: TinyModels) -> None:
    with GGUFFile.open(getattr(tiny_models, label)) as file, without_vocabulary(file) as outline:
        for name in ("Q2_K", "Q3_K_L", "Q4_K_M", "IQ2_XXS", "Q8_0"):
            types = preset_types(file.path, name, with_imatrix=True)
            assert preset_types(outline, name, with_imatrix=True) == types, name


def test_a_gguf_on_the_hub_is_seen_by_its_header(hub: HubServer, tmp_path: Path) -> None:
    data = builtin.MODEL.read_bytes()
    hub.add("acme/G", {"m-bf16.gguf": data, "m-Q4_K_M.gguf": b"GGUF"})
    found = seen(hub, tmp_path, "acme/G")
    local = succeed("inspect", builtin.MODEL, "--json", "--presets").json
    different = ("path", "files", "restart_layers", "tensors")
    assert {k: found[k] for k in local if k not in different} == {
        k: v for k, v in local.items() if k not in different
    }
    assert [t["name"] for t in found["tensors"]] == [t["name"] for t in local["tensors"]]
    assert found["kind"] == "gguf"
    assert found["files"] == ["m-bf16.gguf"]
    assert hub.sent_bytes < 3 << 20 < len(data)


def test_a_long_header_is_read_as_far_as_it_goes(hub: HubServer, tmp_path: Path) -> None:
    tokens = MetaValue.array(MetaValue.string("").type, [f"token-{i:07}" for i in range(400_000)])
    with GGUFFile.open(builtin.MODEL) as file:
        metadata = dict(file.metadata) | {
            "tokenizer.ggml.tokens": tokens,
            "general.name": MetaValue.string("long"),
        }
        plan = GGUFLayout.plan(metadata, [(t.name, t.shape, t.qtype) for t in file.tensors.values()])
    assert 6_000_000 < len(plan.header_bytes) < 9_000_000
    hub.add("acme/long", {"m-bf16.gguf": sparse(plan.header_bytes, plan.file_bytes)})
    found = seen(hub, tmp_path, "acme/long")
    assert found["name"] == "long"
    assert found["tokenizer"]["n_tokens"] == 400_000
    assert hub.sent_bytes < 10_000_000


def test_damaged_remote_headers_are_one_sentence(hub: HubServer, tmp_path: Path) -> None:
    data = builtin.MODEL.read_bytes()
    hub.add("acme/none", {"m-bf16.gguf": b"not a model at all" * 1000})
    hub.add("acme/half", {"m-bf16.gguf": sparse(data[:30_000], len(data))})
    hub.add("acme/cut", {"m-bf16.gguf": data[:-100_000]})
    for name in ("acme/none", "acme/half", "acme/cut"):
        done = mqnative("inspect", name, "--json", env=env(hub, tmp_path))
        assert done.code == FAILED, name
        assert done.json["error"] == "GGUFError"
        assert "Traceback" not in done.err


def test_what_cannot_be_converted_is_said_and_the_rest_is_shown(hub: HubServer, tmp_path: Path) -> None:
    config = llama_config(layers=1) | {"architectures": ["NewThingForCausalLM"]}
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config))
    hub.add_folder("acme/new", folder)
    found = seen(hub, tmp_path, "acme/new")
    assert found["convertible"] is False
    assert found["notes"] == [
        "acme/new is a NewThingForCausalLM, which the converter of this llama.cpp does not know; wait for a "
        "release that does, or look for a GGUF made by others"
    ]
    assert found["tensors"] == []
    assert len(found["checkpoint_tensors"]) == len(tensor_shapes(config))
    assert found["n_weights"] == sum(a * (b[0] if b else 1) for a, *b in tensor_shapes(config).values())
    done = mqnative("inspect", "acme/new", env=env(hub, tmp_path))
    assert "not possible" in done.out
    assert "does not know" in done.err
    assert hub.sent_bytes < 300_000 < (folder / "model.safetensors").stat().st_size


def test_the_tree_folds_equal_blocks(hub: HubServer, tmp_path: Path) -> None:
    hub.add_folder("acme/tiny", builtin_checkpoint(tmp_path / "m"))
    done: Finished = mqnative("inspect", "acme/tiny", "--presets", "--tensors", env=env(hub, tmp_path))
    assert done.code == DONE, done.err
    assert "blk.0-7 (8 blocks of 1.58 MB)" in done.out
    assert "├── config" in done.out
    assert "tokenizer_class: LlamaTokenizer" in done.out
    assert "Q4_K_M" in done.out
    assert "blk.7.ffn_up.weight" in done.out


def test_offline_the_cache_is_seen(hub: HubServer, tmp_path: Path) -> None:
    hub.add_folder("acme/tiny", builtin_checkpoint(tmp_path / "m", n_shards=2))
    assert mqnative("fetch", "acme/tiny", env=env(hub, tmp_path)).code == DONE
    online = seen(hub, tmp_path, "acme/tiny")
    asked = len(hub.requests)
    assert seen(hub, tmp_path, "acme/tiny", "--offline") == online
    assert len(hub.requests) == asked
