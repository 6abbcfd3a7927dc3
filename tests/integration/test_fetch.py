"""``mqnative fetch`` against a hub on the loopback: what is asked, what breaks, what is said and kept."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_process import DONE, FAILED, USAGE, Finished, mqnative, started
from hub_content import Content, sparse
from hub_handlers import SIGNATURE, Fault
from hub_server import HubServer
from mqnative import builtin
from socket_watch import TOUCHED, watched

TOKEN = "hf_" + "SECRET" * 5
MEGABYTE = 1 << 20


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.tokens[TOKEN] = "me"
        yield server


class Machine:
    """A machine with a cache of its own, and the hub it knows."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "MQNATIVE_HOME": str(folder / "home"),
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "",
        }

    def run(self, *arguments: object, **env: str) -> Finished:
        done = mqnative(*arguments, env=self.env | env)
        assert TOKEN not in done.out + done.err
        assert SIGNATURE not in done.out + done.err
        assert "Traceback" not in done.err
        return done

    def fetch(self, *arguments: object, **env: str) -> Any:
        done = self.run("fetch", *arguments, "--json", **env)
        assert done.code == DONE, done.err
        return done.json

    def refused(self, *arguments: object, **env: str) -> str:
        """The one sentence of a failed run."""
        done = self.run("fetch", *arguments, "--json", **env)
        assert done.code == FAILED
        sentences = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1, done.err
        assert done.json["message"] == sentences[0].removeprefix("error: ")
        return sentences[0]

    def parts(self) -> list[Path]:
        return sorted((self.folder / "hf").rglob("*.incomplete"))

    def has_part_over(self, size: int) -> bool:
        """Whether a download has come so far; the small files' parts come and go meanwhile."""
        for part in self.parts():
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_size > size:
                    return True
        return False


