"""`mqnative build --gptq`: the same types and sizes, less damage, and the same bytes from its manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_process import FAILED, mqnative, succeed
from mqnative.builtin import CALIB_TEXT, EVAL_TEXT, MODEL


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with ever.gguf and gptq.gguf, and what the build of the latter said."""
    folder = tmp_path_factory.mktemp("gptq")
    shutil.copy(CALIB_TEXT, folder / "calib.txt")
    arguments = ("build", MODEL, "--preset", "Q4_K_M", "--json")
    succeed(*arguments, "-o", folder / "ever.gguf")
    call = (*arguments, "--gptq", folder / "calib.txt", "--gptq-chunks", 24, "-o", folder / "gptq.gguf")
    return folder, succeed(*call).json


def test_types_and_bytes_are_the_same_and_the_damage_is_less(built: tuple[Path, dict[str, Any]]) -> None:
    folder, said = built
    ever = json.loads((folder / "ever.manifest.json").read_text(encoding="utf-8"))
    gptq = json.loads((folder / "gptq.manifest.json").read_text(encoding="utf-8"))
    assert gptq["types"] == ever["types"]
    # The header names the text.
    assert 0 < said["size_bytes"] - ever["size_bytes"] < 400
    files = (folder / "ever.gguf", folder / "gptq.gguf")
    found = succeed("compare", MODEL, *files, "-f", EVAL_TEXT, "--chunks", 10, "--json").json
    (other,) = found["baselines"]
    # "worse" is what the first file is against it, beyond the 95 % interval.
    assert other["verdict"] == "worse"
    assert other["kld_mean"] < 0.7 * found["kld_mean"]


def test_the_same_build_is_reported_again_and_another_is_refused(built: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = built
    before = (folder / "gptq.gguf").stat().st_mtime_ns
    call = ["build", MODEL, "--preset", "Q4_K_M", "--gptq", folder / "calib.txt", "-o", folder / "gptq.gguf"]
    assert succeed(*call, "--gptq-chunks", 24, "--json").json["reused"] is True
    other = mqnative(*call, "--gptq-chunks", 25)
    assert other.code != 0
    assert "--force" in other.err
    assert (folder / "gptq.gguf").stat().st_mtime_ns == before


def test_its_manifest_makes_the_same_bytes_elsewhere(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, said = built
    manifest = shutil.copy(said["manifest_path"], tmp_path)
    call = ("build", "--manifest", manifest, MODEL, "-o", tmp_path / "again.gguf", "--json")
    env = {"MQNATIVE_HOME": str(tmp_path / "home")}
    without = mqnative(*call, env=env, cwd=tmp_path)
    assert without.code == FAILED
    assert without.json["error"] == "ManifestError"
    assert "--gptq" in without.json["message"]
    other = mqnative(*call, "--gptq", EVAL_TEXT, env=env, cwd=tmp_path)
    assert other.code == FAILED
    assert not (tmp_path / "again.gguf").exists()
    # Found beside the manifest by its name.
    shutil.copy(CALIB_TEXT, tmp_path / "calib.txt")
    again = succeed(*call, env=env, cwd=tmp_path).json
    assert digest(tmp_path / "again.gguf") == again["sha256"] == digest(folder / "gptq.gguf")


def test_a_text_that_is_not_there_is_named(tmp_path: Path) -> None:
    call = ("build", MODEL, "--preset", "Q4_K_M", "--gptq", tmp_path / "none.txt", "-o", tmp_path / "m.gguf")
    done = mqnative(*call)
    assert done.code == FAILED
    assert "none.txt" in done.err
    assert not list(tmp_path.glob("*.gguf"))


def test_auto_rounds_with_feedback_where_that_does_better(tmp_path: Path) -> None:
    calib = tmp_path / "calib.txt"
    calib.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    env = {"MQNATIVE_HOME": str(tmp_path / "home")}
    effort = ("--fast", "--bpw", 4.5, "--ctx", 128, "--verify-chunks", 30, "--types", "Q6_K,Q5_K,Q4_K,Q3_K")
    call = ("auto", MODEL, "--calib", calib, "--eval", EVAL_TEXT, *effort, "--json")
    ever = succeed(*call, "-o", tmp_path / "ever", env=env).json
    gptq = succeed(*call, "--gptq", "-o", tmp_path / "gptq", env=env).json
    assert gptq["bpw"] <= 4.5
    assert gptq["kld_mean"] < 0.75 * ever["kld_mean"]
    assert 0.5 < gptq["kld_mean"] / gptq["predicted_kld"] < 2
    assert any("error feedback" in note for note in gptq["notes"])
    # The same call again reports, and its manifest makes the same bytes.
    assert succeed(*call, "--gptq", "-o", tmp_path / "gptq", env=env).json["reused"] is True
    manifest = tmp_path / "gptq" / "manifest.json"
    shutil.copy(calib, tmp_path / "gptq" / "work")
    again = tmp_path / "again.gguf"
    succeed("build", "--manifest", manifest, MODEL, "-o", again, env=env, cwd=tmp_path)
    assert digest(again) == digest(Path(gptq["model_path"]))


def test_auto_leaves_feedback_where_it_does_no_better(tmp_path: Path) -> None:
    calib = tmp_path / "calib.txt"
    calib.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    env = {"MQNATIVE_HOME": str(tmp_path / "home")}
    # Q8_0 takes none.
    effort = ("--fast", "--bpw", 9, "--ctx", 64, "--verify-chunks", 4, "--types", "Q8_0")
    call = ("auto", MODEL, "--calib", calib, "--eval", EVAL_TEXT, *effort, "--json")
    ever = succeed(*call, "-o", tmp_path / "ever", env=env).json
    gptq = succeed(*call, "--gptq", "-o", tmp_path / "gptq", env=env).json
    assert any("was not used" in note for note in gptq["notes"])
    assert gptq["kld_mean"] == ever["kld_mean"]
    assert digest(Path(gptq["model_path"])) == digest(Path(ever["model_path"]))
    assert json.loads((tmp_path / "gptq" / "manifest.json").read_text(encoding="utf-8"))["labels"] == {}
