"""What a command is going to cost, what it did cost, and commands that are started from Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqnative.app.job_start import request_of, start
from mqnative.app.plans import plan_of
from mqnative.errors import InfeasibleBudgetError, JobError
from mqnative.jobs import control
from mqnative.jobs.estimate import Plan, Planned, compare, corrections, kept_shares, priced
from mqnative.jobs.work import Units, calibrate, known_units, machine_of
from mqnative.store import Store
from mqnative.store.job_rows import Step

STEP = Planned("probe", 100, "passes", 10.0, signature="s", model="m")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path / "home"))
    with Store.open() as opened:
        yield opened


def done(name: str, elapsed_s: float, *, number: int = 1, state: str = "done") -> Step:
    return Step(number, 1, name, "passes", 100, 100, state, "", elapsed_s, None, None)


class TestPrices:
    @pytest.mark.parametrize(
        ("costs", "seconds", "basis"),
        [
            ({}, 10.0, "assumed"),
            ({"step probe": 3.0}, 30.0, "measured"),
            ({"step probe": 3.0, "step probe of m": 2.0}, 20.0, "measured"),
            ({"step probe of another": 2.0, "step link": 5.0}, 10.0, "assumed"),
        ],
    )
    def test_the_nearest_correction_counts(self, costs: dict[str, float], seconds: float, basis: str) -> None:
        (step,) = priced(Plan((STEP,)), costs, {}, calibrated=False).steps
        assert (step.seconds, step.basis) == (pytest.approx(seconds), basis)

    @pytest.mark.parametrize(("share", "seconds"), [(0.0, 10.0), (0.25, 7.5), (1.0, 0.0)])
    def test_what_is_measured_costs_nothing(self, share: float, seconds: float) -> None:
        plan = priced(Plan((STEP, replace(STEP, signature=""))), {}, {"s": share}, calibrated=True)
        assert [s.seconds for s in plan.steps] == [pytest.approx(seconds), 10.0]
        assert plan.steps[0].basis == ("kept" if share == 1.0 else "calibrated")
        assert plan.seconds == pytest.approx(seconds + 10.0)
        assert Plan.from_dict(plan.to_dict()) == plan

    def test_reality_stands_beside_the_estimate(self) -> None:
        plan = Plan((replace(STEP, seconds=8.0), replace(STEP, name="verify", seconds=1.0)))
        steps = [done("probe", 4.0), done("probe", 5.0, number=2), done("load", 0.5, number=3)]
        rows = [(r.name, r.expected_s, r.actual_s) for r in compare(plan, steps)]
        assert rows == [("probe", 8.0, 9.0), ("verify", 1.0, None), ("load", None, 0.5)]

    def test_a_finished_step_corrects_the_next_estimate(self, store: Store) -> None:
        learned = corrections(Plan((STEP,)), [done("probe", 30.0)])
        store.unit_costs.learn("here", learned)
        plan = priced(Plan((STEP,)), store.unit_costs.of("here"), {}, calibrated=False)
        assert plan.seconds == pytest.approx(30.0)
        assert store.unit_costs.of("elsewhere") == {}
        # A second job counts more than the first.
        store.unit_costs.learn("here", corrections(Plan((STEP,)), [done("probe", 15.0)]))
        assert store.unit_costs.of("here")["step probe"] == pytest.approx((0.5 * 30 + 15) / (0.5 * 10 + 10))

    def test_a_step_that_was_there_already_tells_nothing(self) -> None:
        assert corrections(Plan((replace(STEP, basis="kept"),)), [done("probe", 0.5)]) == {}
        assert corrections(Plan((STEP,)), []) == {}


def planned(store: Store, kind: str, **options: Any) -> Plan:
    found = plan_of(kind, request_of(kind, options).params, store)
    assert found is not None
    return found


class TestPlans:
    def test_steps_are_those_that_the_command_reports(
        self, store: Store, builtin_model: Path, tmp_path: Path
    ) -> None:
        text = tmp_path / "t.txt"
        text.write_text("words " * 20_000, encoding="utf-8")
        options = {"model": builtin_model, "calib": text, "bpw": 4.5, "output": tmp_path / "out"}
        plan = planned(store, "auto", **options)
        names = ["hash", "load", "imatrix", "weight errors", "probe"]
        names += ["refine", "link", "rivals", "build", "verify"]
        assert [step.name for step in plan.steps] == names
        assert all(step.raw_s > 0 for step in plan.steps)
        fast = planned(store, "auto", **options, fast=True)
        assert {s.name for s in plan.steps} - {s.name for s in fast.steps} == {"probe", "refine", "link"}
        gptq = planned(store, "auto", **options, gptq=True)
        assert {s.name for s in gptq.steps} == {s.name for s in plan.steps} - {"refine"} | {
            "feedback",
            "rounding",
        }
        small = planned(store, "auto", **{**options, "bpw": 2.0})
        assert small.size_bytes < plan.size_bytes

    def test_a_machines_context_is_no_chunk(self, store: Store, builtin_model: Path, tmp_path: Path) -> None:
        text = tmp_path / "t.txt"
        text.write_text("words " * 20_000, encoding="utf-8")
        options = {"model": builtin_model, "calib": text, "output": tmp_path / "out"}
        plain = planned(store, "auto", **options, bpw=4.5, n_ctx=512)
        roomy = planned(store, "auto", **options, vram_bytes="64MiB", n_ctx=2048)
        amounts = [{s.name: s.amount for s in plan.steps}["imatrix"] for plan in (plain, roomy)]
        assert amounts[0] == amounts[1] > 1
        # Everything fits there: the file is the largest there is.
        assert roomy.size_bytes > 3 * plain.size_bytes
        tight = planned(store, "auto", **options, vram_bytes="16MiB", n_ctx=512)
        assert tight.size_bytes < roomy.size_bytes / 2
        cached = planned(store, "auto", **options, vram_bytes="64MiB", kv_types="auto")
        assert {s.name for s in cached.steps} - {s.name for s in roomy.steps} == {"caches"}
        with pytest.raises(InfeasibleBudgetError):
            planned(store, "auto", **options, vram_bytes="100KiB", n_ctx=2048)

    def test_cost_goes_with_work(self, store: Store, builtin_model: Path, tmp_path: Path) -> None:
        text = tmp_path / "t.txt"
        text.write_text("words " * 20_000, encoding="utf-8")
        one, two = (planned(store, "probe", model=builtin_model, text=text, chunks=n) for n in (4, 8))
        probe_one, probe_two = one.steps[-1], two.steps[-1]
        assert probe_two.amount == 2 * probe_one.amount
        assert probe_one.raw_s < probe_two.raw_s < 2 * probe_one.raw_s, "a tensor is encoded once"
        few = planned(store, "sweep", model=builtin_model, types="Q4_K")
        many = planned(store, "sweep", model=builtin_model, types="Q4_K,Q6_K")
        assert many.steps[-1].seconds == pytest.approx(2 * few.steps[-1].seconds)

    def test_what_a_job_has_measured_is_known_to_the_next_plan(
        self, store: Store, builtin_model: Path
    ) -> None:
        options = {"model": builtin_model, "types": "Q4_K"}
        plan = planned(store, "sweep", **options)
        asked = request_of("sweep", options).asked()
        job = asked.job(store)
        store.jobs.begin(job.id, 1)
        store.jobs.describe(job.id, estimate=plan.to_dict())
        total = plan.steps[-1].amount
        half = replace(done("weight errors", 1.0), total=total, done=total // 2)
        store.jobs.write(job.id, [half], wall_s=1.0, cpu_s=1.0)
        rest = planned(store, "sweep", **options).steps[-1]
        assert rest.seconds == pytest.approx(plan.steps[-1].seconds / 2, rel=1e-3)
        assert kept_shares(store, besides=job.id) == {}
        store.jobs.end(job.id, "done")
        assert planned(store, "sweep", **options).steps[-1].basis == "kept"
        assert planned(store, "sweep", **(options | {"tolerance": 0.5})).steps[-1].basis == "assumed"

    def test_a_build_is_planned_to_the_byte(self, store: Store, builtin_model: Path, tmp_path: Path) -> None:
        plan = planned(store, "build", model=builtin_model, preset="Q4_K_M", output=tmp_path / "o.gguf")
        from mqnative.build.plan import plan_build
        from mqnative.core.presets import preset_types
        from mqnative.formats.gguf import GGUFFile
        from mqnative.formats.recipe import Recipe

        with GGUFFile.open(builtin_model) as file:
            recipe = Recipe(tensors=preset_types(builtin_model, "Q4_K_M", with_imatrix=False))
            assert plan.size_bytes == plan_build(file, recipe, None).file_bytes

    def test_units_are_measured_once(self, store: Store) -> None:
        machine = machine_of("cpu", 1)
        assert not known_units({}, 1).calibrated
        calibrate(store, machine, "cpu", 1)
        units = known_units(store.unit_costs.of(machine), 1)
        assert units.calibrated
        assert 0 < units.pass_s < 1e-6
        assert units.encode("Q8_0") < units.encode("IQ2_XXS")
        assert units.encode("a type of tomorrow") == max(units.encode_s.values())
        before = store.unit_costs.of(machine)
        calibrate(store, machine, "cpu", 1)
        assert store.unit_costs.of(machine) == before
        assert Units(1.0, {}).encode("Q4_K") > 0


class TestStart:
    @pytest.mark.parametrize(
        ("kind", "options", "argv"),
        [
            ("sweep", {"model": "m.gguf", "types": ["Q4_K", "Q6_K"]}, ("--types=Q4_K,Q6_K", "--", "m.gguf")),
            ("sweep", {"model": "-m.gguf", "as_json": True}, ("--", "-m.gguf")),
            (
                "imatrix",
                {"model": "m", "texts": [["a.txt", 2.0], "b.txt"], "output": "o", "process_output": False},
                ("--file=a.txt=2.0", "--file=b.txt", "--output=o", "--no-process-output", "--", "m"),
            ),
            (
                "compare",
                {"reference": "r", "candidates": ["a", "b"], "texts": ["t"], "chunks": "all"},
                ("--file=t", "--chunks=all", "--", "r", "a", "b"),
            ),
        ],
    )
    def test_options_become_a_command_line(
        self, kind: str, options: dict[str, Any], argv: tuple[str, ...]
    ) -> None:
        assert request_of(kind, options).argv == argv

    @pytest.mark.parametrize(
        ("kind", "options", "message"),
        [
            ("inspect", {}, "no long command"),
            ("nothing", {}, "no long command"),
            ("sweep", {}, "MODEL"),
            ("sweep", {"model": "m", "typo": 1}, "no option typo"),
            ("sweep", {"model": "m", "types": "Q99"}, "Q99"),
            ("sweep", {"model": "m", "tolerance": "wide"}, "wide"),
        ],
    )
    def test_mistakes_are_named_before_anything_starts(
        self, store: Store, kind: str, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(JobError, match=message):
            start(kind, options)
        assert store.jobs.all() == []

    def test_a_started_job_is_watched_to_its_end(self, store: Store, builtin_model: Path) -> None:
        job = start("sweep", {"model": builtin_model, "types": "Q4_K"})
        states = [now.job.state for now in control.watch(job)]
        assert states[-1] == "done"
        assert [s.name for s in store.jobs.steps(job)] == ["hash", "weight errors"]
        assert start("sweep", {"model": builtin_model, "types": "Q5_K"}, queue=True) != job
        assert [j.state for j in control.list_jobs()] == ["done", "queued"]
