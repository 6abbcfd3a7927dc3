"""``mqnative convert``: upstream's bytes, or those of a recipe, from checkpoints of several kinds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_process import DONE, FAILED, Finished, mqnative, started, succeed
from hf_models import (
    builtin_checkpoint,
    llama_config,
    mixtral_config,
    random_tensors,
    stored,
    vision_checkpoint,
    write_checkpoint,
)
from hub_server import HubServer
from mqnative import builtin
from mqnative.build.plan import model_tensors
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.source.converter_tree import architectures, converter_tree, gguf_architecture, text_architecture
from mqnative.source.identity import identify

needs_converter = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torch", "transformers", "sentencepiece")),
    reason="torch, transformers and sentencepiece (the extra 'convert') are not installed",
)
TYPES = ("Q4_K", "Q6_K", "Q3_K", "IQ4_XS", "Q8_0", "IQ2_S", "Q5_0", "IQ1_S", "BF16", "F16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints: split, permuted with F16, of experts, and in single precision."""
    base = tmp_path_factory.mktemp("checkpoints")
    llama, mixtral = llama_config(), mixtral_config()
    return {
        "sharded": builtin_checkpoint(base / "sharded", n_shards=3),
        "permuted": write_checkpoint(base / "permuted", llama, random_tensors(llama, "F16")),
        "experts": write_checkpoint(base / "experts", mixtral, random_tensors(mixtral), n_shards=2),
        "single": write_checkpoint(base / "single", llama, random_tensors(llama, "F32")),
    }


def upstream(folder: Path, output: Path, outtype: str) -> None:
    """Upstream's own script, as its users run it."""
    script = converter_tree() / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(folder), "--outfile", str(output), "--outtype", outtype]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(command, env=env, check=True, capture_output=True)


def mixed_recipe(model: Path, path: Path) -> Path:
    """Every kind of type in turn."""
    with GGUFFile.open(model) as file:
        tensors = model_tensors(file)
    chosen = {n: t.qtype_name for n, t in tensors.items()}
    movable = [n for n, t in tensors.items() if t.quantizable]
    chosen |= {n: TYPES[i % len(TYPES)] for i, n in enumerate(movable)}
    write_recipe(path, Recipe(tensors=chosen))
    return path


