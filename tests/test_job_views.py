"""Forms, plans and progress as the page shows them, without a browser or a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from mqnative import builtin
from mqnative.app.cli import COMMANDS, cli
from mqnative.app.views.frontier import chord_table, chords
from mqnative.app.views.job_forms import FORMS, arguments, defaults
from mqnative.app.views.job_page import badge, can, events, facts, job_line, percent, plan_table, progress
from mqnative.app.views.paths import short
from mqnative.app.views.profiles import legend
from mqnative.errors import ConstraintError
from mqnative.jobs.estimate import Plan, Planned
from mqnative.store.job_rows import Event, Job, Step
from mqnative.store.job_tables import STATES

EVIL = "<script>alert(1)</script>"


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": 3, "key": "k", "kind": "auto", "argv": ("--bpw=4.5", "--", "/m/model.gguf"), "options": {},
        "folder": "/m", "inputs": {}, "versions": {"mqnative": "0.1.0"}, "device": "cpu", "state": "running",
        "wish": None, "pid": 1, "attempts": 1, "created": "2026-01-01T00:00:00.000Z",
        "started": "2026-01-01T00:00:01.000Z", "ended": None, "wall_s": 12.0, "cpu_s": 20.0,
        "estimate": None, "error": None,
    }  # fmt: skip
    return Job(**(values | changes))


def step(**changes: Any) -> Step:
    values: dict[str, Any] = {
        "number": 1, "attempt": 1, "name": "probe", "unit": "passes", "total": 200, "done": 50,
        "state": "running", "started": "2026-01-01T00:00:01.000Z", "elapsed_s": 10.0, "rate": 5.0,
        "eta_s": 30.0,
    }  # fmt: skip
    return Step(**(values | changes))


@pytest.mark.parametrize("kind", sorted(set(FORMS) & set(COMMANDS)))
def test_a_form_filled_in_is_a_command_line_that_parses(kind: str, tmp_path: Path) -> None:
    values = dict(defaults(kind, builtin.MODEL.resolve(), tmp_path))
    for field in FORMS[kind].fields:
        if field.required and not values[field.label]:
            values[field.label] = "some.file"
    if kind == "build":
        values["Recipe"] = "recipe.yaml"
    words = arguments(kind, "model.gguf", values)
    command = cli.get_command(click.Context(cli), kind)
    assert words[0] == kind
    assert command is not None
    with command.make_context(kind, words[1:]) as context:
        assert str(context.params.get("model") or context.params.get("reference")) == "model.gguf"


def test_every_option_of_a_form_is_an_option_of_its_command() -> None:
    for kind in set(FORMS) & set(COMMANDS):
        command = cli.get_command(click.Context(cli), kind)
        assert command is not None
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        assert {f.option for f in FORMS[kind].fields if f.option} <= known, kind


def test_values_cannot_smuggle_options_in() -> None:
    words = arguments(
        "sweep", "--force", {"Importance matrix": "--json", "Types allowed (none: all)": ["Q4_K"]}
    )
    assert words == ["sweep", "--imatrix=--json", "--types=Q4_K", "--", "--force"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Bits per weight": "many"}, "is no number"),
        ({"Bits per weight": "nan"}, "is no number"),
        ({"Bits per weight": "-1"}, "is no number"),
        ({"Calibration text": ""}, "fill this in"),
        ({"or size of the file": "2GiB"}, "not both"),
        ({"Tokens per chunk": "1e99"}, "is no number"),
    ],
)
def test_wrong_entries_are_named(changes: dict[str, str], said: str) -> None:
    values = defaults("auto", builtin.MODEL.resolve(), Path("home")) | changes
    with pytest.raises(ConstraintError, match=said):
        arguments("auto", "model.gguf", values)


def test_a_build_needs_a_recipe_or_a_preset() -> None:
    with pytest.raises(ConstraintError, match="recipe or a preset"):
        arguments("build", "m.gguf", {"File to write": "o.gguf"})
    words = arguments("build", "m.gguf", {"File to write": "o.gguf", "or preset": "Q4_K_M"})
    assert words == ["build", "--preset=Q4_K_M", "-o", "o.gguf", "--", "m.gguf"]


def test_progress_has_a_bar_for_every_step_of_the_last_attempt() -> None:
    steps = [step(name="old", state="stopped"), step(attempt=2, state="done"), step(attempt=2, name="verify")]
    drawn = progress(job(attempts=2), steps)
    assert drawn.count("progressbar") == 2
    assert "old" not in drawn
    assert 'aria-valuenow="25"' in drawn
    assert "5 passes/s" in drawn
    assert "30 s left" in drawn


def test_a_step_without_a_known_end_claims_no_share() -> None:
    assert percent(step(total=0)) is None
    assert percent(step(done=500)) == 100.0
    assert "aria-valuenow" not in progress(job(), [step(total=0)])
    assert "waits for its turn" in progress(job(state="queued"), [])


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_buttons_that_make_sense(state: str) -> None:
    buttons = can(state)
    assert not (buttons["pause"] and buttons["resume"]) or state == "queued"
    assert buttons["cancel"] is (state not in ("done", "cancelled"))
    assert state in badge(state)


def test_what_jobs_say_is_never_markup() -> None:
    hostile = job(argv=(EVIL,), folder=EVIL, versions={EVIL: EVIL}, error={"message": EVIL})
    plan = Plan((Planned(EVIL, 1, EVIL, 1.0),), (EVIL,)).to_dict()
    drawn = [
        job_line(hostile, step(name=EVIL)),
        facts(hostile),
        progress(hostile, [step(name=EVIL, unit=EVIL)]),
        events([Event(1, "now", "note", EVIL)]),
        plan_table(plan),
        legend([EVIL]),
        chord_table(chords([(EVIL, 15, 0.1)], [("a", 10, 0.3), ("b", 20, 0.05)])),
    ]
    assert all("<script" not in html for html in drawn)
    assert "&lt;script" in "".join(drawn)


def test_the_cost_is_said_first() -> None:
    steps = (
        Planned("probe", 928, "passes", 70.0, seconds=70.0, basis="kept"),
        Planned("build", 2_000, "weights", 5.0, size_bytes=4_820_000, seconds=5.0),
    )
    drawn = plan_table(Plan(steps, ("a note",)).to_dict())
    assert "About <b>1 min 15 s</b>, <b>4.82 MB</b> to write" in drawn
    assert "928 passes" in drawn
    assert "measured already" in drawn
    assert "<li>a note</li>" in drawn


def test_paths_in_the_users_home_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/ada")
    assert short(Path("/srv/ada/models/a.gguf")) == "~/models/a.gguf"
    assert short("mqnative build /srv/ada/a.gguf -o /srv/ada/b.gguf") == "mqnative build ~/a.gguf -o ~/b.gguf"
    assert short("/srv/ada") == "~"
    for other in ("/srv/adam/a.gguf", "/mnt/srv/ada/a.gguf"):
        assert short(other) == other
    monkeypatch.setenv("HOME", "/")
    assert short("/models/a.gguf") == "/models/a.gguf"
