"""The page of a leaderboard: what it shows, and what it escapes."""

from __future__ import annotations

import re
from html import unescape

from skipstone.leaderboard.board import Leaderboard
from skipstone.leaderboard.columns import MOST_BROKEN
from skipstone.sweep.run import Sweep
from tests.leaderboard.conftest import EVIL


def test_every_text_is_escaped_and_nothing_is_asked_for(html: str) -> None:
    assert EVIL not in html
    assert html.count("<script>") == 1
    assert "Families (2)" in html
    assert not re.search(r'(src|href)="(?!#|data:,|reports/[-a-z0-9]+\.html")', html)
    assert "default-src 'none'" in unescape(html)


def test_each_line_is_a_point_that_leads_to_what_it_broke(
    html: str, swept: tuple[Sweep, Leaderboard]
) -> None:
    sweep, found = swept
    ids = set(re.findall(r' id="([^"]+)"', html))
    links = re.findall(r'<a href="([^"]+)" data-kind', html)
    assert set(re.findall(r'<li><a href="#([^"]+)"', html)) < ids
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