@needs_converter
@pytest.mark.parametrize(
    ("name", "outtype"), [("sharded", "bf16"), ("permuted", "f16"), ("experts", "bf16"), ("single", "f32")]
)
def test_a_conversion_gives_upstreams_bytes(
    name: str, outtype: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    done = succeed("convert", folders[name], "-o", ours, "--json").json
    upstream(folders[name], theirs, outtype)
    assert ours.read_bytes() == theirs.read_bytes()
    with GGUFFile.open(ours) as file:
        assert done["size_bytes"] == file.file_bytes
        assert done["source_sha256"] == identify(file).model
        assert done["bpw"] == file.bpw
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


@needs_converter
def test_the_builtin_model_comes_back_from_its_checkpoint(folders: dict[str, Path], tmp_path: Path) -> None:
    succeed("convert", folders["sharded"], "-o", tmp_path / "m.gguf")
    with GGUFFile.open(tmp_path / "m.gguf") as made, GGUFFile.open(builtin.MODEL) as model:
        assert set(made.tensors) == set(model.tensors)
        for tensor in model.tensors:
            assert made.data(tensor).tobytes() == model.data(tensor).tobytes()
        assert made.get("tokenizer.ggml.tokens") == model.get("tokenizer.ggml.tokens")
        assert made.architecture == model.architecture


@needs_converter
@pytest.mark.parametrize("name", ["sharded", "permuted", "experts", "single"])
def test_a_recipe_on_the_way_gives_the_bytes_of_convert_and_build(
    name: str, folders: dict[str, Path], tmp_path: Path, calib_text: str
) -> None:
    reference, built, straight = (tmp_path / f"{n}.gguf" for n in ("reference", "built", "straight"))
    text, imatrix = tmp_path / "text.txt", tmp_path / "imatrix.gguf"
    text.write_text(calib_text[:40_000], encoding="utf-8")
    succeed("convert", folders[name], "-o", reference)
    succeed("imatrix", reference, "-f", text, "-o", imatrix, "--process-output")
    recipe = mixed_recipe(reference, tmp_path / "recipe.yaml")
    common = ("-r", recipe, "--imatrix", imatrix)
    succeed("build", reference, *common, "-o", built)
    found = succeed("convert", folders[name], *common, "-o", straight, "--json").json
    assert straight.read_bytes() == built.read_bytes()
    assert found["size_bytes"] == straight.stat().st_size
    with GGUFFile.open(straight) as file:
        assert {t["name"]: t["type"] for t in found["tensors"]} == {
            n: t.qtype.name for n, t in file.tensors.items()
        }
    again = succeed("convert", folders[name], *common, "-o", straight, "--json").json
    assert again["reused"] is True
    assert {k: v for k, v in again.items() if k != "reused"} == {
        k: v for k, v in found.items() if k != "reused"
    }


@needs_converter
def test_a_projector_is_converted_beside_the_text_model(tmp_path: Path) -> None:
    folder, output = vision_checkpoint(tmp_path / "seer"), tmp_path / "seer.gguf"
    found = succeed("convert", folder, "-o", output, "--json").json
    mmproj = tmp_path / "mmproj-seer.gguf"
    assert found["files"] == [str(output), str(mmproj)]
    assert found["launch_flags"] == ["--mmproj", str(mmproj)]
    script = converter_tree() / "convert_hf_to_gguf.py"
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, str(script), str(folder), "--mmproj", "--outfile", str(theirs)]
    subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True, capture_output=True)
    assert mmproj.read_bytes() == theirs.read_bytes()
    upstream(folder, theirs, "bf16")
    assert output.read_bytes() == theirs.read_bytes()
    recipe = mixed_recipe(output, tmp_path / "recipe.yaml")
    before = mmproj.read_bytes()
    straight = tmp_path / "out"
    straight.mkdir()
    recipe.write_text(recipe.read_text().replace("IQ1_S", "Q3_K").replace("IQ2_S", "Q4_0"))
    succeed("convert", folder, "-r", recipe, "-o", straight / "m.gguf")
    succeed("build", output, "-r", recipe, "-o", straight / "b.gguf")
    assert (straight / "m.gguf").read_bytes() == (straight / "b.gguf").read_bytes()
    assert (straight / "mmproj-m.gguf").read_bytes() == before
    found = succeed("convert", folder, "-o", tmp_path / "text.gguf", "--no-mmproj", "--json").json
    assert found["mmproj_path"] is None
    seen = succeed("inspect", folder, "--json").json
    with GGUFFile.open(output) as file:
        assert {t["name"]: t["shape"] for t in seen["tensors"]} == {
            n: list(t.shape) for n, t in file.tensors.items()
        }
    assert seen["n_mmproj_weights"] > 0
    assert seen["kv_bytes_per_token"] == 2 * (2 + 2) * 64 * 2


@needs_converter
def test_an_output_of_other_weights_is_not_mistaken_for_the_same(tmp_path: Path) -> None:
    config = llama_config(layers=1)
    tensors = random_tensors(config)
    folder, output = write_checkpoint(tmp_path / "m", config, tensors), tmp_path / "m.gguf"
    succeed("convert", folder, "-o", output)
    before = output.read_bytes()
    norm = "model.norm.weight"
    write_checkpoint(
        folder, config, tensors | {norm: stored(2 * random_tensors(config, "F32")[norm][1], "BF16")}
    )
    refused = mqnative("convert", folder, "-o", output)
    assert refused.code == 2
    assert "was made from other inputs; pass --force to replace it" in refused.err
    assert output.read_bytes() == before
    succeed("convert", folder, "-o", output, "--force")
    assert output.stat().st_size == len(before)
    assert output.read_bytes() != before


