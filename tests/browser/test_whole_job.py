"""From a model to a verified file, all from the page: the tests of this module build on each other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser_page import TIMEOUT_S, Page
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe import read_recipe
from mqnative.jobs import control
from mqnative.store.job_rows import Job

pytestmark = pytest.mark.slow

OVERRIDES = {
    "blk.0.ffn_down.weight": "Q8_0",
    "blk.3.attn_v.weight": "Q6_K",
    "output.weight": "Q5_K",
}


@pytest.fixture(autouse=True)
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's store for this process too, to look at jobs from outside."""
    monkeypatch.setenv("MQNATIVE_HOME", str(home))


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """What one test learns and another needs."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_running(home: Path) -> Iterator[None]:
    yield
    before = os.environ.get("MQNATIVE_HOME")
    os.environ["MQNATIVE_HOME"] = str(home)
    for job in control.list_jobs(["running", "queued"]):
        control.cancel(job.id)
    if before is not None:
        os.environ["MQNATIVE_HOME"] = before


def job_of(page: Page) -> Job:
    return control.show(int(page.path.rsplit("/", 1)[1].partition("?")[0])).job


def until_done(page: Page) -> None:
    """Wait for the job that is shown as long as it gets on, however slow the machine is."""
    bars = "return [...document.querySelectorAll('.step-bar i')].map((bar) => bar.style.width).join(' ')"
    seen, since = "", time.monotonic()
    while (state := page.text_of(".badge")) != "done":
        now = f"{state} {page.driver.execute_script(bars)}"
        if now != seen:
            seen, since = now, time.monotonic()
        assert state not in ("failed", "cancelled"), page.text
        assert time.monotonic() - since < 2 * TIMEOUT_S, page.text
        time.sleep(0.2)


def figures(page: Page) -> tuple[str, str, str]:
    return page.tile("pinned"), page.tile("size"), page.tile("predicted KLD, nats per token")


def test_the_built_in_model_is_added(page: Page, known: dict[str, str]) -> None:
    page.open("/")
    page.see("No model yet")
    page.fill("Hub id, folder or file", "model.gguf")
    page.click("Add")
    page.until(lambda: page.path.startswith("/model/"), "the model's page")
    known["model"] = page.path.partition("?")[0]
    page.see("91 tensors")
    page.see("Nothing is measured yet")
    page.see("qwen3.block_count")
    page.see("layer 0 · 11 tensors")


def test_without_figures_every_page_says_what_to_do(page: Page, known: dict[str, str]) -> None:
    for part in ("/tensor", "/recipe", "/frontier"):
        page.open(known["model"] + part)
        page.see("Start a run")
        end = f"/jobs?model={known['model'][7:]}"
        page.until(
            lambda end=end: str(page.one("a.action").get_attribute("href")).endswith(end), "the way on"
        )


def test_the_whole_job_runs_from_a_form_with_its_cost_first(page: Page, known: dict[str, str]) -> None:
    page.open(f"/jobs?model={known['model'][7:]}")
    assert not page.button("Start").is_enabled()
    page.fill("Chunks for each probe, at most", "2")
    page.fill("Rounds of refinement, at most", "0")
    page.fill("Held-out chunks (none: as many as it takes)", "3")
    page.fill("Tokens per chunk", "128")
    page.click("Show the cost")
    page.see("to write or fetch")
    page.see("weight errors")
    page.click("Start")
    page.until(lambda: page.path.startswith("/jobs/"), "the job's page")
    known["job"] = page.path
    page.see("imatrix")


def test_a_reload_shows_the_same_run(page: Page, known: dict[str, str]) -> None:
    page.open(known["job"])
    page.see("auto model.gguf")
    page.until(lambda: page.all(".step"), "steps")
    assert job_of(page).state in ("running", "done")


def test_a_killed_runner_is_noticed_and_resumed_from_the_page(page: Page, known: dict[str, str]) -> None:
    page.open(known["job"])
    page.until(lambda: len(page.all(".step")) >= 2, "two steps")
    pid = job_of(page).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    page.until(lambda: page.one(".badge").text == "paused", "paused")
    page.click("Resume")
    page.until(lambda: page.one(".badge").text in ("running", "done"), "it goes on")
    page.until(lambda: job_of(page).attempts == 2, "a second attempt")


def test_pause_and_resume_are_buttons(page: Page, known: dict[str, str]) -> None:
    page.open(known["job"])
    page.click("Pause")
    page.until(lambda: page.one(".badge").text == "paused", "paused")
    page.click("Resume")
    until_done(page)


def test_two_tabs_agree(page: Page, address: str, known: dict[str, str]) -> None:
    other = Page(address)
    try:
        other.open(known["job"])
        other.until(lambda: other.one(".badge").text == page.one(".badge").text == "done", "the same state")
        assert [s.text for s in other.all(".step-name")] == [s.text for s in page.all(".step-name")]
    finally:
        other.close()


def test_the_results_show_measured_against_predicted(page: Page, known: dict[str, str]) -> None:
    page.open(known["job"])
    page.click("Look at the results")
    page.until(lambda: page.path.endswith("/frontier"), "the frontier")
    page.see("nats per token against the original")
    page.see("Q4_K_M")
    page.see("predicted KLD")
    page.see("Chords")


def test_three_tensors_are_overridden_and_the_figures_follow(page: Page, known: dict[str, str]) -> None:
    for name, target in OVERRIDES.items():
        page.open(f"{known['model']}/tensor?name={name}")
        before = figures(page)
        page.until(lambda t=target: page.all(f'svg g.pick[data-type="{t}"]'), "the plot")
        page.until(lambda t=target: page.one(f'button.pick[data-type="{t}"]').click() or True, target)
        page.until(lambda b=before: page.tile("pinned") != b[2], "a pin")
        page.until(
            lambda b=before: (page.tile("size"), page.tile("predicted KLD, nats per token")) != b[:2], "it"
        )
        page.one(f'svg g.pick[data-type="{target}"][aria-pressed="true"]')
    page.open(known["model"] + "/recipe")
    assert page.tile("pinned") == "3"


def test_memory_follows_the_context_and_the_recipe(page: Page, known: dict[str, str]) -> None:
    page.open(known["model"] + "/recipe")
    page.until(lambda: page.tile("GPU memory, 4,096 tokens") != "None", "memory")
    short = page.tile("GPU memory, 4,096 tokens")
    page.choose("Context", "8,192")
    page.until(lambda: page.tile("GPU memory, 8,192 tokens") not in ("None", short), "more memory")


def test_the_map_shows_the_errors_of_every_tensor(page: Page, known: dict[str, str]) -> None:
    page.open(known["model"])
    page.click("errors")
    page.until(lambda: len(page.all("svg.small-bars")) == 58, "a histogram for each tensor")


def test_the_rest_is_solved_around_the_pins_and_undone(page: Page, known: dict[str, str]) -> None:
    page.open(known["model"] + "/recipe")
    page.fill("Size or bits per weight", "5 bpw")
    page.click("Solve")
    page.told("proven best")
    page.until(lambda: 4.9 < float(page.tile("bits per weight")) <= 5.0, "five bits per weight")
    assert page.tile("pinned") == "3"
    known["bpw"] = page.tile("bits per weight")
    page.press('button[aria-label="Undo"]')
    page.until(lambda: page.tile("bits per weight") != known["bpw"], "undone")
    page.press('button[aria-label="Redo"]')
    page.until(lambda: page.tile("bits per weight") == known["bpw"], "done again")


def test_the_recipe_is_downloaded_and_loaded_again(page: Page, known: dict[str, str]) -> None:
    page.open(known["model"] + "/recipe")
    page.click("YAML")
    path = page.downloaded(".recipe.yaml")
    recipe = read_recipe(path)
    assert {name: recipe.tensors[name] for name in OVERRIDES} == OVERRIDES
    page.fill("Pattern, for whole names", ".*ffn_up.*")
    page.choose("Type", "Q8_0")
    page.click("Set")
    page.until(lambda: page.tile("pinned") == "11", "eight more pins")
    page.one('.compare-card input[type="file"]').send_keys(str(path))
    page.until(lambda: page.tile("differs") not in ("None", "0"), "what differs from the file")
    page.one('.files-card input[type="file"]').send_keys(str(path))
    page.told("is the recipe now")
    page.until(lambda: page.tile("bits per weight") == known["bpw"], "as it was saved")


def test_the_recipe_is_built_as_a_job_at_the_predicted_size(page: Page, known: dict[str, str]) -> None:
    page.open(known["model"] + "/recipe")
    size = page.text_of(".tiles dd small")
    page.click("Build it")
    page.until(lambda: "kind=build" in page.path, "the build form")
    page.click("Show the cost")
    page.see("to write or fetch")
    page.click("Start")
    page.until(lambda: page.path.startswith("/jobs/"), "the job")
    until_done(page)
    known["file"] = str(job_of(page).options["output"])
    with GGUFFile.open(known["file"]) as built:
        # The header names how often a type occurs, which takes a few bytes more or less.
        assert abs(built.file_bytes - int(size.partition(" ")[0].replace(",", ""))) <= 64
        assert {n: built.tensors[n].qtype.name for n in OVERRIDES} == OVERRIDES


def test_the_built_file_is_verified_and_compared(page: Page, known: dict[str, str]) -> None:
    page.click("Verify and compare")
    page.until(lambda: "kind=compare" in page.path, "the compare form")
    assert page.field("Files to compare *").get_attribute("value") == known["file"]
    page.fill("Chunks (none: all)", "2")
    page.click("Show the cost")
    page.see("to write or fetch")
    page.click("Start")
    page.until(lambda: page.path.startswith("/jobs/"), "the job")
    until_done(page)
    page.click("Look at the results")
    page.see("nats per token against the original")


def test_profiles_of_several_models_stand_side_by_side(page: Page) -> None:
    page.open("/compare")
    page.see("Sensitivity by role and depth")
    page.until(lambda: len(page.all("svg[class^=profile]")) == 7, "a plot for each role")


def test_the_browser_had_nothing_to_complain_about(page: Page) -> None:
    assert page.errors() == []
