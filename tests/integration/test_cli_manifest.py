"""`mqnative build` leaves a manifest, and `--manifest` makes the same bytes elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_process import FAILED, USAGE, mqnative, succeed
from mqnative.builtin import MODEL


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("built") / "mix.gguf"
    return out, succeed("build", MODEL, "--preset", "Q4_K_M", "-o", out, "--json").json


def test_a_build_leaves_a_manifest(built: tuple[Path, dict[str, Any]]) -> None:
    out, said = built
    path = Path(said["manifest_path"])
    assert path == out.with_name("mix.manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert manifest["files_sha256"] == {"mix.gguf": digest(out)}
    assert manifest["types"] == {t["name"]: t["type"] for t in said["tensors"]}
    assert str(out.parent) not in path.read_text(encoding="utf-8")


def test_a_manifest_makes_the_same_bytes_elsewhere_with_cold_caches(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, said = built
    env = {"MQNATIVE_HOME": str(tmp_path / "home")}
    call = ("build", "--manifest", said["manifest_path"], MODEL, "--json")
    first = succeed(*call, "-o", tmp_path / "other name.gguf", cwd=tmp_path, env=env).json
    assert digest(tmp_path / "other name.gguf") == first["sha256"] == digest(out)
    # Without an output: the manifest's own name, here.
    here = succeed(*call, cwd=tmp_path, env=env).json
    assert digest(tmp_path / here["model_path"]) == digest(out)
    again = succeed(*call, cwd=tmp_path, env=env).json
    assert (again["reused"], here["reused"]) == (True, False)
    # And a rebuilt file's manifest makes them too.
    third = ("build", "--manifest", first["manifest_path"], MODEL, "-o", tmp_path / "third.gguf")
    succeed(*third, env=env)
    assert digest(tmp_path / "third.gguf") == digest(out)


def test_inputs_beside_the_manifest_need_not_be_named(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, said = built
    shutil.copy(said["manifest_path"], tmp_path / "m.json")
    shutil.copy(MODEL, tmp_path)
    succeed("build", "--manifest", tmp_path / "m.json", "-o", tmp_path / "again.gguf")
    assert digest(tmp_path / "again.gguf") == digest(out)
    call = ("build", "--manifest", tmp_path / "m.json", "-o", tmp_path / "none.gguf", "--dry-run", "--json")
    assert succeed(*call).json["size_bytes"] == out.stat().st_size
    assert not (tmp_path / "none.gguf").exists()


def test_a_build_that_is_there_already_rewrites_nothing(built: tuple[Path, dict[str, Any]]) -> None:
    out, said = built
    before = {p: p.stat().st_mtime_ns for p in out.parent.iterdir()}
    again = succeed("build", MODEL, "--preset", "Q4_K_M", "-o", out, "--json").json
    assert again == {**said, "reused": True}
    assert {p: p.stat().st_mtime_ns for p in out.parent.iterdir()} == before


def test_a_file_with_the_manifests_name_is_not_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "mix.manifest.json"
    theirs.write_text("mine", encoding="utf-8")
    done = mqnative("build", MODEL, "--preset", "Q8_0", "-o", tmp_path / "mix.gguf")
    assert done.code == USAGE
    assert theirs.read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "mix.gguf").exists()
    succeed("build", MODEL, "--preset", "Q8_0", "-o", tmp_path / "mix.gguf", "--force")
    assert json.loads(theirs.read_text(encoding="utf-8"))["model_file"] == "mix.gguf"


def test_a_manifest_of_another_model_fails_and_names_both(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, said = built
    other = tmp_path / "other.gguf"
    raw = bytearray(MODEL.read_bytes())
    raw[-1] ^= 1
    other.write_bytes(raw)
    done = mqnative("build", "--manifest", said["manifest_path"], other, "-o", tmp_path / "x.gguf", "--json")
    assert done.code == FAILED
    assert done.json["error"] == "ManifestError"
    assert {"expected", "got"} <= set(done.json)
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--manifest", "m.json", "--preset", "Q8_0", MODEL),
        ("--manifest", "m.json", "--base", "Q8_0", MODEL),
        ("--manifest", "m.json", "--allow-requantize", MODEL),
        ("--preset", "Q8_0", "-o", "x.gguf"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[object, ...], tmp_path: Path) -> None:
    assert mqnative("build", *arguments, cwd=tmp_path).code == USAGE


def test_a_missing_source_is_asked_for(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    done = mqnative("build", "--manifest", built[1]["manifest_path"], cwd=tmp_path)
    assert done.code == USAGE
    assert MODEL.name in done.err
