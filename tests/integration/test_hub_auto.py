"""From a hub id to a proven file with one command, and what of that the network sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cli_process import DONE, FAILED, Finished, mqnative
from hf_models import builtin_checkpoint, llama_config, random_tensors, vision_checkpoint, write_checkpoint
from hub_server import HubServer
from mqnative import builtin
from mqnative.build.plan import model_tensors
from mqnative.formats.gguf import GGUFFile
from socket_watch import TOUCHED, watched
from tiny_models import TinyModels

needs_converter = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torch", "transformers", "sentencepiece")),
    reason="torch, transformers and sentencepiece (the extra 'convert') are not installed",
)
TOKEN = "hf_" + "SECRET" * 5
# Small chunks and no probes: what is measured is not the subject here.
EFFORT = (
    "--fast",
    "--refine",
    "0",
    "--ctx",
    "64",
    "--verify-chunks",
    "4",
    "--types",
    "Q8_0,Q6_K,Q5_K,Q4_K,Q3_K",
)


class Machine:
    """A user's machine and a hub that it can reach."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.text = folder / "calib.txt"
        self.text.write_text(builtin.CALIB_TEXT.read_text(encoding="utf-8")[:12_000], encoding="utf-8")
        self.env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "",
            "MQNATIVE_HOME": str(folder / "home"),
        }

    def auto(self, model: object, out: str, *more: object, bpw: float = 5.0, **env: str) -> Finished:
        """The main job."""
        texts = ("--calib", self.text, "-o", self.folder / out)
        return mqnative(
            "auto", model, "--bpw", bpw, *texts, *EFFORT, *more, "--json", env={**self.env, **env}
        )

    def best(self, model: object, out: str, *more: object, bpw: float = 5.0, **env: str) -> Any:
        """The same, ended well, with the model checked against its plan and manifest."""
        done = self.auto(model, out, *more, bpw=bpw, **env)
        assert done.code == DONE, done.err
        found = done.json
        with GGUFFile.open(found["model_path"]) as file:
            assert {t["name"]: t["type"] for t in found["tensors"]} == {
                n: t.qtype.name for n, t in file.tensors.items()
            }
            assert file.bpw <= bpw
        assert found["kld_mean"] > 0
        assert found["baselines"]
        assert {m["verdict"] for m in found["baselines"]} <= {"better", "worse", "tie"}
        return found

    def files_with(self, words: str) -> list[str]:
        """Everything on the machine that holds ``words``."""
        files = [p for p in self.folder.rglob("*") if p.is_file() and not p.is_symlink()]
        return [str(p) for p in files if words.encode() in p.read_bytes()]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HubServer() as hub:
        hub.tokens[TOKEN] = "me"
        yield Machine(hub, tmp_path)


