"""Jobs as rows: their states, their progress, what is kept of a command line, and what must never be."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqnative.app.cli import COMMANDS, cli
from mqnative.app.job_request import Request
from mqnative.errors import JobNotFoundError, JobStateError, OperationCancelled, OutputError
from mqnative.jobs import control
from mqnative.jobs.inputs import input_facts
from mqnative.jobs.joblog import JobLog, log_path
from mqnative.jobs.look import lock_name, look_after
from mqnative.jobs.progress import JobMonitor
from mqnative.jobs.recorder import Recorder
from mqnative.jobs.runner import Asked, Runner
from mqnative.jobs.secrets import HIDDEN, redacted, redacted_values
from mqnative.store import Store
from mqnative.store.job_rows import Job, Step
from mqnative.store.job_tables import NEXT_STATES, STATES

TOKEN = "hf_abcdefghijklmnop"
KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path / "home"))
    with Store.open() as opened:
        yield opened


def asked(key: str = KEY, **more: object) -> Asked:
    options = {
        "argv": ("m.gguf",),
        "options": {"model": "m.gguf"},
        "folder": "/",
        "inputs": {},
        "versions": {},
    }
    return replace(Asked(key=key, kind="sweep", **options), **more)  # type: ignore[arg-type]


def in_state(store: Store, state: str, key: str = KEY) -> Job:
    job = asked(key).job(store)
    if state == "failed":
        store.jobs.begin(job.id, 1)
        store.jobs.end(job.id, "failed", {"error": "X", "message": "no"})
    elif state == "done":
        store.jobs.begin(job.id, 1)
        store.jobs.end(job.id, "done")
    elif state != "queued":
        store.jobs.move(job.id, state)
    return store.jobs.get(job.id)


class TestStates:
    @pytest.mark.parametrize("after", STATES)
    @pytest.mark.parametrize("before", STATES)
    def test_the_schema_itself_refuses_a_state_that_does_not_follow(
        self, store: Store, before: str, after: str
    ) -> None:
        job = in_state(store, before)
        allowed = after in NEXT_STATES[before] or after == before
        with closing(sqlite3.connect(store.folder / "mqnative.db")) as db:
            if allowed:
                db.execute("UPDATE jobs SET state = ? WHERE id = ?", (after, job.id))
            else:
                with pytest.raises(sqlite3.IntegrityError, match="does not follow"):
                    db.execute("UPDATE jobs SET state = ? WHERE id = ?", (after, job.id))

    @pytest.mark.parametrize("sql", ["'sleeping'", "NULL", "'done'", "'paused'"])
    def test_a_job_begins_queued_or_running(self, store: Store, sql: str) -> None:
        insert = (
            "INSERT INTO jobs (key, kind, argv, options, folder, state) VALUES (?, 'auto', '[]', '{}', '/', "
        )
        with (
            closing(sqlite3.connect(store.folder / "mqnative.db")) as db,
            pytest.raises(sqlite3.IntegrityError),
        ):
            db.execute(f"{insert}{sql})", (KEY,))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(moves=st.lists(st.sampled_from(STATES), max_size=12))
    def test_a_refused_move_changes_nothing_and_every_move_is_an_event(
        self, store: Store, moves: list[str]
    ) -> None:
        job = asked(os.urandom(32).hex()).job(store)
        expected = ["queued"]
        for state in moves:
            if state in NEXT_STATES[expected[-1]]:
                store.jobs.move(job.id, state)
                expected.append(state)
            elif state != expected[-1]:
                with pytest.raises(JobStateError) as caught:
                    store.jobs.move(job.id, state)
                assert (caught.value.job, caught.value.state) == (job.id, expected[-1])
        assert store.jobs.get(job.id).state == expected[-1]
        assert [e.text for e in store.jobs.events(job.id) if e.kind == "state"] == expected

    def test_a_command_that_is_not_done_is_one_job_and_a_done_one_a_new_job(self, store: Store) -> None:
        first = asked().job(store)
        for state in ("paused", "queued", "cancelled"):
            store.jobs.move(first.id, state)
            assert asked().job(store).id == first.id
        store.jobs.begin(first.id, 1)
        store.jobs.end(first.id, "done")
        second = asked().job(store)
        assert second.id > first.id
        store.jobs.remove([second.id])
        assert asked().job(store).id > second.id, "numbers are not used again"

    @pytest.mark.usefixtures("store")
    def test_a_job_that_is_not_there_is_named(self) -> None:
        for call in (control.show, control.pause, control.cancel, control.events, control.resumable):
            with pytest.raises(JobNotFoundError, match="no job 77") as caught:
                call(77)
            assert caught.value.job == 77


class TestRunner:
    def test_how_the_block_ends_is_how_the_job_ends(self, store: Store) -> None:
        with Runner(asked()) as runner:
            job = runner.job.id
            assert store.jobs.get(job).state == "running"
        assert store.jobs.get(job).state == "done"
        for error, state in ((KeyboardInterrupt(), "paused"), (OperationCancelled("x"), "paused")):
            with pytest.raises(type(error)), Runner(asked()) as runner:
                raise error
            assert store.jobs.get(runner.job.id).state == state
        with pytest.raises(OutputError), Runner(asked()) as runner:
            raise OutputError(f"the disk is full of {TOKEN}", path="/x")
        failed = store.jobs.get(runner.job.id)
        assert failed.state == "failed"
        assert failed.error == {
            "error": "OutputError",
            "message": f"the disk is full of {HIDDEN}",
            "path": "/x",
        }
        assert failed.attempts == 3, "the same command goes on with the same job"

    def test_a_dead_owner_is_seen_at_the_next_look_and_taken_over_at_once(self, store: Store) -> None:
        code = (
            "import sys, time; sys.path.insert(0, 'tests')\n"
            "from mqnative.jobs.runner import Asked, Runner\n"
            f"asked = Asked({KEY!r}, 'sweep', (), {{}}, '/', {{}}, {{}})\n"
            "with Runner(asked) as runner:\n"
            "    runner.monitor.start('probe', 10, 'passes'); runner.monitor.update(4)\n"
            "    time.sleep(1.2); print('ready', flush=True); time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            (job,) = control.list_jobs()
            assert (job.state, job.pid) == ("running", process.pid)
            with pytest.raises(JobStateError, match="is running"):
                control.prune([job.id])
            with pytest.raises(JobStateError, match="attach"):
                control.resume(job.id)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert store.jobs.get(job.id).state == "running", "nobody has looked"
        found = control.show(job.id)
        assert found.job.state == "paused"
        assert any("interrupted" in event.text for event in found.events)
        assert [(s.name, s.done, s.total, s.state) for s in found.steps] == [("probe", 4, 10, "stopped")]
        with Runner(asked(argv=(), options={})) as runner:
            assert (runner.job.id, runner.job.attempts) == (job.id, 2)

    @pytest.mark.usefixtures("store")
    def test_a_second_process_waits_until_the_first_has_ended(self) -> None:
        waited: list[int] = []
        release = threading.Event()
        entered = threading.Event()

        def first() -> None:
            with Runner(asked()):
                entered.set()
                release.wait(30)

        thread = threading.Thread(target=first)
        thread.start()
        assert entered.wait(30)

        def on_wait(job: Job) -> None:
            waited.append(job.id)
            release.set()

        with Runner(asked(), on_wait=on_wait) as runner:
            assert waited[0] < runner.job.id, "the first is done, so this is a new one"
        thread.join()

    def test_a_second_process_stops_when_the_first_is_paused(self, store: Store) -> None:
        job = asked().job(store)
        store.jobs.begin(job.id, 1)
        with store.lock(lock_name(KEY)):
            done: list[str] = []

            def second() -> None:
                try:
                    with Runner(asked(), on_wait=lambda _: done.append("waited")):
                        done.append("ran")
                except OperationCancelled as error:
                    done.append(error.message)

            thread = threading.Thread(target=second)
            thread.start()
            while not done:
                pass
            store.jobs.end(job.id, "paused")
        thread.join()
        assert done[-1] == f"job {job.id} was paused elsewhere"

    def test_a_second_process_takes_over_from_one_that_died(self, store: Store) -> None:
        job = asked().job(store)
        store.jobs.begin(job.id, 1)
        with ExitStack() as first:
            first.enter_context(store.lock(lock_name(KEY)))

            def on_wait(_job: Job) -> None:
                # A third one looks in the very moment when the first is dead.
                first.close()
                look_after(store)

            with Runner(asked(), on_wait=on_wait) as runner:
                assert runner.job.id == job.id
                assert runner.job.attempts == 2
        assert store.jobs.get(job.id).state == "done"

    @pytest.mark.parametrize(("ask", "state"), [(control.pause, "paused"), (control.cancel, "cancelled")])
    def test_a_wish_reaches_the_running_job(self, store: Store, ask: object, state: str) -> None:
        thread = threading.Timer(0.3, lambda: ask(1))  # type: ignore[operator]
        with pytest.raises(KeyboardInterrupt), Runner(asked()):  # noqa: PT012 - the work, then the wish
            thread.start()
            threading.Event().wait(30)
        thread.join()
        assert store.jobs.get(1).state == state

    def test_without_a_process_a_wish_comes_true_at_once(self, store: Store) -> None:
        job = asked().job(store)
        assert control.pause(job.id).state == "paused"
        assert control.enqueue(job.id).state == "queued"
        assert control.cancel(job.id).state == "cancelled"
        assert control.cancel(job.id).state == "cancelled"
        done = in_state(store, "done", "cd" * 32)
        with pytest.raises(JobStateError, match="done"):
            control.cancel(done.id)

    def test_prune_forgets_what_is_over_and_its_log(self, store: Store) -> None:
        jobs = {s: in_state(store, s, os.urandom(32).hex()) for s in STATES if s != "running"}
        for job in jobs.values():
            JobLog(log_path(store.folder, job.id)).line("hello")
        assert {j.state for j in control.prune(dry_run=True)} == {"done", "cancelled"}
        assert len(control.list_jobs()) == 5
        assert {j.state for j in control.prune()} == {"done", "cancelled"}
        assert {j.state for j in control.list_jobs()} == {"queued", "paused", "failed"}
        assert not log_path(store.folder, jobs["done"].id).exists()
        assert [j.id for j in control.prune([jobs["paused"].id])] == [jobs["paused"].id]
        with closing(sqlite3.connect(store.folder / "mqnative.db")) as db:
            orphans = "SELECT count(*) FROM events WHERE job NOT IN (SELECT id FROM jobs)"
            assert db.execute(orphans).fetchone() == (0,)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Clocks:
    """The clocks of a machine: one that counts on, one on the wall, and the processor's."""

    def __init__(self) -> None:
        self.now, self.wall, self.cpu = 100.0, 1e9, 1.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def work(self, seconds: float) -> None:
        """All of them go on."""
        self.now += seconds
        self.wall += seconds
        self.cpu += seconds


