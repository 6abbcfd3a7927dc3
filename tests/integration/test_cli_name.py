"""`mqnative name` as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_process import DONE, FAILED, USAGE, mqnative, succeed
from mqnative.builtin import MODEL


def test_parse_prints_model_base_and_groups_with_full_type_names() -> None:
    found = succeed("name", "parse", "Qwen3-4B-MXFP4-R-Q8-EH-B16.gguf", "--json").json
    assert (found["model"], found["base"]) == ("Qwen3-4B", "MXFP4")
    assert found["groups"] == {"E": "BF16", "H": "BF16", "R": "Q8_0"}
    assert found["semantics"] == "type"
    # Blocks out of order may be a part of the model's name.
    assert [a["model"] for a in found["alternatives"]] == ["Qwen3-4B-MXFP4-R", "Qwen3-4B-MXFP4-R-Q8-EH"]
    assert "Qwen3-4B" in succeed("name", "parse", "Qwen3-4B-MXFP4-EH-B16").out


def test_what_parse_prints_format_writes_again(tmp_path: Path) -> None:
    for text in ("Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL", "Model-MQ-Q4_K_M_2", "mxfp4_moe-O-MXFP4-EHQKUD-Q8_0"):
        path = tmp_path / "name.json"
        path.write_text(succeed("name", "parse", text, "--json").out, encoding="utf-8")
        assert succeed("name", "format", path).out.strip() == text.replace("mxfp4_moe", "MXFP4")


def test_format_takes_an_object_or_a_recipe(tmp_path: Path) -> None:
    document = {"model": "Qwen3-4B", "base": "MXFP4", "groups": {"Q": "Q8", "U": "MXFP4", "E": "BF16"}}
    assert succeed("name", "format", json.dumps(document)).out == "Qwen3-4B-MXFP4-E-B16-Q-Q8_0\n"
    recipe = tmp_path / "recipe.yaml"
    succeed("name", "parse", "My-Model-Q4_K-EH-Q8_0-K-Q6K", "-o", recipe)
    assert succeed("name", "format", recipe).out == "My-Model-Q4K-K-Q6K-EH-Q8_0\n"
    again = succeed("name", "format", recipe, "--for", MODEL, "--json").json
    assert (again["name"], again["file_name"]) == (
        "My-Model-Q4K-K-Q6K-EH-Q8_0",
        "My-Model-Q4K-K-Q6K-EH-Q8_0.gguf",
    )
    family = ("--provider", "MQ", "--family", "Q4_K_M", "--ordinal", 1)
    assert succeed("name", "format", recipe, *family).out == "My-Model-MQ-Q4_K_M_1\n"


def test_manifests_and_models_have_names_too(tmp_path: Path) -> None:
    out = tmp_path / "mix.gguf"
    manifest = succeed("build", MODEL, "--preset", "Q6_K", "-o", out, "--json").json["manifest_path"]
    for path in (manifest, out):
        assert succeed("name", "format", path).out == "qwen3-8M-Q6_K\n"
    mixed = succeed("build", MODEL, "--preset", "Q4_K_M", "-o", tmp_path / "m.gguf", "--json").json
    refused = mqnative("name", "format", mixed["manifest_path"], "--json")
    assert (refused.code, refused.json["part"]) == (FAILED, "group K")
    family = ("--provider", "LM", "--family", "Q4_K_M")
    assert succeed("name", "format", mixed["manifest_path"], *family).out == "qwen3-8M-LM-Q4_K_M\n"


def test_a_name_becomes_a_recipe_that_builds(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    call = ("name", "parse", "Tiny-Q8_0-UD-Q4K", "--for", MODEL, "-o", recipe, "--json")
    found = succeed(*call).json
    plan = succeed("build", MODEL, "-r", recipe, "--dry-run", "--json").json
    assert plan["tensor_bytes"] == found["tensor_bytes"]
    types = {t["name"]: t["type"] for t in plan["tensors"]}
    assert types["blk.0.ffn_down.weight"] == "Q4_K"
    assert types["blk.0.attn_q.weight"] == "Q8_0"


def test_groups_that_the_model_lacks_are_warned_about() -> None:
    done = succeed("name", "parse", "Tiny-Q8_0-R-B16", "--for", MODEL, "--json")
    assert done.json["warnings"] == ["the model has no group R (router)"]
    assert "warning: the model has no group R" in done.err


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("parse", "Qwen3-4B-Instruct"), "QuantNameError", "Instruct"),
        (("parse", "A-MXFP4-E-B16-E-Q8_0"), "QuantNameError", "twice"),
        (("parse", "A-Q8_0", "--model-name", "B"), "QuantNameError", "'B'"),
        (("parse", "A-MQ-Q5_K_1", "-o", "x.yaml"), "QuantNameError", "learn"),
        (("format", "nowhere.yaml"), "ManifestError", "nowhere.yaml"),
        (("format", "{}"), "QuantNameError", "base"),
        (("format", '{"base": "Q8_0", "groups": {"Z": "Q6_K"}}'), "QuantNameError", "'Z'"),
        (("format", '{"model": "XR", "base": "Q8_0"}'), "QuantNameError", "would be read as"),
    ],
)
def test_what_is_no_name_fails_and_is_named(
    arguments: tuple[str, ...], error: str, says: str, tmp_path: Path
) -> None:
    done = mqnative("name", *arguments, "--json", cwd=tmp_path)
    assert done.code == FAILED
    assert done.json["error"] == error
    assert says in done.json["message"]
    assert not (tmp_path / "x.yaml").exists()


def test_provider_and_family_come_together() -> None:
    assert mqnative("name", "format", "{}", "--provider", "MQ").code == USAGE


@pytest.mark.parametrize("command", ["parse", "format"])
def test_subcommands_have_examples(command: str) -> None:
    done = mqnative("name", command, "--help")
    assert done.code == DONE
    assert f"Example: mqnative name {command}" in done.out
