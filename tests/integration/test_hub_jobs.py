"""Jobs whose model is not on this machine yet: planned to their end, recorded by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_process import DONE, Finished, mqnative
from hf_models import builtin_checkpoint
from hub_server import HubServer
from mqnative import builtin

NAME = "acme/m"
SWEEP = ("sweep", NAME, "--types", "Q4_K")


class Machine:
    """A hub with the built-in model, and a machine that has nothing of it."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.commit = hub.add(NAME, {"m-bf16.gguf": builtin.MODEL, "README.md": "hello"}).refs["main"]
        self.env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "",
            "MQNATIVE_HOME": str(folder / "home"),
        }

    def run(self, *arguments: object) -> Finished:
        return mqnative(*arguments, env=self.env)

    def json(self, *arguments: object) -> Any:
        done = self.run(*arguments, "--json")
        assert done.code == DONE, done.err
        return done.json


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HubServer() as hub:
        yield Machine(hub, tmp_path)


def names(plan: dict[str, Any]) -> list[str]:
    return [step["name"] for step in plan["steps"]]


def test_a_model_on_the_hub_is_planned_to_the_end_by_its_header(machine: Machine) -> None:
    text = machine.folder / "calib.txt"
    text.write_text(builtin.CALIB_TEXT.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    job = ("--bpw", "4.5", "--calib", text, "-o", machine.folder / "out", "--plan")
    here = machine.json("auto", builtin.MODEL, *job)
    there = machine.json("auto", NAME, *job)
    assert names(there) == [f"download {NAME}", *names(here)]
    download = there["steps"][0]
    assert download["size_bytes"] == builtin.MODEL.stat().st_size
    assert there["size_bytes"] == here["size_bytes"] + download["size_bytes"]
    assert [s["amount"] for s in there["steps"][1:]] == [s["amount"] for s in here["steps"]]
    assert not (machine.folder / "out").exists()
    assert machine.hub.sent_bytes < builtin.MODEL.stat().st_size


def test_a_checkpoint_is_planned_to_the_end_before_it_is_converted(machine: Machine) -> None:
    folder = builtin_checkpoint(machine.folder / "source")
    machine.hub.add_folder("acme/checkpoint", folder)
    here = machine.json("sweep", builtin.MODEL, "--types", "Q4_K", "--plan")
    assert names(here) == ["hash", "weight errors"]
    local = machine.json("sweep", folder, "--types", "Q4_K", "--plan")
    remote = machine.json("sweep", "acme/checkpoint", "--types", "Q4_K", "--plan")
    assert names(local) == ["convert", *names(here)]
    assert names(remote) == ["download acme/checkpoint", *names(local)]
    assert [plan["steps"][-1]["amount"] for plan in (local, remote)] == [here["steps"][-1]["amount"]] * 2
    assert local["steps"][0]["size_bytes"] == pytest.approx(builtin.MODEL.stat().st_size, rel=0.1)
    assert names(machine.json("convert", folder, "-o", machine.folder / "o.gguf", "--plan")) == ["convert"]


def test_a_rebuild_is_planned_to_the_byte(machine: Machine) -> None:
    built = machine.json("build", builtin.MODEL, "--preset", "Q4_K_M", "-o", machine.folder / "o.gguf")
    options = ("--manifest", built["manifest_path"], "-o", machine.folder / "again.gguf", "--plan")
    for model in (builtin.MODEL, NAME):
        plan = machine.json("build", model, *options)
        assert plan["steps"][-1]["name"] == "build"
        assert plan["steps"][-1]["size_bytes"] == built["size_bytes"]
    assert not (machine.folder / "again.gguf").exists()


def test_a_job_on_a_hub_id_keeps_its_estimate_and_the_hashes_of_its_weights(machine: Machine) -> None:
    machine.json(*SWEEP)
    job = machine.json("jobs", "show", 1)
    assert names(job["estimate"]) == [f"download {NAME}", "hash", "weight errors"]
    rows = {r["step"]: r for r in job["compared"]}
    assert all(rows[name]["expected_s"] > 0 and rows[name]["actual_s"] > 0 for name in names(job["estimate"]))
    digest = hashlib.sha256(builtin.MODEL.read_bytes()).hexdigest()
    hub, file = job["inputs"]["model"]
    assert (hub["path"], hub["commit"]) == (f"{NAME}@{machine.commit}", machine.commit)
    assert {f["name"]: f["sha256"] for f in hub["files"]}["m-bf16.gguf"] == digest
    local = machine.json("sweep", builtin.MODEL, "--types", "Q4_K")
    assert local
    assert machine.json("jobs", "show", 2)["inputs"]["model"][0]["sha256"] == file["sha256"] is not None
    shown = machine.run("jobs", "show", 1).out
    assert digest in shown.replace("\n", "").replace(" ", "")
    # What was measured is known to the next plan, which downloads nothing.
    again = machine.json(*SWEEP, "--plan")
    assert [(s["name"], s["basis"]) for s in again["steps"]] == [("weight errors", "kept")]


def test_a_download_is_estimated_while_it_runs_and_compared_afterwards(machine: Machine) -> None:
    planned = machine.json("fetch", NAME, "--plan")
    assert names(planned) == [f"download {NAME}"]
    machine.json("fetch", NAME)
    job = machine.json("jobs", "show", 1)
    assert job["estimate"]["steps"][0]["size_bytes"] == planned["size_bytes"] == builtin.MODEL.stat().st_size
    assert [r["step"] for r in job["compared"] if r["actual_s"]] == [f"download {NAME}"]
    assert machine.json("fetch", NAME, "--plan")["steps"] == []
    # The network of one download is that of the next.
    machine.hub.add("acme/other", {"o-bf16.gguf": builtin.MODEL})
    assert machine.json("fetch", "acme/other", "--plan")["steps"][0]["basis"] == "measured"