@needs_converter
def test_a_dry_run_plans_the_written_size(folders: dict[str, Path], tmp_path: Path) -> None:
    planned = succeed("convert", folders["experts"], "--dry-run", "--json", cwd=tmp_path).json
    assert planned["model_path"] is None
    assert planned["files"] == []
    assert list(tmp_path.iterdir()) == []
    written = succeed("convert", folders["experts"], "-o", tmp_path / "m.gguf", "--json").json
    assert planned["size_bytes"] == written["size_bytes"]
    assert planned["tensors"] == written["tensors"]


@needs_converter
def test_code_beside_a_model_is_not_run_unless_asked_for(tmp_path: Path) -> None:
    config = llama_config(layers=1) | {"auto_map": {"AutoConfig": "evil.Evil"}}
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config))
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass Evil: pass\n"
    )
    (folder / "torch.py").write_text("raise SystemExit('shadowed')")
    succeed("convert", folder, "-o", tmp_path / "m.gguf", cwd=folder)
    assert not mark.exists()


@needs_converter
def test_memory_does_not_grow_with_the_largest_tensor(tmp_path: Path) -> None:
    """The embedding is 400 MB in BF16, of which upstream would hold 2 GB at once; here a few rows."""
    config = llama_config(layers=1, vocab_size=4096) | {"hidden_size": 1024, "vocab_size": 200_000}
    tensors = random_tensors(config | {"vocab_size": 8})
    big = np.zeros((200_000, 1024), np.uint16)
    big[:] = np.arange(1024, dtype=np.uint16) + 0x3C00
    tensors["model.embed_tokens.weight"] = ("BF16", big)
    folder = write_checkpoint(tmp_path / "m", config, tensors)
    recipe = tmp_path / "recipe.yaml"
    write_recipe(recipe, Recipe(base="Q8_0", tensors={}))
    imports = _peak_bytes("import torch, transformers.models.auto, sentencepiece")
    found = succeed("convert", folder, "-r", recipe, "-o", tmp_path / "m.gguf", "--json").json
    # Far below the bound: slabs of it are all that is held.
    assert found["peak_memory_bytes"] < imports + 500_000_000


def _peak_bytes(code: str) -> int:
    tell = "\nimport re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    done = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout)


@needs_converter
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_conversion_leaves_no_file_and_no_process(number: signal.Signals, tmp_path: Path) -> None:
    config = llama_config(layers=8) | {"intermediate_size": 2048}
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config))
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    write_recipe(recipe, Recipe(base="IQ3_S", tensors={}))
    out.mkdir()
    with started("convert", folder, "-r", recipe, "-o", out / "m.gguf") as running:
        running.wait_for(lambda: any(out.iterdir()))
        children = _children(running.process.pid)
        assert len(children) == 1
        done = running.send(number)
        assert done.code == (130 if number is signal.SIGINT else -9)
        running_children = [1]
        for _ in range(2000):
            running_children = [c for c in children if Path(f"/proc/{c}/stat").exists() and not _zombie(c)]
            if not running_children and not list(out.iterdir()):
                break
            time.sleep(0.01)
    assert running_children == []
    assert list(out.iterdir()) == []


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# ---- What fails, also without torch


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def refused(*arguments: object, env: dict[str, str] | None = None) -> Finished:
    done = mqnative("convert", *arguments, "--json", env=env)
    assert done.code == FAILED, done.out
    assert "Traceback" not in done.err
    assert done.json["message"] in done.err
    return done


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_a_missing_extra_is_explained(tmp_path: Path) -> None:
    config = llama_config(layers=1)
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config))
    said = refused(folder, "-o", tmp_path / "m.gguf").json
    assert said["error"] == "MissingExtraError"
    assert "torch" in said["message"]
    assert "pip install 'mqnative[convert]'" in said["message"]
    assert said["extra"] == "convert"


def test_an_unknown_architecture_is_named_before_any_weight_is_fetched(
    hub: HubServer, tmp_path: Path
) -> None:
    config = llama_config(layers=1) | {"architectures": ["NewThingForCausalLM"]}
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config))
    said = refused(folder, "-o", tmp_path / "m.gguf").json
    assert (
        "m is a NewThingForCausalLM, which the converter of this llama.cpp does not know" in said["message"]
    )
    assert said["architecture"] == "NewThingForCausalLM"
    hub.add_folder("acme/new", folder)
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": ""}
    said = refused("acme/new", "-o", tmp_path / "m.gguf", env=env).json
    assert "acme/new is a NewThingForCausalLM, which" in said["message"]
    assert hub.sent_bytes < 200_000 < (folder / "model.safetensors").stat().st_size


