"""The page of a leaderboard: what it shows, what it escapes, and how it behaves in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from playwright.sync_api import Page

from skipstone import Model, Settings, load
from skipstone.diff.agreement import Question
from skipstone.leaderboard.board import Leaderboard, board
from skipstone.leaderboard.page import MOST_BROKEN, render
from skipstone.leaderboard.protocol import Protocol, protocol
from skipstone.sweep.run import Sweep, run_sweep
from skipstone.testing.checkpoint import write_checkpoint
from tests.report.browsing import Open, chromium, opened_pages

__all__ = ["chromium", "opened_pages"]

EVIL = "</title><script>alert(1)</script>"
QUESTIONS = [
    Question(f"one {EVIL}", answer="a", family=f"sums {EVIL}"),
    Question("-two", answer="b", family="names"),
]
CHOSEN = ("unmask=entropy", "cache=dual", "unmask=threshold", "skip=cosine cache=dual")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def swept(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Leaderboard]:
    base = Settings(gen_length=16, block_length=16, eos_stop=False)
    every = protocol(tiny, base, knobs=False)
    chosen = tuple(e for e in every.entries if e.setting.name in CHOSEN)
    run = Protocol(every.baseline, chosen, (f"unmask=x: {EVIL}",))
    folder = tmp_path_factory.mktemp("sweep")
    sweep = run_sweep(
        tiny, QUESTIONS, run.settings, folder, baseline=run.baseline, explain=2, reports=3
    )
    return sweep, board(sweep, run)


@pytest.fixture(scope="module")
def html(tiny: Model, swept: tuple[Sweep, Leaderboard]) -> str:
    sweep, found = swept
    changed = [replace(m, text=f"{EVIL}{m.text}", cause="x") for m in sweep.measurements]
    return render(found, replace(sweep, measurements=changed), f"about {EVIL}", tiny)


def test_every_text_is_escaped_and_nothing_is_asked_for(html: str) -> None:
    assert EVIL not in html
    assert html.count("<script>") == 1
    assert not re.search(r'(src|href)="(?!#|data:,|reports/[-a-z0-9]+\.html")', html)
    assert "default-src 'none'" in unescape(html)


def test_each_line_is_a_point_that_leads_to_what_it_broke(
    html: str, swept: tuple[Sweep, Leaderboard]
) -> None:
    sweep, found = swept
    ids = set(re.findall(r' id="([^"]+)"', html))
    links = re.findall(r'<a href="([^"]+)" data-kind', html)
    assert len(links) == len(found.lines)
    pages = {link for link in links if link.startswith("reports/")}
    assert {link[1:] for link in set(links) - pages} <= ids
    changed = [line for line in found.lines if line.changed]
    assert changed
    assert sum(not link.startswith("#row-") for link in links) == len(changed) <= MOST_BROKEN
    assert pages == set(sweep.reports.values())
    for page in pages:
        assert "<title>" in (sweep.store.folder / page).read_text("utf-8")
    assert html.count("skipstone compare --model") == len(changed)
    assert re.search(r"--device cpu --dtype float32 .*--report report.html -- ", html)


def test_settings_without_room_for_a_report_have_a_command_and_it_is_said(
    html: str, swept: tuple[Sweep, Leaderboard]
) -> None:
    sweep, found = swept
    broke = sum(bool(line.changed) for line in found.lines if line.family != "all")
    assert len(sweep.reports) == 3 < broke
    assert len(list((sweep.store.folder / "reports").iterdir())) == 3
    assert f"3 of {broke} settings and families that changed an answer have a report" in html
    assert "#broke-" in html


@pytest.mark.browser
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


@pytest.mark.browser
def test_the_page_works_in_a_browser(html: str, tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "board.html"
    path.write_text(html, encoding="utf-8")
    seen = opened(path)
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
    link = page.locator("svg a[href^='#broke-']:visible").first
    link.focus()
    page.keyboard.press("Enter")
    broken = str(link.get_attribute("href"))
    assert page.locator(broken).evaluate("one => document.activeElement === one")
    row = page.locator("svg a[href^='#row-']:visible").first
    row.locator("circle").click()
    assert page.locator(str(row.get_attribute("href"))).is_visible()
    assert seen.said == []
