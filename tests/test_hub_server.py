"""The hub on the loopback is one that huggingface_hub itself accepts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_handlers import SIGNATURE
from hub_server import HubServer

READ = """
import sys, huggingface_hub as h
api = h.HfApi()
info = api.model_info("acme/tiny", revision="main")
entries = api.list_repo_tree("acme/tiny", recursive=True)
tree = sorted(f.path for f in entries if isinstance(f, h.hf_api.RepoFile))
print(info.sha, *tree)
for name in tree:
    print(open(h.hf_hub_download("acme/tiny", name), "rb").read()[:8].hex())
"""
WRITE = """
import sys, huggingface_hub as h
api = h.HfApi()
api.create_repo("me/new", exist_ok=True)
print(api.upload_folder(repo_id="me/new", folder_path=sys.argv[1]).oid)
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def library(hub: HubServer, home: Path, code: str, *arguments: str, token: str = "") -> str:
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_the_library_reads_information_tree_and_files(hub: HubServer, tmp_path: Path) -> None:
    many = {f"folder/{i:03}.txt": f"{i}" for i in range(120)}
    repo = hub.add("acme/tiny", {"config.json": "{}", "model.safetensors": b"12345678", **many})
    out = library(hub, tmp_path, READ.replace('"main"', "None")).splitlines()
    names = ["config.json", *sorted(many), "model.safetensors"]
    assert out[0] == " ".join([repo.refs["main"], *names])
    assert out[-1] == b"12345678".hex()
    assert len(hub.asked("/tree/", "GET")) == 3  # pages
    assert [r.token for r in hub.asked(SIGNATURE)] == [None]


def test_the_library_writes_in_parts_and_commits(hub: HubServer, tmp_path: Path) -> None:
    hub.tokens["hf_w"] = "me"
    hub.writers.add("me")
    folder = tmp_path / "folder"
    folder.mkdir()
    big, small = bytes(range(256)) * 10_000, b"---\nlicense: mit\n---\n"
    (folder / "big.gguf").write_bytes(big)
    (folder / "little.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_bytes(small)
    oid = library(hub, tmp_path / "home", WRITE, str(folder), token="hf_w").strip()
    files = hub.repos["me/new"].commits[oid]
    assert files["big.gguf"].read(0, len(big)) == big
    assert files["README.md"].read(0, 100) == small
    assert len(hub.asked("/upload/", "PUT", "store")) == 4
    n = len(hub.asked("/upload/"))
    library(hub, tmp_path / "home", WRITE, str(folder), token="hf_w")
    assert len(hub.asked("/upload/")) == n
