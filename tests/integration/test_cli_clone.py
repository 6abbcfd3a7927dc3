"""`mqnative clone` as people run it: another model's mix on a finetune."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_process import FAILED, USAGE, mqnative, succeed
from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.formats.gguf import GGUFFile, MetaValue
from tiny_models import TinyModels, bf16_floats, write_model

EFFORT = ("--ctx", 64, "--verify-chunks", 4)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finetune(path: Path, *, without: str = "", extra: dict[str, str] | None = None) -> Path:
    """The built-in model with slightly other weights; tensors left out, or copied under another name."""
    rng = np.random.default_rng(5)
    with GGUFFile.open(MODEL) as file:
        metadata = dict(file.metadata) | {"general.name": MetaValue.string("Finetune")}
        tensors: dict[str, tuple[Any, str]] = {}
        for name in file.tensors:
            if name == without:
                continue
            kind = file.tensors[name].qtype.name
            raw = file.array(name)
            weights = bf16_floats(raw) if kind == "BF16" else np.array(raw, np.float32)
            noise = rng.standard_normal(weights.shape).astype(np.float32)
            weights = weights * (1 + 0.01 * noise)
            tensors[name] = (weights, kind)
            if name in (extra or {}):
                tensors[extra[name]] = (weights, kind)  # type: ignore[index] # it is in there
    return write_model(path, metadata, tensors)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calib.txt"
    path.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(tmp_path_factory.mktemp("tuned") / "tuned-bf16.gguf")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a mix of the built-in model."""
    out = tmp_path_factory.mktemp("parent") / "mix.gguf"
    return Path(succeed("build", MODEL, "--preset", "Q4_K_M", "-o", out, "--json").json["manifest_path"])


@pytest.fixture(scope="module")
def cloned(
    parent: Path, tuned: Path, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("clones") / "out"
    return out, succeed("clone", parent, tuned, "--calib", text, "-o", out, *EFFORT, "--json").json


def test_a_clone_has_the_parents_types_its_own_figures_and_names_its_parent(
    cloned: tuple[Path, dict[str, Any]], parent: Path
) -> None:
    out, said = cloned
    theirs = json.loads(parent.read_text(encoding="utf-8"))
    assert {t["name"]: t["type"] for t in said["tensors"]} == theirs["types"]
    assert 0 < said["kld_mean"] < 1
    assert said["parent"]["model_sha256"] == theirs["files_sha256"]["mix.gguf"]
    assert {b["name"] for b in said["baselines"]} >= {"Q8_0", "Q6_K", "Q4_K_M"}
    assert [p.name for p in out.glob("*.gguf")] == [Path(said["model_path"]).name] == ["tuned-clone-mix.gguf"]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["made_by"], manifest["parent"]) == ("clone", said["parent"])
    assert manifest["source"]["name"] == "Finetune"
    assert "mix.gguf" in (out / "report.html").read_text(encoding="utf-8")
    # The same types: the preset itself, but for the importances, which it was given here too.
    same = next(b for b in said["baselines"] if b["name"] == "Q4_K_M")
    assert same["verdict"] in ("tie", "better", "worse")


def test_a_clones_manifest_makes_the_same_bytes_elsewhere(
    cloned: tuple[Path, dict[str, Any]], tuned: Path, tmp_path: Path
) -> None:
    out, said = cloned
    env = {"MQNATIVE_HOME": str(tmp_path / "home")}
    call = ("build", "--manifest", out / "manifest.json", tuned, "-o", tmp_path / "again.gguf")
    succeed(*call, env=env)
    assert digest(tmp_path / "again.gguf") == digest(Path(said["model_path"]))


def test_a_finished_clone_reports_again_and_rewrites_nothing(
    cloned: tuple[Path, dict[str, Any]], parent: Path, tuned: Path, text: Path
) -> None:
    out, said = cloned
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = succeed("clone", parent, tuned, "--calib", text, "-o", out, *EFFORT, "--json").json
    assert again == {**said, "reused": True}
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    other = mqnative("clone", parent, MODEL, "--calib", text, "-o", out, *EFFORT)
    assert other.code == USAGE


