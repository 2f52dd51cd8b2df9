"""The page in a real browser: what is on it, and what a person does there."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import wait_for
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

SECONDS = 30.0
"""For anything to appear: machines that run tests are busy."""

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1400,900",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Skips the test where it is not installed."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("there is no Chromium: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        chrome.set_page_load_timeout(SECONDS)
        yield chrome
    finally:
        chrome.quit()


class Page:
    """Opened anew for each test."""

    def __init__(self, chrome: webdriver.Chrome, address: str) -> None:
        self.chrome = chrome
        chrome.get(f"http://{address}/")
        wait_for("the model is known", lambda: self.find("model").text, SECONDS)

    def find(self, name: str) -> WebElement:
        return self.chrome.find_element(By.ID, name)

    def texts(self, selector: str) -> list[str]:
        """Of all that a selector finds, in one look: what is drawn anew is no trouble."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
            selector,
        )
        return found

    def run(self, script: str, *arguments: object) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def set(self, **options: object) -> None:
        """Sampling options, and the key, as if they had been typed."""
        for name, value in options.items():
            self.run(
                "const field = document.querySelector(`[name=${arguments[0]}], #${arguments[0]}`);"
                "field.value = arguments[1]; field.dispatchEvent(new Event('change'))",
                name, str(value),
            )  # fmt: skip

    def send(self, text: str) -> None:
        """With the keyboard; a new line is Shift+Enter."""
        lines = text.split("\n")
        for line in lines[:-1]:
            self.find("prompt").send_keys(line, Keys.SHIFT + Keys.ENTER + Keys.NULL)
        self.find("prompt").send_keys(lines[-1], Keys.ENTER)

    @property
    def is_answering(self) -> bool:
        return self.find("stop").is_displayed()

    def answered(self) -> str:
        """The last answer, once it is over."""
        wait_for("the answer is over", lambda: not self.is_answering, SECONDS)
        return self.texts("article.assistant .text")[-1]

    def count_pieces(self) -> None:
        """From now on `window.pieces` is how often a text in the conversation has grown."""
        self.run(
            "window.pieces = 0; new MutationObserver((seen) => { window.pieces += seen.length })"
            ".observe(document.getElementById('log'), { characterData: true, subtree: true })"
        )

    def error(self) -> str:
        wait_for("an error is told", lambda: self.find("error").is_displayed(), SECONDS)
        return self.find("error").text

    def answer_with(self, path: str, body: str, status: int = 200, **headers: str) -> None:
        """What calls of a path are answered from now on; status 0: nothing."""
        self.run(
            "const [start, body, status, headers] = arguments, really = window.fetch;"
            "window.fetch = (path, how) => {"
            "  if (!path.startsWith(start)) return really(path, how);"
            "  if (!status) return Promise.reject(new TypeError('Failed to fetch'));"
            "  return Promise.resolve(new Response(body, { status, headers }));"
            "}",
            path, body, status, {name.replace("_", "-"): text for name, text in headers.items()},
        )  # fmt: skip

    def watch_calls(self) -> None:
        """From now on `calls` tells of them."""
        self.run(
            "const really = window.fetch; window.calls = [];"
            "window.fetch = (path, how) => { window.calls.push([path, how.headers, how.body]);"
            " return really(path, how); }"
        )

    def calls(self, path: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """Headers and body of those of a path."""
        return [
            (headers, json.loads(body) if body else {})
            for called, headers, body in self.run("return window.calls")
            if called == path
        ]

    def look_at(self, *, width: int = 1400, height: int = 900, scheme: str = "light") -> None:
        self.chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    def complaints(self) -> list[str]:
        """Of the browser: scripts that failed, what the policy forbade. Not that a call was
        refused."""
        entries = self.chrome.get_log("browser")  # type: ignore[no-untyped-call]
        messages = [entry["message"] for entry in entries]
        return [message for message in messages if "Failed to load resource" not in message]


def lightness(color: str) -> float:
    """0 to 255, of `rgb(…)`."""
    numbers = color.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(float(number) for number in numbers) / 3
