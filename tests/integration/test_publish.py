"""``mqnative publish`` to a hub on the loopback: what is sent, what is not sent twice, what is refused."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_process import DONE, FAILED, USAGE, Finished, mqnative, started
from hub_handlers import SIGNATURE, Fault
from hub_server import HubServer
from mqnative import builtin
from mqnative.report.jsonform import to_json
from report_samples import dense

TOKEN = "hf_" + "SECRET" * 5
READ_ONLY = "hf_" + "READER" * 5
MODEL = "tiny-mqnative-4.50bpw.gguf"
PROJECTOR = "mmproj-tiny-bf16.gguf"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.tokens |= {TOKEN: "me", READ_ONLY: "you"}
        server.writers.add("me")
        yield server


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder as `mqnative auto` leaves it."""
    folder = tmp_path / "out"
    (folder / "work").mkdir(parents=True)
    model = builtin.MODEL.read_bytes()
    (folder / MODEL).write_bytes(model)
    projector = b"GGUF" + bytes(2_000_000)
    (folder / PROJECTOR).write_bytes(projector)
    (folder / "recipe.yaml").write_text("mqnative: recipe/1\n")
    (folder / "report.html").write_text("<!DOCTYPE html>")
    (folder / "work" / "imatrix.gguf").write_bytes(b"GGUF imatrix")
    (folder / "work" / "request.json").write_text("{}")
    (folder / "notes.txt").write_text("not for publication")
    names = (MODEL, PROJECTOR, "recipe.yaml", "report.html")
    manifest = {
        "mqnative": "manifest/1",
        "model_file": MODEL,
        "files": {n: (folder / n).stat().st_size for n in names},
        "files_sha256": {MODEL: hashlib.sha256(model).hexdigest()},
        "mmproj": {"file": PROJECTOR, "sha256": hashlib.sha256(projector).hexdigest()},
        "origin": f"acme/tiny@{'c0' * 20}",
        "evaluation": to_json(dense()),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


PUBLISHED = {
    MODEL, PROJECTOR, "recipe.yaml", "report.html", "work/imatrix.gguf", "manifest.json", "plots/plot-1.svg",
    "plots/plot-2.svg", "README.md",
}  # fmt: skip


def run(hub: HubServer, folder: Path, *arguments: object, token: str = TOKEN) -> Finished:
    env = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(folder.parent / "hf"),
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "",
    }
    done = mqnative("publish", folder, *arguments, "--json", env=env)
    assert TOKEN not in done.out + done.err
    assert SIGNATURE not in done.out + done.err
    assert "Traceback" not in done.err
    return done


def published(hub: HubServer, folder: Path, *arguments: object) -> Any:
    done = run(hub, folder, "me/tiny-GGUF", *arguments)
    assert done.code == DONE, done.err
    return done.json