def test_a_gguf_of_the_hub_is_used_directly_and_its_projector_goes_along(
    machine: Machine, tiny_models: TinyModels
) -> None:
    projector = b"GGUF" + bytes(5000)
    experts = tiny_models.moe.read_bytes()
    files = {"m-BF16.gguf": experts, "m-Q4_K_M.gguf": b"GGUF", "mmproj-m-f16.gguf": projector}
    repo = machine.hub.add("acme/experts-GGUF", files, gated="manual")
    repo.readers.add("me")
    found = machine.best("acme/experts-GGUF", "out", bpw=6.0)
    out = machine.folder / "out"
    assert (out / "mmproj-m-f16.gguf").read_bytes() == projector
    assert found["launch_flags"] == ["--mmproj", str(out / "mmproj-m-f16.gguf")]
    assert str(out / "mmproj-m-f16.gguf") in found["files"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["origin"] == f"acme/experts-GGUF@{repo.refs['main']}"
    assert "mqnative auto acme/experts-GGUF --calib" in (out / "report.md").read_text()
    assert not machine.hub.asked("Q4_K_M", "GET", "store")
    assert [p.name for p in out.glob("*.gguf") if not p.name.startswith("mmproj")] == [
        Path(found["model_path"]).name
    ]
    # The token went to the hub, and nowhere else.
    assert {r.token for r in machine.hub.requests if r.server == "hub"} == {TOKEN}
    assert {r.token for r in machine.hub.requests if r.server == "store"} == {None}
    assert machine.files_with(TOKEN) == []
    asked = len(machine.hub.requests)
    watch = watched(machine.folder / "watch")
    again = machine.best("acme/experts-GGUF", "out", "--offline", bpw=6.0, **watch)
    assert again["reused"] is True
    assert len(machine.hub.requests) == asked
    assert machine.auto("acme/experts-GGUF", "out", bpw=6.0, **watch).code == TOUCHED  # the watch works
    # What it was made of is found again, by the commit in the manifest.
    rebuilt = machine.folder / "again.gguf"
    arguments = (manifest["origin"], "--manifest", out / "manifest.json", "-o", rebuilt)
    done = mqnative("build", *arguments, "--offline", env=machine.env | watch)
    assert done.code == DONE, done.err
    assert rebuilt.read_bytes() == Path(found["model_path"]).read_bytes()


def test_a_mistake_in_the_arguments_shows_before_anything_is_fetched(machine: Machine) -> None:
    machine.hub.add("acme/G", {"m-bf16.gguf": builtin.MODEL})
    done = machine.auto("acme/G", "out", "--eval", machine.folder / "none.txt")
    assert done.code == FAILED
    assert "none.txt" in done.err
    assert machine.hub.requests == []


def test_a_name_that_lies_is_found_out_by_the_header(machine: Machine, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    assert mqnative("build", builtin.MODEL, "--preset", "Q4_0", "-o", small).code == DONE
    machine.hub.add("acme/G", {"m-bf16.gguf": small})
    done = machine.auto("acme/G", "out")
    assert done.code == FAILED
    assert "m-bf16.gguf of acme/G is quantized, whatever its name says" in done.err
    assert machine.hub.sent_bytes < small.stat().st_size


@needs_converter
@pytest.mark.parametrize("kind", ["dense", "tied"])
def test_a_checkpoint_of_the_hub_becomes_a_proven_file(kind: str, machine: Machine) -> None:
    if kind == "dense":
        source = builtin_checkpoint(machine.folder / "source", n_shards=2)
    else:
        config = llama_config()
        source = write_checkpoint(machine.folder / "source", config, random_tensors(config))
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    repo = machine.hub.add_folder("acme/tiny", source)
    found = machine.best("acme/tiny", "out")
    with GGUFFile.open(found["model_path"]) as file:
        assert file.get("general.license") == "mit"
        movable = [n for n, t in model_tensors(file).items() if t.quantizable]
        assert {file.tensors[n].qtype.name for n in movable} <= {"Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K"}
    assert machine.files_with(TOKEN) == []
    sent = machine.hub.sent_bytes
    other = machine.best(f"acme/tiny@{repo.refs['main']}", "other", bpw=6.0)
    assert other["size_bytes"] > found["size_bytes"]
    assert machine.hub.sent_bytes == sent  # neither fetched nor converted again
    plan = mqnative("publish", machine.folder / "out", "me/tiny-GGUF", "--dry-run", "--json", env=machine.env)
    assert plan.code == DONE, plan.err
    assert "base_model: acme/tiny\n" in plan.json["card"]
    assert "license: mit\n" in plan.json["card"]
    assert f"mqnative build acme/tiny@{repo.refs['main']} --manifest manifest.json" in plan.json["card"]


@needs_converter
def test_offline_converts_what_is_on_this_machine_and_opens_no_socket(machine: Machine) -> None:
    machine.hub.add_folder("acme/seer", vision_checkpoint(machine.folder / "source"))
    assert mqnative("fetch", "acme/seer", env=machine.env).code == DONE
    asked = len(machine.hub.requests)
    watch = watched(machine.folder / "watch")
    output = machine.folder / "seer.gguf"
    done = mqnative("convert", "acme/seer", "-o", output, "--offline", "--json", env=machine.env | watch)
    assert done.code == DONE, done.err
    assert done.json["launch_flags"] == ["--mmproj", str(machine.folder / "mmproj-seer.gguf")]
    assert "SOCKET" not in done.err
    for command in (("inspect", "acme/seer"), ("convert", "acme/seer", "--dry-run")):
        assert mqnative(*command, "--offline", env=machine.env | watch).code == DONE
    assert len(machine.hub.requests) == asked
