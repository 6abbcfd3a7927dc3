"""Hybrids from the page, releases on it, figures text by text, and drafts that outlive the server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from browser_page import Page, serving
from mqnative.app.views.model_view import view_of_report
from mqnative.app.views.structure import group_names
from mqnative.report.folder import write_report
from mqnative.report.summary import MEAN_OF_TEXTS, TextRow
from release_samples import release
from report_samples import dense


@pytest.fixture(scope="module", autouse=True)
def _runs(folder: Path, address: str) -> None:
    """A release, and a run with figures on two texts."""
    write_report(release(), folder / "release", ("json",))
    rows = [
        TextRow(text, m.name, 100, m.figures.kld_mean, m.figures.kld_ci95, 12.5, 0.95)
        for text in ("prose.txt", "code.txt", MEAN_OF_TEXTS)
        for m in dense().mixes
    ]
    write_report(replace(dense(), texts=tuple(rows)), folder / "texts", ("json",))


def add(page: Page, name: str) -> str:
    page.open("/")
    page.fill("Hub id, folder or file", name)
    page.click("Add")
    page.until(lambda: page.path.startswith("/model/"), "its page")
    return page.path.partition("?")[0]


def test_a_release_of_hybrids_is_added_and_shown(page: Page) -> None:
    path = add(page, "release")
    page.see("hybrids worth their size")
    page.open(path + "/frontier")
    page.see("in the place of 1 of 3 baselines")
    page.see("Why each file is here")
    page.see("MQ-Q4_K_M_1")
    assert page.all("svg.hybrids")
    page.open("/")
    page.see("release of hybrids")


def test_figures_text_by_text_stand_on_the_compare_page(page: Page) -> None:
    add(page, "texts")
    page.open("/compare")
    page.see("Text by text")
    page.see("prose.txt")
    page.see(MEAN_OF_TEXTS)


def test_hybrids_are_started_from_their_form_and_cancelled(page: Page) -> None:
    add(page, "model.gguf")
    page.open("/jobs?kind=hybrids")
    page.fill("Others' files as baselines", "../../elsewhere.gguf")
    page.click("Show the cost")
    page.told("outside of the folders")
    page.fill("Others' files as baselines", "")
    page.fill("Largest file", "huge")
    page.click("Show the cost")
    page.told("huge")
    page.fill("Largest file", "")
    page.fill("Presets as baselines (none: 20)", "Q8_0,Q4_K_M")
    page.click("Show the cost")
    page.see("to write or fetch")
    page.click("Start")
    page.until(lambda: page.path.startswith("/jobs/"), "the job")
    page.see("hybrids model.gguf")
    page.until(lambda: page.all(".step"), "a step")
    page.click("Cancel")
    page.until(lambda: page.one(".badge").text == "cancelled", "cancelled")


def test_a_recipe_being_edited_outlives_the_server(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    group = next(iter(group_names(view_of_report(dense(), folder)).values()))
    with serving(folder, home) as address:
        tab = Page(address)
        try:
            path = add(tab, "texts")
            tab.open(path + "/recipe")
            tab.choose("or group", group)
            tab.choose("Type", "Q8_0")
            tab.click("Set")
            tab.until(lambda: int(tab.tile("pinned")) > 0, "pins")
            figures = [tab.tile(name) for name in ("pinned", "size")]
        finally:
            tab.close()
    (kept,) = (home / "ui" / "drafts").iterdir()
    assert len(json.loads(kept.read_text())["pins"]) == int(figures[0])
    with serving(folder, home) as address:
        tab = Page(address)
        try:
            tab.open(path + "/recipe")
            assert [tab.tile(name) for name in ("pinned", "size")] == figures
        finally:
            tab.close()
