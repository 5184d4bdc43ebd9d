"""Take the pictures of the report page from a real run: ``make screenshots``.

Needs Chromium (on Debian: ``apt install chromium``). The embedded model decodes one prompt with and
without a skip; the page about both runs is opened, and parts of it are put into ``docs/images``.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import skipstone
from skipstone import CosineSkip, Engine, Fixed, Recorder, Settings

IMAGES = Path(__file__).parent / "images"
PROMPT = "Complete this Latin square: 1 0 0 / 0 0 1 / 0 0 0."
EXACT = Settings(gen_length=32, unmask=Fixed())
SKIPS = replace(EXACT, skip=CosineSkip(skip_layer_k=18, skip_threshold=0.99))
COLOURS = 160
LAYOUT = "header, #cursor { position: static } section { padding: 24px !important; border: 0 }"
PARTS = ("verdict", "commits", "states", "chain", "similarity")


def main() -> None:
    """Decode, write the page, and photograph it."""
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


def photograph(page: Path) -> None:
    """One picture a part of the page, on light ground."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
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
            path = IMAGES / f"report-{part}.png"
            keep(opened.locator(f"#{part}").screenshot(), path)
            print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")
        browser.close()


def keep(png: bytes, path: Path) -> None:
    """Write a picture with the few colours that it needs."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, kmeans=COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
