"""The page itself: wrong input in every form, other sites, keyboard, colours, a phone, large models."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from browser_page import Page, serving
from mqnative.report.jsonform import to_json
from report_samples import dense, moe

EVIL = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.fixture(scope="module", autouse=True)
def _run(folder: Path, address: str) -> None:
    """A finished run whose names are hostile, and a large one."""
    for name, report in (("evil", dense()), ("large", moe())):
        (folder / name).mkdir()
        value = to_json(report)
        if name == "evil":
            value["title"] = EVIL
            value["model"]["name"] = EVIL
            value["tensors"][3]["name"] = f"blk.9.{EVIL}.weight"
            value["tensors"][3]["role"] = EVIL
            value["notes"] = [EVIL]
        (folder / name / "report.json").write_text(json.dumps(value))


def add(page: Page, text: str) -> None:
    page.open("/")
    page.fill("Hub id, folder or file", text)
    page.click("Add")


def add_run(page: Page, name: str) -> str:
    add(page, name)
    page.until(lambda: page.path.startswith("/model/"), "the run's page")
    return page.path.partition("?")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("../..", "outside of the folders"),
        ("/etc/passwd", "outside of the folders"),
        ("nothing.gguf", "is not there"),
        (".", "no GGUF and no report"),
    ],
)
def test_models_that_cannot_be_added_say_why(page: Page, text: str, said: str) -> None:
    add(page, text)
    page.told(said)
    assert page.path == "/"


def test_script_in_the_names_of_a_model_is_text(page: Page) -> None:
    path = add_run(page, "evil")
    for part in ("", "/recipe", "/frontier", "/tensor"):
        page.open(path + part)
        page.see("<img src=x", 20)
        assert page.driver.execute_script("return window.hacked") is None
        assert page.all('img[src="x"]') == []
    page.open("/")
    assert page.driver.execute_script("return window.hacked") is None


def test_wrong_input_on_the_recipe_page_says_what_would_do(page: Page) -> None:
    page.open(add_run(page, "large") + "/recipe")
    page.click("Set")
    page.told("tick rows")
    page.fill("Pattern, for whole names", "(")
    page.click("Set")
    page.told("(")
    page.fill("Pattern, for whole names", "nothing_like_it")
    page.click("Set")
    page.told("matches no tensor")
    page.fill("Pattern, for whole names", ".*ffn_down.*")
    page.click("Set")
    page.told("choose a type")
    page.fill("Size or bits per weight", "a lot")
    page.click("Solve")
    page.told("is no size")
    page.fill("Size or bits per weight", "0.1 bpw")
    page.click("Solve")
    page.told("the smallest takes")
    page.click("Floor")
    page.told("write a pattern")


def test_a_file_that_is_no_recipe_is_refused(page: Page, tmp_path: Path) -> None:
    page.open(add_run(page, "large") + "/recipe")
    for name, content in (
        ("a.yaml", b"just: [text"),
        ("b.json", b'{"base": "Q99"}'),
        ("c.yaml", b"\xff\xfe"),
    ):
        (tmp_path / name).write_bytes(content)
        page.one('.files-card input[type="file"]').send_keys(str(tmp_path / name))
        page.until(lambda: page.all(".q-notification.bg-negative"), "an error")
        page.driver.execute_script("document.querySelectorAll('.q-notification').forEach(n => n.remove())")
    assert page.tile("pinned") == "0"


def test_wrong_input_of_a_job_is_refused_before_anything_runs(page: Page) -> None:
    add(page, "model.gguf")
    page.until(lambda: page.path.startswith("/model/"), "the model")
    page.open("/jobs")
    for label, value, said in (
        ("Bits per weight", "many", "is no number"),
        ("Calibration text *", "/etc/passwd", "outside of the folders"),
        ("Calibration text *", "", "fill this in"),
        ("Folder for the results *", "../../elsewhere", "outside of the folders"),
        ("or size of the file", "2GiB", "not both"),
        ("Tokens per chunk", "-5", "is no number"),
        ("Tokens per chunk", "2", "4"),
    ):
        page.open("/jobs")
        page.fill(label, value)
        page.click("Show the cost")
        page.told(said)
        assert not page.button("Start").is_enabled()
    for kind, said in (("build", "fill this in"), ("compare", "fill this in"), ("probe", "")):
        page.open(f"/jobs?kind={kind}")
        if said:
            for label in [f.get_attribute("aria-label") for f in page.all("input[aria-label$='*']")]:
                page.fill(str(label), "")
            page.click("Show the cost")
            page.told(said)


def test_types_are_chosen_with_the_keyboard_alone(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(add_run(page, "large") + "/tensor?name=blk.3.attn_v.weight")
    page.until(lambda: page.all("svg g.pick"), "the plot")
    page.driver.execute_script("document.querySelector('svg g.pick[data-type=\"Q6_K\"]').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.until(lambda: page.tile("pinned") == "1", "a pin")
    page.driver.find_element("tag name", "body").send_keys(Keys.CONTROL, "z")
    page.until(lambda: page.tile("pinned") == "0", "undone")


def test_a_table_sorts_by_its_heads_and_keeps_the_order_when_drawn_anew(page: Page) -> None:
    page.open(add_run(page, "large") + "/tensor?name=blk.3.attn_v.weight")
    head = ".drawn table.sortable thead th:nth-child(2) button"
    first = ".drawn table.sortable tbody tr:first-child .type-button"
    smallest = page.text_of(first)
    for order in ("ascending", "descending"):
        page.press(head)
        page.one(f'.drawn th:nth-child(2)[aria-sort="{order}"]')
    largest = page.text_of(first)
    assert largest != smallest
    page.press(f'.type-button[data-type="{smallest}"]')
    page.one(f'.type-button[data-type="{smallest}"][aria-pressed="true"]')
    page.until(lambda: page.all('.drawn th:nth-child(2)[aria-sort="descending"]'), "the order it had")
    assert page.text_of(first) == largest


@pytest.mark.parametrize("dark", [False, True])
def test_colours_follow_the_system_and_the_button(address: str, dark: bool) -> None:
    tab = Page(address, dark=dark)
    try:
        tab.open("/")
        tab.until(lambda: bool(tab.all("body.body--dark")) is dark, "the system's colours")
        for _ in range(2):  # light, then dark
            tab.one("[data-theme-button]").click()
        tab.until(lambda: tab.all("body.body--dark"), "dark")
        tab.open("/jobs")
        tab.until(lambda: tab.all("body.body--dark"), "still dark")
    finally:
        tab.close()


@pytest.mark.parametrize("part", ["", "/recipe", "/tensor", "/frontier"])
def test_nothing_is_wider_than_a_phone(address: str, page: Page, part: str) -> None:
    path = add_run(page, "large")
    tab = Page(address, 390, 800)
    try:
        tab.open(path + part)
        tab.until(lambda: tab.all(".drawn, .nicegui-aggrid"), "content")
        width = tab.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
    finally:
        tab.close()


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(address: str, path: str = "/", **headers: str) -> Answer:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def test_other_sites_get_nothing_from_the_real_server(address: str) -> None:
    assert ask(address).status == 200
    assert ask(address, Host="evil.example").status == 403
    assert ask(address, Origin=f"http://{'evil.example'}").status == 403
    socket = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    upgrade["Sec_WebSocket_Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    assert ask(address, socket, Origin=f"http://{'evil.example'}", **upgrade).status == 403
    polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    assert ask(address, polling, Origin=f"http://{'evil.example'}").status == 403
    assert ask(address, "/docs").status == 404


def test_files_beside_the_page_are_out_of_reach(address: str) -> None:
    for path in ("/../../etc/passwd", "/_nicegui/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"):
        assert b"root:" not in ask(address, path).body


def test_a_page_for_others_opens_with_its_token_only(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "home", "--host", "0.0.0.0") as printed:
        parts = urlsplit(printed)
        token = parts.query.removeprefix("token=")
        assert len(token) >= 24
        here = f"http://127.0.0.1:{parts.port}"
        assert ask(here).status == 401
        assert ask(here, "/?token=wrong").status == 401
        answer = ask(here, f"/?token={token}")
        assert answer.status == 303
        cookie = answer.headers["set-cookie"].partition(";")[0]
        assert ask(here, Cookie=cookie).status == 200
        tab = Page(here)
        try:
            tab.driver.get(f"{here}/?token={token}")
            tab.see("Add a model")
            assert "token" not in str(tab.driver.current_url)
        finally:
            tab.close()
