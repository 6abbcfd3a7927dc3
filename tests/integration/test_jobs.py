"""Long commands as jobs, from the command line: in the background, followed, paused, killed, queued."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cli_process import Finished, mqnative, started, succeed
from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.jobs.look import settle
from mqnative.store import Store

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
TOKEN = "hf_thisisnotarealtoken"
# Each is a pass for every tensor: some seconds in all.
_CHUNKS = 4
SWEEP = ["sweep", MODEL, "--types", "Q4_K,Q6_K"]
# Two budgets, which is seen by the command itself.
REFUSED = ["auto", MODEL, "--calib", CALIB_TEXT, "-o", "out", "--bpw", 4, "--size", "4MB"]
STATES_AT_WORK = ("queued", "running")


class Home:
    """A store of its own, and the commands that work with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"MQNATIVE_HOME": str(folder / "home")}

    def run(self, *arguments: object, env: dict[str, str] | None = None) -> Finished:
        return mqnative(*arguments, cwd=self.folder, env=self.env | (env or {}))

    def jobs(self, *arguments: object) -> Any:
        return succeed("jobs", *arguments, "--json", cwd=self.folder, env=self.env).json

    def job(self, number: int = 1) -> dict[str, Any]:
        """As `mqnative jobs show` has it, without a process for every look."""
        with Store.open(self.folder / "home") as store:
            found = settle(store, store.jobs.get(number))
            steps, events = store.jobs.steps(number), store.jobs.events(number)
        return {**asdict(found), "steps": [*map(asdict, steps)], "events": [*map(asdict, events)]}

    def at_work(self, attempt: int = 1) -> bool:
        """Whether the first job's process of this number has measured something."""
        if not (self.folder / "home" / "mqnative.db").exists():
            return False
        with Store.open(self.folder / "home") as store:
            is_there = bool(store.jobs.all())
        return is_there and progressed(found := self.job()) and found["attempts"] == attempt

    def slow(self) -> list[object]:
        """A command that takes some seconds on any number of cores, its rows one after the other."""
        text = self.folder / "text.txt"
        if not text.exists():
            text.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
        options = ["--ctx", 128, "--chunks", _CHUNKS, "--types", "Q3_K", "-t", 1]
        return ["probe", MODEL, "-f", text, *options]

    def wait(self, condition: Callable[[dict[str, Any]], bool], number: int = 1) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while True:
            found = self.job(number)
            if condition(found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the slow command finds where nothing happens to it."""
    home = Home(tmp_path_factory.mktemp("undisturbed"))
    return home.run(*home.slow(), "--json").json["probes"]


def progressed(job: dict[str, Any]) -> bool:
    """Whether its latest process has measured something."""
    own = [s for s in job["steps"] if s["attempt"] == job["attempts"]]
    return any(s["name"] == "probe" and s["done"] > 0 for s in own)


def over(job: dict[str, Any]) -> bool:
    return job["state"] not in STATES_AT_WORK


def test_a_long_command_leaves_a_job_with_steps_inputs_and_costs(home: Home) -> None:
    assert home.run(*SWEEP).code == 0
    (listed,) = home.jobs("list")["jobs"]
    assert (listed["id"], listed["kind"], listed["state"]) == (1, "sweep", "done")
    job = home.jobs("show", 1)
    assert [(s["name"], s["state"]) for s in job["steps"]] == [("hash", "done"), ("weight errors", "done")]
    assert job["inputs"]["model"][0]["sha256"]
    assert job["versions"]["upstream_commit"]
    assert job["wall_s"] > 0
    assert job["argv"] == [str(word) for word in SWEEP[1:]]
    assert "weight errors" in home.run("jobs", "log", 1).out
    shown = home.run("jobs", "show", 1)
    assert job["inputs"]["model"][0]["sha256"] in shown.out
    assert "sweep" in home.run("jobs", "list").out


def test_a_refused_command_leaves_no_job_and_a_failed_one_its_reason(home: Home) -> None:
    assert home.run(*REFUSED).code == 2
    assert home.run("build", MODEL, "--preset", "Q4_K_M", "-o", "o.gguf", "--dry-run").code == 0
    assert home.jobs("list")["jobs"] == []
    assert home.run("sweep", "missing.gguf").code == 1
    done = home.run("jobs", "list", "--json").json["jobs"]
    assert [(j["kind"], j["state"]) for j in done] == [("sweep", "failed")]
    assert "missing.gguf" in done[0]["error"]
    for words in (["show", 9], ["resume", 9], ["pause", 9], ["cancel", 9], ["log", 9], ["attach", 9]):
        refused = home.run("jobs", *words, "--json")
        assert refused.code == 2
        assert refused.json["error"] == "JobNotFoundError"


def test_a_job_in_the_background_is_followed_paused_resumed_and_ends_as_in_the_foreground(
    home: Home, undisturbed: Any
) -> None:
    said = succeed(*home.slow(), "--detach", "--json", cwd=home.folder, env=home.env).json
    assert said["job"] == 1
    before = home.wait(progressed)
    assert before["pid"] != os.getpid()
    assert home.jobs("pause", 1)["state"] == "paused"
    paused = home.job()
    done = sum(s["done"] for s in paused["steps"] if s["name"] == "probe")
    assert home.jobs("resume", 1, "--detach")["state"] == "queued"
    with started("jobs", "attach", 1, cwd=home.folder, env=home.env) as terminal:
        ended = terminal.end()
    assert ended.code == 0
    assert "probe" in terminal.shown
    assert "job 1 is done" in ended.out
    job = home.job()
    assert job["attempts"] == 2
    passes = {s["attempt"]: s["done"] for s in job["steps"] if s["name"] == "probe"}
    assert passes[1] == done
    assert sum(passes.values()) <= _CHUNKS * len(undisturbed) + 8, (
        "but for the row in flight nothing is repeated"
    )
    assert home.run(*home.slow(), "--json").json["probes"] == undisturbed


def test_every_signal_pauses_and_the_same_command_goes_on(home: Home, undisturbed: Any) -> None:
    for attempt, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), 1):
        with started(*home.slow(), cwd=home.folder, env=home.env) as terminal:
            terminal.wait_for(lambda attempt=attempt: home.at_work(attempt))  # type: ignore[misc]
            ended = terminal.send(number)
        assert ended.code == 130
        assert "mqnative jobs resume 1" in ended.err
        assert home.job()["state"] == "paused"
    assert home.run(*home.slow(), "--json").json["probes"] == undisturbed
    assert [(j["id"], j["state"]) for j in home.jobs("list")["jobs"]] == [(1, "done")]


def test_a_killed_job_is_seen_and_taken_over_at_once(home: Home, undisturbed: Any) -> None:
    with started(*home.slow(), cwd=home.folder, env=home.env) as terminal:
        terminal.wait_for(home.at_work)
        terminal.process.kill()
        terminal.process.wait()
    job = home.job()
    assert job["state"] == "paused"
    assert any("interrupted" in e["text"] for e in job["events"])
    resumed = home.run("jobs", "resume", 1, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["probes"] == undisturbed
    assert home.job()["state"] == "done"


def test_two_terminals_see_one_job_which_a_stopped_process_keeps(home: Home, undisturbed: Any) -> None:
    with started(*home.slow(), "--json", cwd=home.folder, env=home.env) as one:
        one.wait_for(home.at_work)
        one.process.send_signal(signal.SIGSTOP)
        assert home.job()["state"] == "running"
        with started(*home.slow(), "--json", cwd=home.folder, env=home.env) as two:
            two.wait_for(lambda: "job 1" in two.shown and "probe" in two.shown)
            seen = home.job()
            assert (seen["state"], seen["attempts"], seen["pid"]) == ("running", 1, one.process.pid)
            one.process.send_signal(signal.SIGCONT)
            first, second = one.end(), two.end()
    assert first.code == second.code == 0
    assert first.json["probes"] == second.json["probes"] == undisturbed
    assert [(j["id"], j["state"]) for j in home.jobs("list")["jobs"]] == [(1, "done"), (2, "done")]
    assert home.job()["attempts"] == 1
    assert not [s for s in home.job(2)["steps"] if s["name"] == "probe"], "nothing was measured twice"


def test_a_cancelled_job_stays_so_until_it_is_asked_for_again(home: Home) -> None:
    succeed(*home.slow(), "--detach", cwd=home.folder, env=home.env)
    home.wait(progressed)
    assert home.jobs("cancel", 1)["state"] == "cancelled"
    assert home.jobs("run")["jobs"] == []
    assert home.job()["state"] == "cancelled"
    assert home.jobs("prune")["jobs"] == [1]
    assert home.jobs("list")["jobs"] == []


def test_the_queue_runs_in_order_and_goes_on_behind_a_failure(home: Home) -> None:
    bad = home.folder / "bad.gguf"
    bad.write_bytes(b"GGUF but not one")
    for command in ([*SWEEP], ["sweep", bad], ["sweep", MODEL, "--types", "Q5_K"]):
        assert succeed(*command, "--queue", "--json", cwd=home.folder, env=home.env).json["state"] == "queued"
    ran = home.run("jobs", "run", "--json")
    assert ran.code == 1
    assert ran.json["jobs"] == [
        {"job": 1, "state": "done"},
        {"job": 2, "state": "failed"},
        {"job": 3, "state": "done"},
    ]
    times = [home.job(n) for n in (1, 2, 3)]
    assert times[0]["ended"] <= times[1]["started"] <= times[1]["ended"] <= times[2]["started"]


def test_a_queued_command_that_is_refused_does_not_wait_for_ever(home: Home) -> None:
    succeed(*REFUSED, "--queue", cwd=home.folder, env=home.env)
    assert home.run("jobs", "run").code == 1
    job = home.job()
    assert (job["state"], job["error"]["error"]) == ("failed", "UsageError")
    assert "--bpw" in job["error"]["message"]


def test_a_changed_input_is_not_mixed_with_what_was_measured_before(home: Home) -> None:
    succeed(*home.slow(), "--queue", cwd=home.folder, env=home.env)
    (home.folder / "text.txt").write_text("another text", encoding="utf-8")
    refused = home.run("jobs", "resume", 1, "--json")
    assert refused.code == 2
    assert refused.json["error"] == "JobStateError"
    assert "text changed" in refused.json["message"]


def test_no_token_is_written_anywhere(home: Home) -> None:
    argv = ["sweep", "nobody/nothing", "--offline", "--token", TOKEN]
    failed = home.run(*argv, "--json")
    assert failed.code != 0
    succeed(*argv, "--detach", cwd=home.folder, env=home.env)
    home.wait(over)
    assert home.run("jobs", "resume", 1, env={"HF_TOKEN": TOKEN}).code != 0
    written = [p for p in (home.folder / "home").rglob("*") if p.is_file()]
    assert any(p.suffix == ".log" for p in written)
    for path in written:
        assert TOKEN.encode() not in path.read_bytes(), path
    assert "--token" not in home.job()["argv"]


def test_a_store_that_cannot_be_used_does_not_keep_a_command_that_needs_none(home: Home) -> None:
    (home.folder / "home").mkdir()
    (home.folder / "home" / "mqnative.db").write_bytes(b"no database at all, but long enough" * 100)
    done = home.run("build", MODEL, "--preset", "Q4_K_M", "-o", "o.gguf", "--no-cache", "--json")
    assert done.code == 0, done.err
    assert "was not recorded as a job" in done.err


def test_a_store_that_another_process_locks_is_waited_for(home: Home) -> None:
    assert home.jobs("list")["jobs"] == []
    with closing(sqlite3.connect(home.folder / "home" / "mqnative.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with started(*SWEEP, cwd=home.folder, env=home.env) as terminal:
            time.sleep(2)
            assert terminal.process.poll() is None
            other.execute("ROLLBACK")
            assert terminal.end().code == 0
    assert home.job()["state"] == "done"


def test_a_detached_job_outlives_the_process_that_asked_for_it(home: Home) -> None:
    words = [sys.executable, "-m", "mqnative", *map(str, home.slow()), "--detach"]
    code = (
        "import subprocess, sys\n"
        f"subprocess.run({words!r})\n"
        "import os, signal; os.killpg(0, signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=home.folder,
        env=os.environ | home.env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    # The processes of its group are dead by now.
    assert home.wait(progressed)["state"] == "running"
    assert home.jobs("cancel", 1)["state"] == "cancelled"
