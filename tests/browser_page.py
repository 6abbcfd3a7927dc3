"""The page in the system's Chromium, headless: a real server, a real browser, nothing downloaded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

TIMEOUT_S = 300.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage",
)  # fmt: skip
_PASSING = (
    StaleElementReferenceException,
    NoSuchElementException,
    ElementClickInterceptedException,
    ElementNotInteractableException,
)
T = TypeVar("T")


def chromium() -> tuple[str, str] | None:
    """The system's browser and its driver; None if one of them is not installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


@contextmanager
def serving(folder: Path, home: Path, *options: str) -> Iterator[str]:
    """``mqnative ui`` on a free port; gives its address."""
    command = [sys.executable, "-m", "mqnative", "ui", str(folder), "--no-browser", "--port", "0", *options]
    log = home.parent / "ui.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=os.environ | {"MQNATIVE_HOME": str(home)}, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        try:
            address = process.stdout.readline().decode().strip()
            assert address.startswith("http"), log.read_text()
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


class Page:
    """A tab, steered by what a person sees."""

    def __init__(self, address: str, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        found = chromium()
        assert found is not None
        self.address = address.split("?", maxsplit=1)[0].rstrip("/")
        self._profile = tempfile.mkdtemp(prefix="mqnative-browser-")
        options = Options()
        options.binary_location = found[0]
        for flag in (*_FLAGS, f"--user-data-dir={self._profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.add_experimental_option(
            "prefs", {"download.default_directory": self._profile, "download.prompt_for_download": False}
        )
        self.driver = webdriver.Chrome(options=options, service=Service(found[1]))
        self.driver.set_page_load_timeout(60)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: str) -> None:
        """Go to a page and wait until it is alive."""
        self.driver.get(self.address + path)
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "main.content"), "the page's content")
        self.until(lambda: self.driver.execute_script("return !!window.socket?.connected"), "its connection")

    @property
    def path(self) -> str:
        """Where the tab is, without the server."""
        return str(self.driver.current_url).removeprefix(self.address)

    @property
    def text(self) -> str:
        """Everything that is shown."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def until(self, look: Callable[[], T], what: str, timeout_s: float = TIMEOUT_S) -> T:
        """Wait until ``look`` gives something; elements that come and go meanwhile do not matter."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found = look()
                if found:
                    return found
            except _PASSING:
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"waited for {what}; the page shows:\n{self.text[:3000]}")
            time.sleep(0.05)

    def see(self, text: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a text is shown."""
        self.until(lambda: text in self.text, repr(text), timeout_s)

    def all(self, css: str) -> list[WebElement]:
        """Elements by CSS."""
        return list(self.driver.find_elements(By.CSS_SELECTOR, css))

    def one(self, css: str) -> WebElement:
        """The first element by CSS, once it is there."""
        return self.until(lambda: self.all(css), css)[0]

    def text_of(self, css: str) -> str:
        """What the first element by CSS says, however often the page draws it anew."""
        return self.until(lambda: self.one(css).text, css)

    def button(self, text: str) -> WebElement:
        """The button that says this."""
        return self.until(
            lambda: [b for b in self.all("button") if b.text.strip().endswith(text) and b.is_displayed()],
            text,
        )[0]

    def click(self, text: str) -> None:
        """Click the button that says this, once it can be clicked."""
        self._press(lambda: self.button(text), f"button {text!r}")

    def press(self, css: str) -> None:
        """Click the first element by CSS, once it can be clicked."""
        self._press(lambda: self.one(css), css)

    def _press(self, look: Callable[[], WebElement], what: str) -> None:
        def press() -> bool:
            found = look()
            if not found.is_enabled() or found.get_attribute("disabled"):
                return False
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
            found.click()
            return True

        self.until(press, what)

    def field(self, label: str) -> WebElement:
        """The entry with this label."""
        return self.one(f'input[aria-label="{label}"]')

    def fill(self, label: str, value: str) -> None:
        """Write into an entry."""

        def write() -> bool:
            field = self.field(label)
            # Not below the figures that stay at the top.
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
            field.click()
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(Keys.DELETE)
            if value:
                field.send_keys(value)
            return field.get_attribute("value") == value

        self.until(write, f"entry {label!r}")

    def choose(self, label: str, option: str) -> None:
        """Choose from a list."""

        def unfold() -> bool:
            field = self.field(label)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
            field.click()
            return True

        self.until(unfold, label)

        def pick() -> bool:
            for item in self.all(".q-menu .q-item"):
                if item.text.strip() == option:
                    item.click()
                    return True
            return False

        self.until(pick, f"{option!r} in {label!r}")

    def told(self, text: str) -> None:
        """Wait for a notification, and dismiss it."""
        self.until(
            lambda: any(text.lower() in n.text.lower() for n in self.all(".q-notification")),
            f"a notification with {text!r}",
        )
        for note in self.all(".q-notification button"):
            try:
                note.click()
            except _PASSING:
                continue

    def tile(self, name: str) -> str:
        """The figure of a tile."""
        script = """
            const named = (d) => d.querySelector("dt").textContent === arguments[0];
            const found = [...document.querySelectorAll(".tiles div")].filter(named);
            return found.map((d) => d.querySelector("dd").childNodes[0].textContent)[0];
        """
        return str(self.driver.execute_script(script, name))

    def errors(self) -> list[str]:
        """What the browser complained about."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def downloaded(self, suffix: str) -> Path:
        """The newest file that was downloaded."""
        folder = Path(self._profile)
        return self.until(lambda: sorted(folder.glob(f"*{suffix}")), f"a download {suffix}")[-1]