@pytest.fixture
def machine(hub: HubServer, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def weights(n_bytes: int = 3 * MEGABYTE) -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(i % 251 for i in range(256)) * (n_bytes // 256)


def checkpoint(data: bytes | Content | None = None) -> dict[str, Any]:
    return {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "modeling.py": "raise SystemExit('never run')",
        "pytorch_model.bin": b"old",
        "model.safetensors": weights() if data is None else data,
    }


def test_only_what_makes_the_model_is_fetched_and_only_once(machine: Machine) -> None:
    repo = machine.hub.add("acme/tiny", checkpoint())
    found = machine.fetch("acme/tiny")
    names = [f["name"] for f in found["files"]]
    assert names == ["config.json", "tokenizer.json", "model.safetensors"]
    assert found["commit"] == repo.refs["main"]
    assert found["downloaded_bytes"] == sum(f["size_bytes"] for f in found["files"])
    for file in found["files"]:
        data = Path(file["path"]).read_bytes()
        assert data == repo.head()[file["name"]].read(0, len(data) + 1)
    sent = machine.hub.sent_bytes
    again = machine.fetch("acme/tiny")
    assert again["downloaded_bytes"] == 0
    assert again["path"] == found["path"]
    assert machine.hub.sent_bytes == sent
    assert not machine.hub.asked(r"modeling|pytorch_model")


def test_no_telemetry_is_sent_and_no_token_leaves_the_hub(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    machine.fetch("acme/tiny", HF_TOKEN=TOKEN)
    known = r"^/api/models/acme/tiny\?blobs=true$|^/acme/tiny/resolve/|Signature="
    assert machine.hub.asked(known) == machine.hub.requests
    assert {r.token for r in machine.hub.requests if r.server == "hub"} == {TOKEN}
    assert {r.token for r in machine.hub.requests if r.server == "store"} == {None}
    agents = {r.headers.get("user-agent", "") for r in machine.hub.requests}
    assert not any("torch" in a or "agent/" in a for a in agents), agents


def test_a_gguf_repository_gives_the_file_itself(machine: Machine) -> None:
    machine.hub.add(
        "acme/G",
        {"README.md": "x", "m-bf16.gguf": builtin.MODEL, "m-Q4_K_M.gguf": b"GGUF", "mmproj-F16.gguf": b"G"},
    )
    found = machine.fetch("acme/G")
    assert found["kind"] == "gguf"
    assert Path(found["path"]).read_bytes() == builtin.MODEL.read_bytes()
    assert Path(found["mmproj_path"]).name == "mmproj-F16.gguf"
    assert machine.run("inspect", found["path"]).code == DONE
    assert Path(machine.fetch("acme/G/m-Q4_K_M.gguf")["path"]).read_bytes() == b"GGUF"


def test_a_dry_run_tells_and_fetches_nothing_large(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    found = machine.fetch("acme/tiny", "--dry-run")
    assert found["path"] is None
    assert found["remaining_bytes"] == found["size_bytes"] > 3 * MEGABYTE
    assert machine.hub.sent_bytes < MEGABYTE


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(machine: Machine) -> None:
    repo = machine.hub.add("acme/tiny", checkpoint())
    size = repo.head()["model.safetensors"].size
    machine.hub.faults = [Fault(r"safetensors\?", skip=1, times=3, cut_after=MEGABYTE // 2)]
    found = machine.fetch("acme/tiny")
    assert Path(found["files"][-1]["path"]).read_bytes() == repo.head()["model.safetensors"].read(0, size)
    # The header is read before the download, and a cut may lose what was on its way.
    assert machine.hub.sent_bytes <= size + 6 * (1 << 16)
    ranges = [r.headers["range"] for r in machine.hub.asked(r"safetensors\?")][1:]
    starts = [int(r.removeprefix("bytes=").split("-")[0]) for r in ranges]
    assert starts == sorted(set(starts))
    assert len(starts) == 4
    assert machine.parts() == []


def test_a_connection_that_stays_broken_keeps_what_came(machine: Machine) -> None:
    repo = machine.hub.add("acme/tiny", checkpoint())
    fault = Fault(r"safetensors\?", skip=1, times=1, cut_after=MEGABYTE)
    dead = Fault(r"safetensors\?", skip=1, times=100, status=503, headers={"Retry-After": "0"})
    machine.hub.faults = [fault, dead]
    assert "out of order at the moment (503)" in machine.refused("acme/tiny")
    kept = [p.stat().st_size for p in machine.parts()]
    assert len(kept) == 1
    assert kept[0] >= MEGABYTE // 2
    machine.hub.faults = []
    before = machine.hub.sent_bytes
    found = machine.fetch("acme/tiny")
    size = repo.head()["model.safetensors"].size
    assert machine.hub.sent_bytes - before <= size - kept[0] + (1 << 16) + 100
    assert Path(found["files"][-1]["path"]).read_bytes() == repo.head()["model.safetensors"].read(0, size)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_download_goes_on_where_it_was(machine: Machine, number: signal.Signals) -> None:
    data = weights(64 * MEGABYTE)
    machine.hub.add("acme/tiny", checkpoint(data))
    with started("fetch", "acme/tiny", env=machine.env) as running:
        running.wait_for(lambda: machine.has_part_over(MEGABYTE))
        done = running.send(number)
    assert done.code == {signal.SIGKILL: -9}.get(number, 130)
    kept = machine.parts()[0].stat().st_size
    assert MEGABYTE < kept < len(data)
    before = machine.hub.sent_bytes
    found = machine.fetch("acme/tiny")
    assert Path(found["files"][-1]["path"]).read_bytes() == data
    assert machine.hub.sent_bytes - before < len(data) - kept + (1 << 17)


def test_a_server_without_ranges_is_read_from_the_start(machine: Machine) -> None:
    repo = machine.hub.add("acme/tiny", checkpoint())
    data = repo.head()["model.safetensors"].read(0, 4 * MEGABYTE)
    machine.hub.faults = [Fault(r"safetensors\?", skip=1, times=1, cut_after=MEGABYTE)]
    machine.hub.ranges = False
    found = machine.fetch("acme/tiny")
    assert Path(found["files"][-1]["path"]).read_bytes() == data


def test_wrong_bytes_never_get_a_name(machine: Machine) -> None:
    good = weights()
    wrong = Content(len(good), good[:-1] + b"!", large=True, claimed_sha256="ab" * 32)
    machine.hub.add("acme/tiny", checkpoint(wrong))
    said = machine.refused("acme/tiny")
    assert "model.safetensors of acme/tiny arrived with the hash" in said
    assert "abababababababab..." in said
    assert not list((machine.folder / "hf").rglob("model.safetensors"))
    assert machine.parts() == []
    machine.hub.add("acme/tiny", checkpoint(good))
    assert machine.fetch("acme/tiny")["kind"] == "safetensors"


def test_what_does_not_fit_on_the_disk_is_refused_before_the_first_byte(machine: Machine) -> None:
    size = 1 << 55
    header = weights(256)[:-256].replace(b"[256]", b"[%d]" % size).replace(b"[0, 256]", b"[0, %d]" % size)
    header = (len(header) - 8).to_bytes(8, "little") + header[8:]
    machine.hub.add("acme/huge", checkpoint(sparse(header, len(header) + size)))
    said = machine.refused("acme/huge")
    assert "the download of acme/huge takes 36,028,797.02 GB, but the disk of" in said
    assert machine.hub.sent_bytes < MEGABYTE
    assert machine.parts() == []


def test_gated_repositories_say_what_to_do(machine: Machine) -> None:
    repo = machine.hub.add("acme/gated", checkpoint(), gated="manual")
    assert "acme/gated is gated: accept its conditions on its page, then log in with" in machine.refused(
        "acme/gated"
    )
    said = machine.refused("acme/gated", "--token", TOKEN)
    assert "the token's account is not on its list: accept the conditions" in said
    assert "Read access to contents of all public gated repos you can access" in said
    repo.readers.add("me")
    assert machine.fetch("acme/gated", HF_TOKEN=TOKEN)["kind"] == "safetensors"


def test_a_login_is_used(machine: Machine) -> None:
    repo = machine.hub.add("acme/gated", checkpoint(), gated="auto")
    repo.readers.add("me")
    login = Path(machine.env["HF_HOME"])
    login.mkdir(parents=True)
    (login / "token").write_text(TOKEN)
    assert machine.fetch("acme/gated")["kind"] == "safetensors"


def test_missing_private_and_unknown_things_are_told_apart(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    private = machine.hub.add("acme/private", checkpoint(), private=True)
    for name in ("acme/private", "acme/nothing"):
        said = machine.refused(name)
        assert f"there is no {name}" in said
        assert "log in with `hf auth login`, set HF_TOKEN or pass --token" in said
        assert "the token's account must be able to read it" in machine.refused(name, HF_TOKEN=TOKEN)
    private.readers.add("me")
    assert machine.fetch("acme/private", HF_TOKEN=TOKEN)["kind"] == "safetensors"
    assert "the hub refused the token: it is wrong, revoked or expired" in machine.refused(
        "acme/tiny", HF_TOKEN="hf_no"
    )
    assert "acme/tiny has no revision 'v9'" in machine.refused("acme/tiny@v9")
    assert "acme/tiny has no x.gguf" in machine.refused("acme/tiny/x.gguf")


def test_a_revision_is_a_branch_a_tag_or_a_commit(machine: Machine) -> None:
    repo = machine.hub.add("acme/tiny", checkpoint())
    first = repo.refs["main"]
    repo.refs["refs/pr/1"] = first
    repo.commit(dict(repo.head()) | {"config.json": Content(5, b'{"1"}')})
    assert machine.fetch("acme/tiny")["commit"] == repo.refs["main"] != first
    assert machine.fetch("acme/tiny@refs/pr/1")["commit"] == first
    assert machine.fetch(f"acme/tiny@{first}")["commit"] == first
    assert machine.fetch("acme/tiny@refs/pr/1", "--offline")["commit"] == first


def test_too_many_requests_are_waited_for_if_that_is_short(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    machine.hub.faults = [
        Fault(p, status=429, headers={"Retry-After": "0"}) for p in ("/api/", "resolve", "Sig")
    ]
    assert machine.fetch("acme/tiny")["kind"] == "safetensors"
    assert all(f.times == 0 for f in machine.hub.faults)


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_too_many_requests_for_long_are_an_error(machine: Machine, where: str) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    limit = {"RateLimit": '"api";r=0;t=280', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    machine.hub.faults = [Fault(where, times=100, status=429, headers=limit)]
    assert "too many requests (429); try again in 280 s, or log in" in machine.refused("acme/tiny")


def test_a_mirror_that_tells_names_only_is_asked_for_its_tree(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    machine.hub.plain_info = True
    assert machine.fetch("acme/tiny")["kind"] == "safetensors"


def test_offline_opens_no_socket(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    machine.hub.add("acme/other", checkpoint())
    path = machine.fetch("acme/tiny")["path"]
    watch = watched(machine.folder / "watch")
    asked = len(machine.hub.requests)
    for offline in ({"HF_HUB_OFFLINE": "1"}, {"TRANSFORMERS_OFFLINE": "yes"}, {}):
        flags = [] if offline else ["--offline"]
        env = {**watch, **offline}
        assert machine.fetch("acme/tiny", *flags, **env)["path"] == path
        assert "acme/other is not in the hub's cache on this machine, and offline" in machine.refused(
            "acme/other", *flags, **env
        )
    assert machine.run("fetch", "acme/tiny", **watch).code == TOUCHED  # the watch works
    assert len(machine.hub.requests) == asked


def test_half_a_model_is_not_enough_offline(machine: Machine) -> None:
    machine.hub.add("acme/tiny", checkpoint())
    found = machine.fetch("acme/tiny")
    Path(found["files"][-1]["path"]).unlink()
    assert "acme/tiny holds no model: it has a config.json but" in machine.refused("acme/tiny", "--offline")


def test_broken_shards_are_named_before_any_weight_is_read(machine: Machine) -> None:
    one = weights()
    index = {"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}
    base = {
        "config.json": "{}",
        "model.safetensors.index.json": json.dumps(index),
        "model-1.safetensors": one,
    }
    machine.hub.add("acme/lacks", base)
    assert "names model-2.safetensors, which is not there" in machine.refused("acme/lacks")
    machine.hub.add("acme/twice", {**base, "model-2.safetensors": one})
    assert "tensor 'w': it is in model-1.safetensors too" in machine.refused("acme/twice")
    machine.hub.add("acme/cut", {**base, "model-2.safetensors": one[:-5]})
    assert "truncated" in machine.refused("acme/cut")
    machine.hub.add("acme/text", {**base, "model.safetensors.index.json": "<html>"})
    assert "model.safetensors.index.json" in machine.refused("acme/text")
    assert machine.hub.sent_bytes < MEGABYTE


def test_names_that_leave_the_folder_are_refused(machine: Machine) -> None:
    machine.hub.add("acme/evil", {**checkpoint(), "../../evil.json": "{}"})
    assert "outside its folder" in machine.refused("acme/evil")


def test_what_is_on_this_machine_is_not_fetched(machine: Machine, tmp_path: Path) -> None:
    assert machine.run("fetch", tmp_path).code == USAGE
    assert machine.run("fetch", "a/b@").code == FAILED
    assert not machine.hub.requests


def test_a_hub_that_is_not_there_is_one_sentence(machine: Machine) -> None:
    said = machine.refused("acme/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the connection to the hub failed (connect)" in said


def test_two_at_once_share_one_download(machine: Machine) -> None:
    data = weights(48 * MEGABYTE)
    machine.hub.add("acme/tiny", checkpoint(data))
    with (
        started("fetch", "acme/tiny", env=machine.env) as one,
        started("fetch", "acme/tiny", env=machine.env) as two,
    ):
        assert one.end().code == DONE
        assert two.end().code == DONE
    assert machine.hub.sent_bytes < len(data) * 1.2
