"""A disk that is full at any moment of a job: one sentence, nothing lost, and the job goes on afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_process import mqnative
from mqnative.builtin import CALIB_TEXT, MODEL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and file systems of Linux")
EFFORT = ["--ctx", 64, "--probe-chunks", 2, "--verify-chunks", 2, "--refine", 0, "--types", "Q8_0,Q4_K,Q2_K"]
# Of single files: so that the store, the imatrix and the model are too large in turn. In an empty store the
# tables themselves take more than the least of them.
LIMITS = [4_096, 120_000, 300_000, 1_000_000, 3_000_000]


def arguments(text: Path, out: Path) -> list[object]:
    return ["auto", MODEL, "--bpw", 4.5, "--calib", text, "-o", out, *EFFORT, "--json"]


def limited(limit: int, words: list[object], home: Path) -> subprocess.CompletedProcess[str]:
    """The command where no file can grow beyond ``limit`` bytes."""
    code = (
        "import resource, sys; from mqnative.app.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | {"MQNATIVE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def figures(said: dict[str, Any]) -> tuple[str, float, list[Any]]:
    digest = hashlib.sha256(Path(said["model_path"]).read_bytes()).hexdigest()
    return digest, said["kld_mean"], [(t["name"], t["type"]) for t in said["tensors"]]


def is_one_sentence(done: subprocess.CompletedProcess[str]) -> bool:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return len(lines) == 1 and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calib.txt"
    path.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[str, float, list[Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = mqnative(*arguments(text, folder / "out"), env={"MQNATIVE_HOME": str(folder / "home")})
    assert done.code == 0, done.err
    return figures(done.json)


def test_files_that_cannot_grow_stop_a_job_with_a_sentence_and_it_goes_on_later(
    tmp_path: Path, text: Path, undisturbed: tuple[str, float, list[Any]]
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    reasons = set()
    for limit in LIMITS:
        stopped = limited(limit, arguments(text, out), home)
        assert stopped.returncode == 1, (limit, stopped.stderr)
        assert is_one_sentence(stopped), stopped.stderr
        error = json.loads(stopped.stdout)
        assert error["error"] in ("StoreError", "OutputError")
        assert "\n" not in error["message"]
        reasons.add(error["error"])
        assert not list(out.glob("*.gguf")), "no file that is not whole has its final name"
    assert reasons == {"StoreError", "OutputError"}
    done = limited(1 << 30, arguments(text, out), home)
    assert done.returncode == 0, done.stderr
    assert figures(json.loads(done.stdout)) == undisturbed
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("full", ["home", "out"])
def test_a_full_disk_stops_a_job_and_space_lets_it_go_on(
    tmp_path: Path, text: Path, small_disk: Path, undisturbed: tuple[str, float, list[Any]], full: str
) -> None:
    places = {"home": tmp_path / "home", "out": tmp_path / "out", full: small_disk / full}
    env = {"MQNATIVE_HOME": str(places["home"])}
    stopped = mqnative(*arguments(text, places["out"]), env=env)
    assert stopped.code == 1, stopped.err
    assert "full" in stopped.json["message"]
    assert "Traceback" not in stopped.err
    job = mqnative("jobs", "list", "--json", env=env)
    if full == "out":
        assert [j["state"] for j in job.json["jobs"]] == ["failed"]
    resize = ["mount", "-o", "remount,size=200m", str(small_disk)]
    subprocess.run(resize, check=True)
    done = mqnative(*arguments(text, places["out"]), env=env)
    assert done.code == 0, done.err
    assert figures(done.json) == undisturbed
    (listed,) = mqnative("jobs", "list", "--json", env=env).json["jobs"]
    assert (listed["state"], listed["attempts"]) == ("done", 2)
