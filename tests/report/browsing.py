"""Report pages opened in Chromium, and what a reader sees of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

# A busy machine is waited for; of what is expected, nothing comes later than it must.
expect.set_options(timeout=60_000)
Open = Callable[..., "Opened"]
CONTRAST, SEEING = (
    (Path(__file__).parent / name).read_text(encoding="utf-8")
    for name in ("contrast.js", "seeing.js")
)


# An event comes with one of the next frames, and is followed by drawing.
_RESTS = """async () => {
    const drawing = typeof busy === "undefined" ? new WeakMap() : busy;
    for (let frame = 0; frame < 4; frame += 1) {
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)));
        await Promise.all([...document.querySelectorAll("figure.view")].map((f) => drawing.get(f)));
    }
}"""


@dataclass
class Opened:
    """A page, and everything it said or asked for."""

    page: Page
    said: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until every chart has been drawn once."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('figure.view')].every(f => f.dataset.rows)"
        )
        self.rest()

    def rest(self) -> None:
        """Wait until what was begun has been drawn, however slow the machine is."""
        self.page.evaluate(_RESTS)

    def where(self) -> str:
        self.rest()
        return self.page.locator("#where").inner_text()

    def speak(self, language: str) -> None:
        """Switch to a language."""
        self.page.locator(f"[data-language='{language}']").click()
        self.settle()

    def unfold(self) -> None:
        """Open everything that can be opened."""
        self.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        self.rest()

    def see(self, what: str) -> Any:
        """Ask ``seeing.js`` about a report page."""
        return self._asked(f"{CONTRAST}\n{SEEING}", what)

    def contrast(self, what: str) -> Any:
        """Ask ``contrast.js`` about any page."""
        return self._asked(CONTRAST, what)

    def _asked(self, script: str, what: str) -> Any:
        return self.page.evaluate(f"async () => {{ {script}\nreturn await {what}; }}")


@pytest.fixture(scope="module", name="browser")
def chromium() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(name="opened")
def opened_pages(browser: Browser) -> Iterator[Open]:
    pages = list[Page]()

    def open_page(path: Path, link: str = "", scheme: str = "light", width: int = 1200) -> Opened:
        dark = "dark" if scheme == "dark" else "light"
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=dark)
        pages.append(page)
        found = Opened(page)
        page.on("console", lambda message: found.said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
        page.on("request", lambda request: found.said.append(f"request: {request.url}"))
        page.goto(f"file://{path}{link}")
        found.settle()
        found.said = [line for line in found.said if f"request: file://{path}" not in line]
        return found

    yield open_page
    for page in pages:
        page.close()
