"""Mixes are read from manifests, recipes, clone configs and models; what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mqnative.errors import GGUFError, ManifestError, RecipeError
from mqnative.formats.manifest import ImatrixRef, Manifest, Source, write_manifest
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.hybrids.clone_config import pick, read_artifacts
from mqnative.hybrids.mix_file import measured_kld, read_mix

HASH = "0123456789abcdef" * 4
TYPES = {"token_embd.weight": "Q8_0", "blk.0.attn_q.weight": "Q5_K", "blk.0.attn_norm.weight": "F32"}
MANIFEST = Manifest(
    made_by="auto",
    source=Source(HASH, "m-bf16.gguf", "M", "qwen3"),
    imatrix=ImatrixRef(HASH, "imatrix.gguf"),
    types=TYPES | {"blk.0.ffn_gate_tid2eid.weight": "I32"},
    shapes={"token_embd.weight": (256, 4)},
    model_file="M-mix.gguf",
    model_sha256=HASH,
    size_bytes=12,
    extra={"evaluation": {"kld_mean": 0.25}},
)


def config(**changes: Any) -> dict[str, Any]:
    first = {
        "fileName": "M-MQ-Q5_K_1.gguf",
        "displayName": "MQ-Q5_K_1",
        "shortName": "MQ-Q8_0",
        "provider": "MagicQuant",
        "quantFamily": "Q5_K",
        "usedImatrix": True,
        "tensorTypes": {name: t.lower() for name, t in TYPES.items()},
    }
    second = {**first, "fileName": "M-MQ-Q6_K_1.gguf", "displayName": "MQ-Q6_K_1"}
    return {"schema": 1, "artifacts": [{**first, **changes}, second]}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.json", MANIFEST)
    mix = read_mix(tmp_path / "manifest.json")
    assert (mix.kind, mix.name, mix.architecture) == ("manifest", "M-mix.gguf", "qwen3")
    assert mix.recipe.tensors == TYPES  # without the table of integers
    assert mix.shapes == {"token_embd.weight": (256, 4)}
    assert mix.parent["model_sha256"] == HASH
    assert mix.manifest is not None
    assert measured_kld(mix.manifest) == 0.25


@pytest.mark.parametrize("evaluation", [None, {}, {"kld_mean": None}, {"kld_mean": "x"}, []])
def test_a_manifest_without_figures_claims_none(evaluation: Any) -> None:
    assert measured_kld(Manifest(**{**vars(MANIFEST), "extra": {"evaluation": evaluation}})) is None


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_a_recipe(name: str, tmp_path: Path) -> None:
    write_recipe(tmp_path / name, Recipe(base="Q4_K", tensors=TYPES, model={"architecture": "llama"}))
    mix = read_mix(tmp_path / name)
    assert (mix.kind, mix.name, mix.architecture, mix.recipe.base) == ("recipe", name, "llama", "Q4_K")
    assert len(mix.parent["sha256"]) == 64


def test_a_model(builtin_model: Path) -> None:
    mix = read_mix(builtin_model)
    assert (mix.kind, mix.architecture) == ("gguf", "qwen3")
    assert len(mix.shapes) == len(mix.recipe.tensors)
    assert len(mix.parent["file_sha256"]) == 64


def test_a_file_of_a_clone_config(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", config())
    mix = read_mix(path, "M-MQ-Q5_K_1.gguf")
    assert (mix.kind, mix.name) == ("clone-config", "M-MQ-Q5_K_1.gguf")
    assert mix.recipe.tensors == TYPES
    assert mix.parent["provider"] == "MagicQuant"
    assert read_mix(path, "MQ-Q6_K_1").name == "M-MQ-Q6_K_1.gguf"


def test_the_file_name_decides_before_stale_names() -> None:
    document = config()
    # A short name that is another file's real name.
    document["artifacts"][0]["shortName"] = "M-MQ-Q6_K_1"
    artifacts = read_artifacts(document)
    assert pick(artifacts, "M-MQ-Q6_K_1").file_name == "M-MQ-Q6_K_1.gguf"
    with pytest.raises(ManifestError, match="several"):
        pick(read_artifacts(config()), "MQ-Q8_0")
    with pytest.raises(ManifestError, match="choose one of"):
        pick(artifacts, None)
    assert pick(artifacts[:1], None) == artifacts[0]


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"artifacts": []}, "artifacts"),
        ({"artifacts": ["x"]}, "artifacts[0]"),
        (config(tensorTypes={}), "artifacts[0].tensorTypes"),
        (config(tensorTypes=None), "artifacts[0].tensorTypes"),
        (config(tensorTypes={"a.weight": "IQ4_KS"}), "tensorTypes.a.weight"),
        (config(tensorTypes={"a.weight": 5}), "tensorTypes.a.weight"),
        (config(), "none"),
    ],
)
def test_a_broken_clone_config_names_what_is_at_fault(document: Any, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", document)
    with pytest.raises(ManifestError) as caught:
        read_mix(path, "none")
    assert (caught.value.path, caught.value.key) == (str(path), key)


def test_a_type_of_a_fork_names_the_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", config(tensorTypes={"blk.0.attn_q.weight": "iq4_ks"}))
    with pytest.raises(ManifestError, match="iq4_ks") as caught:
        read_mix(path)
    assert caught.value.tensor == "blk.0.attn_q.weight"


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot read"):
        read_mix(tmp_path / "none")
    with pytest.raises(ManifestError, match="cannot read"):
        read_mix(tmp_path)
    (tmp_path / "a").write_bytes(b"GGUF\x03")
    with pytest.raises(GGUFError):
        read_mix(tmp_path / "a")
    (tmp_path / "b").write_text("nonsense", encoding="utf-8")
    with pytest.raises(RecipeError):
        read_mix(tmp_path / "b")
    with pytest.raises(ManifestError):
        read_mix(write(tmp_path / "c", {"mqnative": "manifest/9"}))
    with pytest.raises(RecipeError):
        read_mix(write(tmp_path / "d", {"mqnative": "recipe/9"}))


def test_an_artifact_belongs_to_a_clone_config(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", MANIFEST)
    with pytest.raises(ManifestError, match="holds one mix"):
        read_mix(tmp_path / "m.json", "x")