def test_a_dry_run_shows_what_would_be_sent_and_opens_no_socket(hub: HubServer, finished: Path) -> None:
    found = published(hub, finished, "--dry-run", "--license", "mit")
    assert {f["name"] for f in found["files"]} == PUBLISHED
    for file in found["files"]:
        if file["path"] is not None:
            data = Path(file["path"]).read_bytes()
            assert (file["size_bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert found["commit"] is None
    assert hub.requests == []
    head, _, body = found["card"].removeprefix("---\n").partition("\n---\n")
    about = yaml.safe_load(head)
    assert about["base_model"] == "acme/tiny"
    assert about["base_model_relation"] == "quantized"
    assert about["license"] == "mit"
    assert about["library_name"] == "gguf"
    assert "| mix | size | bpw |" in body
    assert "![File size against KL divergence](plots/plot-1.svg)" in body
    assert f"llama-mtmd-cli -m {MODEL} --mmproj {PROJECTOR}" in body
    assert f"mqnative build acme/tiny@{'c0' * 20} --manifest manifest.json -o {MODEL}" in body
    assert "notes.txt" not in body


def test_everything_appears_in_one_commit_and_is_not_sent_twice(hub: HubServer, finished: Path) -> None:
    planned = published(hub, finished, "--dry-run")
    found = published(hub, finished)
    repo = hub.repos["me/tiny-GGUF"]
    assert found["created"] is True
    assert found["commit"] == repo.refs["main"]
    assert len(repo.commits) == 2  # the empty one and ours
    files = repo.head()
    assert set(files) == PUBLISHED | {".gitattributes"}
    for file in planned["files"]:
        stored = files[file["name"]]
        data = stored.read(0, stored.size)
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    assert files["README.md"].read(0, 1 << 20).decode() == planned["card"]
    assert len(hub.asked("/upload/", "PUT")) >= 17 + 2  # parts of a megabyte
    sent = len(hub.asked("/upload/"))
    again = published(hub, finished)
    assert again["sent_bytes"] == 0
    assert again["commit"] == found["commit"]
    assert len(hub.asked("/upload/")) == sent
    assert len(repo.commits) == 2
    assert {r.token for r in hub.requests if r.server == "store"} == {None}


def test_only_what_changed_is_sent(hub: HubServer, finished: Path) -> None:
    published(hub, finished)
    (finished / "report.html").write_text("<!DOCTYPE HTML>")
    found = published(hub, finished, "-m", "A better page")
    assert [f["name"] for f in found["files"] if f["sent"]] == [
        "report.html",
        "README.md",
    ]  # which tells its hash
    assert hub.repos["me/tiny-GGUF"].head()["report.html"].read(0, 100) == b"<!DOCTYPE HTML>"


def test_an_upload_that_broke_off_goes_on_with_the_next_file(hub: HubServer, finished: Path) -> None:
    size = (finished / PROJECTOR).stat().st_size
    oid = hashlib.sha256((finished / PROJECTOR).read_bytes()).hexdigest()
    hub.faults = [Fault(f"/upload/{oid}/", times=100, status=403)]
    done = run(hub, finished, "me/tiny-GGUF")
    assert done.code == FAILED
    assert done.json["error"] == "HubError"
    repo = hub.repos["me/tiny-GGUF"]
    assert set(repo.head()) == {".gitattributes"}  # visitors see nothing
    hub.faults = []
    before = len(hub.requests)
    found = published(hub, finished)
    puts = [r for r in hub.requests[before:] if r.method == "PUT"]
    model = hashlib.sha256((finished / MODEL).read_bytes()).hexdigest()
    assert not [r for r in puts if model in r.path]
    assert len([r for r in puts if oid in r.path]) == -(-size // hub.chunk_size)
    assert set(repo.head()) == PUBLISHED | {".gitattributes"}
    assert found["commit"] == repo.refs["main"]


def test_a_connection_cut_in_the_middle_of_a_part_is_tried_again(hub: HubServer, finished: Path) -> None:
    hub.faults = [Fault("/upload/.*/3", times=1, cut_after=100_000, method="PUT")]
    published(hub, finished)
    assert hub.faults[0].times == 0
    model = hub.repos["me/tiny-GGUF"].head()[MODEL]
    assert model.read(0, model.size) == builtin.MODEL.read_bytes()


def test_a_stopped_upload_leaves_nothing_half_published(hub: HubServer, finished: Path) -> None:
    hub.faults = [Fault("/upload/.*/9", times=100, status=503, headers={"Retry-After": "30"}, method="PUT")]
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(finished.parent / "hf"), "HF_TOKEN": TOKEN}
    with started("publish", finished, "me/tiny-GGUF", env=env) as running:
        running.wait_for(lambda: bool(hub.asked("/upload/.*/9")))
        done = running.send(signal.SIGINT)
    assert done.code == 130
    assert set(hub.repos["me/tiny-GGUF"].head()) == {".gitattributes"}
    hub.faults = []
    published(hub, finished)
    assert set(hub.repos["me/tiny-GGUF"].head()) == PUBLISHED | {".gitattributes"}


def test_who_may_not_write_is_told_what_it_takes(hub: HubServer, finished: Path) -> None:
    done = run(hub, finished, "me/tiny-GGUF", token="")
    assert done.code == FAILED
    assert "takes a token with write access; log in with `hf auth login`, set HF_TOKEN" in done.err
    assert hub.requests == []
    done = run(hub, finished, "me/tiny-GGUF", token=READ_ONLY)
    assert "the token may not write to me/tiny-GGUF; use one with write access" in done.err
    done = run(hub, finished, "acme/tiny-GGUF")
    assert "the token may not write to acme/tiny-GGUF" in done.err
    done = run(hub, finished, "me/tiny-GGUF", token="hf_wrong")
    assert "the hub refused the token: it is wrong, revoked or expired" in done.err
    assert READ_ONLY not in done.err
    done = run(hub, finished, "me/tiny-GGUF", "--offline")
    assert done.code == FAILED
    assert hub.repos == {}


def test_what_is_not_what_was_measured_is_not_published(hub: HubServer, finished: Path) -> None:
    (finished / PROJECTOR).write_bytes(b"GGUF" + bytes(1_999_999) + b"!")
    assert f"{PROJECTOR} is not what the manifest says" in run(hub, finished, "me/tiny-GGUF").err
    data = bytearray(builtin.MODEL.read_bytes())
    data[-1] ^= 1
    (finished / MODEL).write_bytes(data)
    done = run(hub, finished, "me/tiny-GGUF")
    assert done.code == FAILED
    assert f"{MODEL} is not what the manifest says" in done.err
    (finished / MODEL).unlink()
    assert f"{MODEL}, which the manifest names, cannot be read" in run(hub, finished, "me/tiny-GGUF").err
    (finished / "manifest.json").write_text("{")
    assert "is damaged" in run(hub, finished, "me/tiny-GGUF").err
    (finished / "manifest.json").write_text(json.dumps({"model_file": "../x.gguf"}))
    assert "outside its folder" in run(hub, finished, "me/tiny-GGUF").err
    (finished / "manifest.json").unlink()
    assert "holds no finished run" in run(hub, finished, "me/tiny-GGUF").err
    assert hub.requests == []


def test_a_card_of_ones_own_is_taken(hub: HubServer, finished: Path) -> None:
    (finished / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert published(hub, finished)["card"].endswith("# Mine\n")
    assert hub.repos["me/tiny-GGUF"].head()["README.md"].read(0, 100).endswith(b"# Mine\n")
    (finished / "README.md").write_text("# No metadata\n")
    card = published(hub, finished)["card"]
    assert card.endswith("---\n\n# No metadata\n")
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "acme/tiny"
    (finished / "README.md").write_text("---\nlicense: [\n---\n# Broken\n")
    done = run(hub, finished, "me/tiny-GGUF")
    assert done.code == FAILED
    assert "the hub refused the upload" in done.err


def test_a_release_of_several_files_goes_out_as_it_lies_there(hub: HubServer, finished: Path) -> None:
    second = "tiny-Q3.gguf"
    (finished / second).write_bytes(builtin.MODEL.read_bytes()[:-1] + b"!")
    (finished / "README.md").write_text("# A release\n")
    names = (MODEL, second, "report.html", "README.md")
    hashes = {n: hashlib.sha256((finished / n).read_bytes()).hexdigest() for n in names[:2]}
    manifest = {
        "mqnative": "hybrids/1",
        "survivors": [{"model_path": n} for n in names[:2]],
        "files": {n: (finished / n).stat().st_size for n in names},
        "files_sha256": hashes,
    }
    (finished / "manifest.json").write_text(json.dumps(manifest))
    found = published(hub, finished, "--base-model", "acme/tiny")
    others = {"manifest.json", "work/imatrix.gguf", ".gitattributes"}
    assert set(hub.repos["me/tiny-GGUF"].head()) == others | set(names)
    assert found["card"].endswith("# A release\n")
    (finished / second).write_bytes(builtin.MODEL.read_bytes())
    assert f"{second} is not what the manifest says" in run(hub, finished, "me/tiny-GGUF").err


@pytest.mark.parametrize("repo", ["tiny", "me/tiny/x.gguf", "me/tiny@v1", "me/ti--ny", "../x"])
def test_what_is_no_repository_is_refused(repo: str, hub: HubServer, finished: Path) -> None:
    assert run(hub, finished, repo).code in (FAILED, USAGE)
    assert hub.requests == []
