"""Models by hub id and as Hugging Face folders, against a hub on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from browser_page import Page, serving
from hf_models import builtin_checkpoint
from hub_server import HubServer
from mqnative import builtin


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def address(hub: HubServer, folder: Path, home: Path) -> Iterator[str]:
    """A server whose hub is the loopback's, with a cache of its own."""
    folder.mkdir()
    builtin_checkpoint(folder / "checkpoint")
    hub.add("acme/tiny", {"tiny-bf16.gguf": builtin.MODEL, "config.json": "{}", "README.md": "# tiny"})
    hub.add_folder("acme/checkpoint", folder / "checkpoint")
    hub.add("acme/gated", {"model.gguf": builtin.MODEL}, gated="manual")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("HF_ENDPOINT", hub.endpoint),
            ("HF_HOME", str(folder / "hf")),
            ("HF_HUB_CACHE", str(folder / "hf" / "hub")),
            ("HF_TOKEN", ""),
            ("HF_HUB_OFFLINE", ""),
        ):
            patch.setenv(name, value)
        with serving(folder, home) as found:
            yield found


def ask(page: Page, text: str) -> None:
    page.open("/")
    page.fill("Hub id, folder or file", text)
    page.click("Add")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acme/nothing", "acme/nothing"),
        ("acme/tiny/none.gguf", "none.gguf"),
    ],
)
def test_ids_that_cannot_be_had_say_why(page: Page, text: str, said: str) -> None:
    ask(page, text)
    page.told(said)
    assert page.path == "/"
    assert page.all(".asking") == []


def test_files_and_size_are_shown_before_anything_is_downloaded(page: Page, hub: HubServer) -> None:
    ask(page, "acme/tiny")
    page.see("Download acme/tiny?")
    page.see("tiny-bf16.gguf")
    page.see("16.9 MB")
    page.click("Not now")
    page.until(lambda: not page.all(".asking"), "the question gone")
    assert page.path == "/"
    assert hub.sent_bytes < 1_000_000


def test_a_gated_repository_says_what_to_do(page: Page) -> None:
    ask(page, "acme/gated")
    page.click("Download")
    page.until(lambda: page.path.startswith("/jobs/"), "the job")
    page.see("is gated: accept its conditions")
    page.until(lambda: page.one(".badge").text == "failed", "failed")


def test_a_model_is_downloaded_as_a_job_and_added(page: Page) -> None:
    ask(page, "acme/tiny")
    page.click("Download")
    page.until(lambda: page.path.startswith("/jobs/"), "the job")
    page.until(lambda: page.one(".badge").text == "done", "fetched")
    page.click("Add acme/tiny")
    page.until(lambda: page.path.startswith("/model/"), "the model's page")
    page.see("91 tensors")
    page.see("tiny-bf16.gguf")


def converted(page: Page, file: str) -> None:
    """Wait for the conversion's end, which needs an extra."""
    page.until(lambda: page.path.startswith("/jobs/"), "the job")
    page.until(lambda: page.one(".badge").text in ("done", "failed"), "the end")
    if find_spec("torch") is None:
        page.see("pip install 'mqnative[convert]'")
        assert page.text_of(".badge") == "failed"
        return
    page.click(f"Add {file}")
    page.until(lambda: page.path.startswith("/model/"), "the model's page")
    page.see("91 tensors")


def test_a_checkpoint_on_the_hub_is_converted(page: Page) -> None:
    ask(page, "acme/checkpoint")
    page.see("model.safetensors")
    page.see("converted to GGUF")
    page.click("Download and convert")
    converted(page, "checkpoint.gguf")


def test_a_folder_of_the_hubs_form_is_converted(page: Page) -> None:
    ask(page, "checkpoint")
    page.see("Convert checkpoint?")
    page.click("Convert")
    converted(page, "checkpoint.gguf")