def test_missing_tensors_are_refused_and_extra_ones_follow_the_base(
    text: Path, tmp_path: Path, tuned: Path
) -> None:
    types = {
        t["name"]: t["type"] for t in succeed("learn", MODEL, "--preset", "Q5_K_S", "--json").json["tensors"]
    }
    partial = tmp_path / "partial.json"
    del types["output.weight"]
    partial.write_text(json.dumps({"mqnative": "recipe/1", "tensors": types}), encoding="utf-8")
    call = ("clone", partial, tuned, "--calib", text, *EFFORT, "--json")
    refused = mqnative(*call, "-o", tmp_path / "a", "--extra", "refuse")
    assert (refused.code, refused.json["error"]) == (FAILED, "ParityError")
    assert refused.json["extra"] == ["output.weight"]
    done = succeed(*call, "-o", tmp_path / "b", "--base", "Q6_K")
    assert done.json["extra"] == {"output.weight": "Q6_K"}
    assert "warning: 1 tensors" in done.err
    lacking = finetune(tmp_path / "lacking.gguf", without="output.weight")
    whole = tmp_path / "whole.json"
    whole.write_text(
        json.dumps({"mqnative": "recipe/1", "tensors": types | {"output.weight": "Q6_K"}}), encoding="utf-8"
    )
    call = ("clone", whole, lacking, "--calib", text, *EFFORT, "--json")
    refused = mqnative(*call, "-o", tmp_path / "c")
    assert (refused.code, refused.json["missing"]) == (FAILED, ["output.weight"])
    assert not (tmp_path / "c").exists()
    done = succeed(*call, "-o", tmp_path / "d", "--missing", "skip")
    assert done.json["missing"] == ["output.weight"]


def test_published_clone_configs_are_read(text: Path, tmp_path: Path, tuned: Path) -> None:
    def artifact(name: str, preset: str) -> dict[str, Any]:
        tensors = succeed("learn", MODEL, "--preset", preset, "--json").json["tensors"]
        return {
            "fileName": f"Tiny-{name}.gguf",
            "displayName": name,
            "shortName": "stale",
            "provider": "MagicQuant",
            "quantFamily": preset,
            "baseQuant": "Q8_0",
            "isHybrid": True,
            "usedImatrix": True,
            "tensorTypes": {t["name"]: t["type"].lower() for t in tensors},
        }

    config = tmp_path / "clone-configs.json"
    artifacts = [artifact("MQ-Q5_K_1", "Q5_K_M"), artifact("MQ-Q6_K_1", "Q6_K")]
    config.write_text(json.dumps({"schema": 1, "artifacts": artifacts}), encoding="utf-8")
    call = ("clone", config, tuned, "--calib", text, *EFFORT, "--json")
    several = mqnative(*call, "-o", tmp_path / "a")
    assert (several.code, several.json["error"]) == (FAILED, "ManifestError")
    assert "Tiny-MQ-Q5_K_1.gguf, Tiny-MQ-Q6_K_1.gguf" in several.json["message"]
    done = succeed(*call, "-o", tmp_path / "b", "--artifact", "MQ-Q6_K_1").json
    assert {t["type"] for t in done["tensors"]} == {"Q6_K", "F32"}
    assert done["parent"]["artifact"] == "Tiny-MQ-Q6_K_1.gguf"


def test_bad_input_is_named(
    parent: Path, tuned: Path, text: Path, tiny_models: TinyModels, tmp_path: Path
) -> None:
    def fails(*arguments: object) -> dict[str, Any]:
        done = mqnative("clone", *arguments, "--calib", text, "-o", tmp_path / "x", *EFFORT, "--json")
        assert done.code == FAILED, done.err
        assert not (tmp_path / "x").exists()
        found: dict[str, Any] = done.json
        return found

    other = fails(parent, tiny_models.moe)
    assert (other["error"], other["path"]) == ("ParityError", str(tiny_models.moe))
    assert other["expected"] == "qwen3"
    assert fails(tmp_path / "none.json", tuned)["error"] == "ManifestError"
    broken = tmp_path / "broken.json"
    document = json.loads(parent.read_text(encoding="utf-8"))
    document["types"]["blk.0.attn_q.weight"] = "IQ4_KS"
    broken.write_text(json.dumps(document), encoding="utf-8")
    fork = fails(broken, tuned)
    assert (fork["error"], fork["tensor"]) == ("ManifestError", "blk.0.attn_q.weight")
    assert fails(parent, tuned, "--artifact", "a")["key"] == "a"


def test_eval_needs_calib(parent: Path, tuned: Path, text: Path, tmp_path: Path) -> None:
    assert mqnative("clone", parent, tuned, "--eval", text, "-o", tmp_path / "x").code == USAGE