class TestProgress:
    def test_rate_and_time_left_are_those_of_the_last_minute(self) -> None:
        clock = Clock()
        monitor = JobMonitor(1, 1, clock)
        monitor.start("probe", 1000, "passes")
        for second in range(200):
            clock.now += 1
            # Ten a second at first, then one.
            monitor.update(min(second + 1, 50) * 10 + max(0, second - 49))
            (step,) = monitor.changes()
        assert step.done == 650
        assert step.rate == pytest.approx(1.0)
        assert step.eta_s == pytest.approx(350.0)
        assert step.elapsed_s == pytest.approx(200.0)
        assert monitor.changes() == []

    def test_pieces_of_one_name_are_one_step(self) -> None:
        clock = Clock()
        monitor = JobMonitor(2, 7, clock)
        for total in (6, 3):
            monitor.start("probe", total, "passes")
            clock.now += total
            monitor.update(total)
            monitor.finish()
            clock.now += 100  # between the pieces something else is done
        monitor.start("verify", 0, "passes")
        probe, verify = monitor.changes()
        assert (probe.number, probe.attempt, probe.done, probe.total) == (7, 2, 9, 9)
        assert (probe.state, probe.elapsed_s, probe.rate) == ("done", 9.0, 1.0)
        assert (verify.number, verify.state, verify.eta_s) == (8, "running", None)
        monitor.stop()
        assert [s.state for s in monitor.changes()] == ["stopped"]

    def test_what_the_recorder_writes_is_what_others_see(self, store: Store) -> None:
        job = asked().job(store)
        store.jobs.begin(job.id, 1)
        monitor = JobMonitor(1, 1)
        log = JobLog(log_path(store.folder, job.id))
        at_work = store.lock(lock_name(KEY))
        with at_work, Recorder(store.folder, job.id, monitor, log, print) as recorder:
            monitor.start("weight errors", 100, "weights")
            monitor.update(40)
            recorder.note("warning", "odd")
            found = next(s for s in control.watch(job.id, interval_s=0.05) if s.steps)
            assert (found.steps[0].done, found.steps[0].state) == (40, "running")
            monitor.finish()
        (step,) = store.jobs.steps(job.id)
        assert (step.done, step.state) == (100, "done")
        assert store.jobs.get(job.id).wall_s > 0
        assert [e.text for e in store.jobs.events(job.id) if e.kind == "warning"] == ["odd"]
        assert "weight errors: 100/100 weights in" in log_path(store.folder, job.id).read_text("utf-8")

    def test_a_locked_store_holds_nothing_up_and_loses_nothing(self, store: Store) -> None:
        job = asked().job(store)
        store.jobs.begin(job.id, 1)
        monitor = JobMonitor(1, 1)
        with closing(sqlite3.connect(store.folder / "mqnative.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with Recorder(store.folder, job.id, monitor, JobLog(store.folder / "log"), print):
                monitor.start("build", 10, "weights")
                monitor.finish()
                threading.Event().wait(1.2)
                assert store.jobs.steps(job.id) == []
                other.execute("COMMIT")
        assert [s.done for s in store.jobs.steps(job.id)] == [10]

    def test_a_jump_of_the_clock_is_noted_and_no_work(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = asked().job(store)
        store.jobs.begin(job.id, 1)
        import time

        real, jump = time.time, threading.Event()
        monkeypatch.setattr(time, "time", lambda: real() + (7200 if jump.is_set() else 0))
        with Recorder(store.folder, job.id, JobMonitor(1, 1), JobLog(store.folder / "log"), print):
            threading.Event().wait(0.7)
            jump.set()
        assert any("7200 s" in e.text for e in store.jobs.events(job.id))
        assert store.jobs.get(job.id).wall_s < 60


class TestGaps:
    """Time in which nothing could be done, since machine or process slept; and clocks that jump."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clocks:
        clocks = Clocks()
        monkeypatch.setattr("mqnative.jobs.recorder.time", clocks)
        monkeypatch.setattr("mqnative.jobs.recorder._cpu_s", lambda: clocks.cpu)
        return clocks

    @pytest.mark.parametrize(
        ("monotonic", "wall", "said"),
        [
            (3600.0, 3600.0, "the machine slept or the job was stopped for 3600 s"),  # stopped
            (0.0, 3600.0, "the machine slept or the job was stopped for 3600 s"),  # the clock stood still
            (0.0, -7200.0, "the clock was set back for 7200 s"),
        ],
    )
    def test_rate_time_left_and_costs_stay_sane(
        self, store: Store, clock: Clocks, monotonic: float, wall: float, said: str
    ) -> None:
        job = asked().job(store)
        store.jobs.begin(job.id, 1)
        monitor = JobMonitor(1, 1, clock.monotonic)
        recorder = Recorder(store.folder, job.id, monitor, JobLog(store.folder / "log"), print)
        monitor.start("probe", 100, "passes")
        done = 0

        def work(seconds: float) -> Step:
            nonlocal done
            for _ in range(round(2 * seconds)):
                done += 1
                clock.work(0.5)
                monitor.update(done)
                recorder._tick(store, last=False)
            (step,) = store.jobs.steps(job.id)
            return step

        before = work(10)
        assert (before.rate, before.eta_s) == (pytest.approx(2.0), pytest.approx(40.0))
        clock.now += monotonic
        clock.wall += wall
        after = work(10)
        assert (after.rate, after.eta_s) == (pytest.approx(2.0), pytest.approx(30.0))
        assert after.elapsed_s == pytest.approx(20.0, abs=1.0)
        assert store.jobs.get(job.id).wall_s == pytest.approx(20.0, abs=1.0)
        assert [e.text for e in store.jobs.events(job.id) if e.kind == "note"] == [said]


class TestSecrets:
    def test_tokens_are_hidden_wherever_they_come_from(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "plain-looking-secret")
        text = f"{TOKEN} plain-looking-secret given-secret Bearer abc.def"
        assert redacted(text, "given-secret") == f"{HIDDEN} {HIDDEN} {HIDDEN} Bearer {HIDDEN}"
        nested = {"a": [TOKEN, {"b": TOKEN}], "n": 3, "none": None, "path": Path(TOKEN)}
        assert redacted_values(nested) == {"a": [HIDDEN, {"b": HIDDEN}], "n": 3, "none": None, "path": HIDDEN}

    @pytest.mark.parametrize(
        "argv",
        [
            ["m.gguf", "--token", TOKEN, "--types", "Q4_K"],
            ["--token", TOKEN, "m.gguf", "--types", "Q4_K", "--json"],
            ["m.gguf", f"--token={TOKEN}", "--detach", "--types", "Q4_K", "--queue"],
        ],
    )
    def test_a_request_keeps_no_secret_and_no_flag_of_one_run(self, argv: list[str]) -> None:
        request = parsed("sweep", argv)
        assert request.argv == ("m.gguf", "--types", "Q4_K")
        assert request.secrets == (TOKEN,)
        assert TOKEN not in repr(request.params)
        assert TOKEN not in repr(replace(request.asked(), secrets=()))

    def test_what_follows_two_dashes_is_no_option(self) -> None:
        assert parsed("sweep", ["--json", "--", "--json"]).argv == ("--", "--json")


def parsed(kind: str, argv: list[str]) -> Request:
    command = cli.get_command(click.Context(cli), kind)
    assert command is not None
    with command.make_context(kind, list(argv)) as context:
        return Request.of(context, argv)


class TestKeys:
    def key(self, *argv: object, kind: str = "sweep") -> str:
        return parsed(kind, [str(word) for word in argv]).asked().key

    def test_how_it_runs_and_where_from_make_no_other_job(
        self, builtin_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = self.key(builtin_model, "--types", "Q4_K,Q6_K")
        assert key == self.key("--types", "Q4_K, Q6_K", builtin_model, "--json", "-t", 2, "--memory", "1GB")
        monkeypatch.chdir(builtin_model.parent)
        assert key == self.key(builtin_model.name, "--types", "Q4_K,Q6_K", "--token", TOKEN, "--offline")
        assert key != self.key(builtin_model.name, "--types", "Q6_K,Q4_K")
        assert key != self.key(builtin_model.name, "--types", "Q4_K,Q6_K", "--device", "auto")

    def test_a_changed_input_makes_another_job_and_a_copied_text_does_not(self, tmp_path: Path) -> None:
        text, model = tmp_path / "t.txt", tmp_path / "m.gguf"
        text.write_text("one", encoding="utf-8")
        model.write_bytes(b"GGUF not really")
        argv = ["probe", model, "-f", text]
        first = self.key(*argv[1:], kind="probe")
        os.utime(text, (1, 1))
        assert self.key(*argv[1:], kind="probe") == first
        text.write_text("two", encoding="utf-8")
        assert self.key(*argv[1:], kind="probe") != first

    def test_inputs_are_described_by_hash(self, tmp_path: Path, builtin_model: Path) -> None:
        text = tmp_path / "t.txt"
        text.write_bytes(b"abc")
        found = input_facts(text)
        assert found is not None
        assert found["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        model = input_facts(builtin_model)
        assert model is not None
        assert model["sha256"] is None, "read later, with progress"
        assert input_facts(tmp_path / "missing") is None
        folder = input_facts(tmp_path)
        assert folder is not None
        (tmp_path / "more").touch()
        assert folder["stamp"] != (input_facts(tmp_path) or {})["stamp"]

    @pytest.mark.parametrize(
        "kind", ["auto", "demo", "imatrix", "sweep", "probe", "eval", "compare", "build"]
    )
    def test_every_long_command_can_run_aside(self, kind: str) -> None:
        assert kind in COMMANDS
        command = cli.get_command(click.Context(cli), kind)
        assert command is not None
        assert {"detach", "queue"} <= {p.name for p in command.params}


def test_look_after_leaves_a_living_job_alone(store: Store) -> None:
    with Runner(asked()) as runner:
        look_after(store)
        assert store.jobs.get(runner.job.id).state == "running"
