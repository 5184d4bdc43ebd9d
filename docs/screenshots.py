"""Take the pictures of the report page and the playground: ``make screenshots``.

Needs Chromium (on Debian: ``apt install chromium``). The embedded model decodes one prompt with and
without a skip; the page about both runs is opened, and parts of it are put into ``docs/images``.
Then a server's page is asked one question under two settings, and for the cause of the difference.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

import skipstone
from skipstone import CosineSkip, Engine, Fixed, Recorder, Settings

IMAGES = Path(__file__).parent / "images"
PROMPT = "Complete this Latin square: 1 0 0 / 0 0 1 / 0 0 0."
EXACT = Settings(gen_length=32, unmask=Fixed())
SKIPS = replace(EXACT, skip=CosineSkip(skip_layer_k=18, skip_threshold=0.99))
COLOURS = 160
LAYOUT = "header, #cursor { position: static } section { padding: 24px !important; border: 0 }"
SERVE = (sys.executable, "-m", "skipstone", "serve", "--port", "0", "--log", "off")
SETTINGS = ("--cache", "none", "--gen-length", "32", "--block-length", "16")
QUEUE = "Replace somebody in the queue Tom, Anna, Leo, Mia by Zoe."
PARTS = ("verdict", "commits", "states", "chain", "similarity")


def main() -> None:
    """Have both pages, and photograph them."""
    IMAGES.mkdir(exist_ok=True)
    with served() as address:
        photograph_playground(address)
    model = skipstone.load("pebble")
    engines = Engine(model, EXACT), Engine(model, SKIPS)
    recorders = Recorder("full"), Recorder("full")
    for engine, recorder in zip(engines, recorders, strict=True):
        engine.generate(PROMPT, observer=recorder)
    a, b = (recorder.trace for recorder in recorders)
    with tempfile.TemporaryDirectory() as folder:
        page = skipstone.write_report(
            [a, b],
            Path(folder) / "report.html",
            names=("without skip", "skip at 0.99"),
            diagnosis=skipstone.diagnose(a, b, engine_a=engines[0], engine_b=engines[1]),
            token=model.text.token,
        )
        photograph(page)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def photograph(page: Path) -> None:
    """One picture a part of the page, on light ground."""
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1100, "height": 1200})
        opened.goto(f"file://{page}")
        opened.wait_for_function(
            "() => [...document.querySelectorAll('figure.view')].every(f => f.dataset.rows)"
        )
        opened.wait_for_timeout(500)
        opened.add_style_tag(content=LAYOUT)
        opened.evaluate("redraw()")
        opened.wait_for_timeout(1500)
        for part in PARTS:
            keep(opened.locator(f"#{part}").screenshot(), IMAGES / f"report-{part}.png")


def photograph_playground(address: str) -> None:
    """The page of a server, asked under two settings."""
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1200, "height": 940})
        opened.goto(address)
        opened.check("#compare")
        column = opened.locator("#settings-b")
        column.locator("[name=skip]").select_option("cosine")
        column.get_by_label("skip_layer_k", exact=True).fill("2")
        column.get_by_label("skip_threshold", exact=True).fill("0.5")
        opened.fill("#question", QUEUE)
        opened.press("#question", "Enter")
        opened.click(".cause", timeout=60_000)
        expect(opened.locator(".found h4")).to_be_visible(timeout=120_000)
        opened.evaluate("scrollTo(0, 0)")
        keep(opened.screenshot(), IMAGES / "playground.png")


@contextmanager
def served() -> Iterator[str]:
    """The address of a server's page."""
    with subprocess.Popen([*SERVE, *SETTINGS], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("page at "))
        yield line.split()[-1]
        server.terminate()


def keep(png: bytes, path: Path) -> None:
    """Write a picture with the few colours that it needs."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, kmeans=COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
