"""The page of a leaderboard in a browser: points, filters, keys, and both schemes of colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from skipstone import Model
from skipstone.leaderboard.board import Leaderboard
from skipstone.leaderboard.page import render
from skipstone.sweep.run import Sweep
from tests.report.browsing import Open, chromium, opened_pages

__all__ = ["chromium", "opened_pages"]

pytestmark = pytest.mark.browser


def test_a_click_on_a_point_opens_the_report_of_an_answer_that_it_broke(
    tiny: Model, swept: tuple[Sweep, Leaderboard], opened: Open
) -> None:
    sweep, found = swept
    path = sweep.store.save(
        "board.html",
        lambda to: to.write_text(render(found, sweep, "about", tiny), encoding="utf-8"),
    )
    seen = opened(path)
    seen.page.locator("svg a[href^='reports/'] circle").first.click()
    seen.page.wait_for_url("**/reports/*.html")
    assert seen.page.locator("#verdict").is_visible()
    assert not any(line.startswith(("console", "error")) for line in seen.said)


def test_the_page_works_in_a_browser(html: str, tmp_path: Path, opened: Open) -> None:
    seen = opened(_written(html, tmp_path))
    page: Page = seen.page
    kinds = page.locator("svg a[data-kind='cache']")
    assert kinds.first.is_visible()
    page.locator("input[value=cache]").uncheck()
    assert not kinds.first.is_visible()
    page.locator("input[value=seconds]").check()
    assert page.locator(".of.seconds").first.is_visible()
    assert not page.locator(".of.forwards").first.is_visible()
    placed = """
        points => points.every(one => Math.abs(
            new DOMMatrix(getComputedStyle(one).transform).e
            - parseFloat(one.style.getPropertyValue('--seconds'))) < 0.1)
    """
    assert page.locator(".point.unmask").evaluate_all(placed)
    row = page.locator("svg a[href^='#row-']:visible").first
    row.locator("circle").click()
    assert page.locator(str(row.get_attribute("href"))).is_visible()
    assert seen.said == []


FOCUSED = "document.activeElement"


def test_keys_alone_reach_filters_and_points_and_lead_back(
    html: str, tmp_path: Path, opened: Open
) -> None:
    seen = opened(_written(html, tmp_path))
    page = seen.page
    _tab_to(page, "input[name=cost]")
    page.keyboard.press("ArrowRight")
    assert page.locator(".of.flops").first.is_visible()
    _tab_to(page, "input[value=cache]")
    page.keyboard.press("Space")
    assert not page.locator("svg a[data-kind='cache']").first.is_visible()
    for start in ("#broke-", "#row-"):
        link = _tab_to(page, f"svg a[href^='{start}']")
        ring = f"getComputedStyle({FOCUSED}.querySelector('circle')).strokeWidth"
        assert page.evaluate(ring) == "2px"
        for _ in range(2):
            page.keyboard.press("Enter")
            target = page.locator(link)
            target.wait_for(state="visible")
            if start == "#broke-":
                assert target.evaluate(f"one => {FOCUSED} === one")
            page.keyboard.press("Escape")
            assert page.evaluate(f"{FOCUSED}.getAttribute('href')") == link
    assert seen.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_points_and_lines_stand_out_from_their_ground(
    html: str, tmp_path: Path, opened: Open, scheme: str
) -> None:
    seen = opened(_written(html, tmp_path), scheme=scheme)
    seen.unfold()
    assert seen.contrast("paleTexts()") == []
    shapes = ".point circle, .point .range, .front"
    assert seen.page.locator(shapes).count() > 3
    assert seen.contrast(f"paleShapes('{shapes}')") == []
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(23, 25, 28)") == (scheme == "dark")
    assert seen.said == []


def _written(html: str, folder: Path) -> Path:
    path = folder / "board.html"
    path.write_text(html, encoding="utf-8")
    return path


def _tab_to(page: Page, selector: str) -> str:
    """Press Tab until something is reached that fits, and give where it leads."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate(f'{FOCUSED}.matches("{selector}")'):
            return str(page.evaluate(f"{FOCUSED}.getAttribute('href')"))
    raise AssertionError(f"no Tab reaches {selector}")
