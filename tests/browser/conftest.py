"""A server and a browser for the tests of the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser_page import Page, chromium, serving

_MISSING = "the browser tests need Debian's packages chromium and chromium-driver: apt-get install them"


@pytest.fixture(scope="session", autouse=True)
def _browser() -> None:
    if chromium() is None:
        if os.environ.get("CI"):
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the server may use."""
    return tmp_path_factory.mktemp("page") / "given"


@pytest.fixture(scope="module")
def home(folder: Path) -> Path:
    """The store of the server and its jobs."""
    return folder.parent / "home"


@pytest.fixture(scope="module")
def address(folder: Path, home: Path) -> Iterator[str]:
    folder.mkdir()
    with serving(folder, home) as found:
        yield found


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    """One tab for all tests of a module."""
    tab = Page(address)
    yield tab
    tab.close()
