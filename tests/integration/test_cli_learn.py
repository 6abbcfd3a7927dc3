"""`mqnative learn` as people run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_process import FAILED, USAGE, mqnative, succeed
from hub_server import HubServer
from mqnative.builtin import MODEL
from mqnative.core.presets import preset_types, presets
from tiny_models import TinyModels


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody else might have made."""
    path = tmp_path_factory.mktemp("theirs") / "Tiny-UD-Q4_K_XL.gguf"
    succeed("build", MODEL, "--preset", "Q4_K_M", "-o", path)
    return path


def test_a_learned_pattern_is_built_again_from_our_reference(theirs: Path, tmp_path: Path) -> None:
    recipe, again = tmp_path / "recipe.yaml", tmp_path / "again.gguf"
    call = ("learn", theirs, "--reference", MODEL, "--provider", "Somebody", "-o", recipe, "--json")
    found = succeed(*call).json
    assert (found["name"], found["provider"], found["recipe_path"]) == ("UD-Q4_K_XL", "Somebody", str(recipe))
    assert found["parity"] == {"missing": [], "extra": {}, "same_as_presets": ["Q4_K_M"]}
    assert found["groups"]["H"] == {"Q6_K": 1}
    assert len(found["file_sha256"]) == 64
    assert found["file_sha256"] in recipe.read_text(encoding="utf-8")
    types = {t["name"]: t["type"] for t in found["tensors"]}
    succeed("build", MODEL, "-r", recipe, "-o", again)
    built = succeed("inspect", again, "--json").json
    assert {t["name"]: t["type"] for t in built["tensors"]} == types
    assert "UD-Q4_K_XL" in succeed("learn", theirs).out


def test_presets_are_learned_without_quantizing(tmp_path: Path) -> None:
    found = succeed("learn", MODEL, "--preset", "all", "--json").json["presets"]
    assert {p["name"] for p in found} == set(presets())
    recipe = tmp_path / "recipe.json"
    call = ("learn", MODEL, "--preset", "IQ4_XS", "--no-imatrix", "-o", recipe, "--json")
    one: dict[str, Any] = succeed(*call).json
    types = {t["name"]: t["type"] for t in one["tensors"]}
    assert types == preset_types(MODEL, "IQ4_XS", with_imatrix=False)
    assert recipe.is_file()
    assert "Q4_K_M" in succeed("learn", MODEL, "--preset", "all").out


def test_own_groups_are_counted() -> None:
    found = succeed("learn", MODEL, "--group", r"ends=blk\.[07]\..*", "--json").json
    assert sum(found["groups"]["ends"].values()) == 22


@pytest.mark.parametrize(
    "arguments",
    [
        ("--preset", "Q4_K_M", "--reference", MODEL),
        ("--preset", "Q4_K_M", "--provider", "me"),
        ("--preset", "all", "-o", "r.yaml"),
        ("--no-imatrix",),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[object, ...]) -> None:
    assert mqnative("learn", MODEL, *arguments).code == USAGE


def test_failures_are_named(theirs: Path, tiny_models: TinyModels, tmp_path: Path) -> None:
    other = mqnative("learn", theirs, "--reference", tiny_models.moe, "--json")
    assert (other.code, other.json["error"]) == (FAILED, "ParityError")
    assert other.json["expected"] == "qwen3"
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(theirs.read_bytes()[:5000])
    truncated = mqnative("learn", cut, "--json")
    assert (truncated.code, truncated.json["error"]) == (FAILED, "GGUFError")
    unknown = mqnative("learn", MODEL, "--preset", "Q99", "--json")
    assert (unknown.code, unknown.json["error"]) == (FAILED, "UnsupportedTypeError")
    group = mqnative("learn", MODEL, "--group", "x=nothing", "--json")
    assert (group.code, group.json["group"]) == (FAILED, "x")


def test_an_existing_recipe_is_kept_until_force(theirs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("mine", encoding="utf-8")
    assert mqnative("learn", theirs, "-o", recipe).code == USAGE
    assert recipe.read_text(encoding="utf-8") == "mine"
    succeed("learn", theirs, "-o", recipe, "--force")
    assert recipe.read_text(encoding="utf-8").startswith("mqnative: recipe/1")


@pytest.fixture
def repository(theirs: Path, tmp_path: Path) -> Iterator[tuple[HubServer, dict[str, str]]]:
    """Two files of somebody's on a hub, and how to reach it."""
    other = tmp_path / "Tiny-Q8_0.gguf"
    succeed("build", MODEL, "--preset", "Q8_0", "-o", other)
    with HubServer() as hub:
        hub.add("somebody/Tiny-GGUF", {theirs.name: theirs, other.name: other})
        home = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        yield hub, home | {"HF_TOKEN": "", "HF_HUB_OFFLINE": ""}


def test_files_on_the_hub_are_learned_from_their_headers(
    repository: tuple[HubServer, dict[str, str]], theirs: Path, tmp_path: Path
) -> None:
    hub, env = repository
    here = succeed("learn", theirs, "--json").json
    recipe = tmp_path / "recipe.yaml"
    call = ("learn", f"somebody/Tiny-GGUF/{theirs.name}", "-o", recipe, "--json")
    there = mqnative(*call, env=env)
    assert there.code == 0, there.err
    assert (here["provider"], there.json["provider"]) == ("mqnative", "mqnative")
    same = ("name", "file", "file_sha256", "architecture", "groups", "tensors", "tensor_bytes")
    assert {k: there.json[k] for k in same} == {k: here[k] for k in same}
    assert recipe.is_file()
    # The header, and not the weights behind it.
    assert 0 < hub.sent_bytes < theirs.stat().st_size


def test_a_whole_repository_is_listed(
    repository: tuple[HubServer, dict[str, str]], theirs: Path, tmp_path: Path
) -> None:
    _, env = repository
    every = mqnative("learn", "somebody/Tiny-GGUF", "--json", env=env)
    assert [f["file"] for f in every.json["files"]] == ["Tiny-Q8_0.gguf", theirs.name]
    assert "UD-Q4_K_XL" in mqnative("learn", "somebody/Tiny-GGUF", env=env).out
    which = mqnative("learn", "somebody/Tiny-GGUF", "-o", tmp_path / "r.yaml", env=env)
    assert which.code == USAGE
    assert "name one: somebody/Tiny-GGUF/Tiny-Q8_0.gguf" in which.err
    absent = mqnative("learn", "somebody/Tiny-GGUF/none.gguf", env=env)
    assert absent.code == FAILED
    assert "none.gguf" in absent.err