BROKEN: dict[str, tuple[dict[str, str | None], str]] = {
    "no JSON in config.json": ({"config.json": "{"}, "its config.json is damaged"),
    "no object in config.json": ({"config.json": "[]"}, "its config.json is damaged"),
    "no architecture": ({"config.json": "{}"}, "config.json names no architecture"),
    "no config.json": ({"config.json": None}, "holds no model"),
    "no weights": ({"model.safetensors": None}, "neither model*.safetensors nor"),
    "empty weights": ({"model.safetensors": ""}, "too few for a safetensors file"),
    "an index of nothing": ({"model.safetensors.index.json": "{}"}, "has no weight_map"),
    "an index of files that are not there": (
        {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "x.safetensors"}})},
        "names x.safetensors, which is not there",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_one_sentence(name: str, tmp_path: Path) -> None:
    changes, message = BROKEN[name]
    config = llama_config(layers=1)
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config))
    for file, text in changes.items():
        (folder / file).unlink(missing_ok=True)
        if text is not None:
            (folder / file).write_text(text)
    assert message in refused(folder, "-o", tmp_path / "m.gguf").json["message"]
    assert not (tmp_path / "m.gguf").exists()


@needs_converter
def test_what_upstream_says_is_passed_on(tmp_path: Path) -> None:
    config = llama_config(layers=1)
    folder = write_checkpoint(tmp_path / "m", config, random_tensors(config), tokenizer=False)
    said = refused(folder, "-o", tmp_path / "m.gguf").json
    assert said["error"] == "ConversionError"
    assert said["message"].startswith("m cannot be converted: ")
    assert "tokenizer" in said["message"]
    tensors = random_tensors(config)
    write_checkpoint(folder, config, tensors | {"model.layers.0.odd.weight": tensors["model.norm.weight"]})
    assert "odd.weight" in refused(folder, "-o", tmp_path / "m.gguf").json["message"]


def test_a_gguf_is_no_checkpoint(tmp_path: Path) -> None:
    assert "give it to mqnative build" in refused(builtin.MODEL, "-o", tmp_path / "m.gguf").json["message"]
    assert "does not exist" in refused(tmp_path / "none", "-o", tmp_path / "m.gguf").json["message"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--imatrix", "x", "-o", "y"], ["--base", "Q4_K", "-o", "y"], ["-o", "y", "--outtype", "q4"]],
)
def test_contradictions_are_usage_errors(arguments: list[str], tmp_path: Path) -> None:
    assert mqnative("convert", tmp_path, *arguments).code == 2


# ---- The tables


def test_the_converters_tables_are_read_without_running_it() -> None:
    known = architectures()
    assert len(known.text) > 200
    assert len(known.mmproj) > 30
    assert gguf_architecture("Qwen3ForCausalLM") == "qwen3"
    assert gguf_architecture("MixtralForCausalLM") == "llama"
    assert gguf_architecture("Qwen3VLForConditionalGeneration") == "qwen3vl"
    unknown = [name for name in known.text if gguf_architecture(name) is None]
    assert len(unknown) < 5


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["A"]}, "A"),
        ({"architectures": ["A"], "text_config": {"architectures": ["B"]}}, "B"),
        ({"architectures": ["KimiK3ForConditionalGeneration"], "text_config": {"architectures": ["B"]}},
         "KimiK3ForConditionalGeneration"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "Mamba2ForCausalLM"),
        ({"architectures": []}, None),
        ({"architectures": "A"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_text_part_of_a_model_decides(config: dict[str, Any], expected: str | None) -> None:
    assert text_architecture(config) == expected


def test_the_help_names_what_it_takes() -> None:
    assert mqnative("convert", "--help").code == DONE
