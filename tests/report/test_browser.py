"""Report pages in a real browser: every view is drawn, follows the reader, and stays offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from playwright.sync_api import Page

from skipstone import CosineSkip, DualCache, Fixed, NoCache, Settings, write_report
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.finding import Finding, Place, Proof, RuledOut
from skipstone.digits import told_apart
from skipstone.record import MemoryTrace
from skipstone.report.words import words
from skipstone.sentence import Code, Sentence
from tests.helpers.recorded import record, trace_of
from tests.report.browsing import Open, chromium, opened_pages
from tests.test_digits import CASES, crowd

pytestmark = pytest.mark.browser

PLAIN = Settings(
    gen_length=16, block_length=8, cache=DualCache(), unmask=Fixed(), steps=16, eos_stop=False
)
SKIPS = replace(PLAIN, skip=CosineSkip(skip_layer_k=2, skip_threshold=0.5))
__all__ = ["chromium", "opened_pages"]

VIEWS = [
    "commits_a",
    "commits_b",
    "commits_difference",
    "errors",
    "provenance",
    "candidates",
    "top",
    "histogram",
    "similarity_b",
    "shapes_a",
    "shapes_b",
    "skipped",
    "milliseconds",
]
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "\u202egnp.exe\u2066",
    "👩‍👩‍👧‍👦",
    "{{ 7 * 7 }} ${7 * 7} datum['x']",
    "long " * 400,
    "",
    "\x00\x1b[31m\u2028",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report([trace_of(PLAIN), trace_of(SKIPS)], folder / "report.html")


def test_every_view_is_drawn_and_nothing_is_asked_for(opened: Open, path: Path) -> None:
    found = opened(path)
    for name in VIEWS:
        figure = found.page.locator(f"#view-{name}")
        assert int(figure.get_attribute("data-rows") or 0) > 0, name
        assert figure.locator("canvas").count() == 1, name
        assert painted(found.page, name) > 2, name
    assert found.page.locator("#view-similarity_a .empty").is_visible()
    assert found.said == []


def painted(page: Page, name: str) -> int:
    """Number of colours in a chart."""
    return int(
        page.evaluate(
            """(name) => {
                const canvas = document.querySelector(`#view-${name} canvas`);
                const { width, height } = canvas;
                const bytes = canvas.getContext("2d").getImageData(0, 0, width, height).data;
                return new Set(new Uint32Array(bytes.buffer)).size;
            }""",
            name,
        )
    )


def test_a_link_leads_to_its_place_and_charts_follow(opened: Open, path: Path) -> None:
    found = opened(path, "#b1.s2.l3.p17")
    assert "block 1, step 2 · layer 3 · position 17" in found.where()
    before = found.page.locator("#view-errors").get_attribute("data-rows")
    found.page.evaluate("location.hash = '#b0.s0.l1.p6'")
    assert "block 0, step 0 · layer 1 · position 6" in found.where()
    assert before is not None
    assert found.said == []


def test_the_first_divergence_is_where_the_page_opens(opened: Open, path: Path) -> None:
    found = opened(path)
    start = found.where()
    found.page.locator("[data-move='1']").click()
    assert found.where() != start
    found.page.locator("[data-move='0']").click()
    assert found.where() == start


def test_arrows_move_the_cursor_of_a_chart(opened: Open, path: Path) -> None:
    found = opened(path, "#b0.s3.l2.p9")
    found.page.locator("#view-commits_a").focus()
    found.page.keyboard.press("ArrowRight")
    assert "position 10" in found.where()
    found.page.keyboard.press("ArrowDown")
    assert "block 0, step 4" in found.where()
    found.page.locator("#view-errors").focus()
    found.page.keyboard.press("ArrowUp")
    assert "layer 3" in found.where()
    assert found.page.evaluate("location.hash") == "#b0.s4.l3.p10"


def test_a_click_moves_the_cursor(opened: Open, path: Path) -> None:
    found = opened(path, "#b0.s0.l1.p5")
    chart = found.page.locator("#view-commits_a canvas")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    found.page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.4)
    assert "position 5 " not in found.where()


def test_a_token_leads_to_the_step_that_committed_it(opened: Open, path: Path) -> None:
    found = opened(path)
    link = found.page.locator(".token").first
    target = link.get_attribute("href")
    link.click()
    found.rest()
    assert target is not None
    assert found.page.evaluate("location.hash").startswith(target.rsplit(".p", 1)[0])


def test_every_chart_is_also_a_table(opened: Open, path: Path) -> None:
    found = opened(path)
    for name in VIEWS:
        found.page.locator(f"#view-{name} summary").click()
    found.rest()
    for name in VIEWS:
        assert found.page.locator(f"#view-{name} table tbody tr").count() > 0, name
    assert found.said == []


def test_it_is_named_for_those_who_listen(opened: Open, path: Path) -> None:
    found = opened(path)
    nameless = found.page.evaluate(
        """() => [...document.querySelectorAll("[aria-labelledby], [aria-describedby]")].filter(
            (element) => ["aria-labelledby", "aria-describedby"].some((attribute) => {
                const id = element.getAttribute(attribute);
                return id && !document.getElementById(id)?.innerText.trim();
            })).map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    unreachable = found.page.locator("figure.view:not([tabindex='0'])").count()
    assert unreachable == 0
    found.page.keyboard.press("Tab")
    assert found.page.evaluate("document.activeElement.className") == "skip"


def test_it_speaks_chinese_too(opened: Open, path: Path) -> None:
    found = opened(path)
    found.page.locator("[data-language='zh']").click()
    found.settle()
    assert found.page.locator("html").get_attribute("lang") == "zh"
    shown = found.page.locator("body").inner_text()
    assert words("zh")["section.verdict"] in shown
    assert words("en")["lead.commits"] not in shown
    assert words("zh")["title.errors"] in shown
    assert found.said == []


def test_light_and_dark(opened: Open, path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(path), opened(path, scheme="dark")
    assert light.page.evaluate(ground) != dark.page.evaluate(ground)
    light.page.locator("#theme").click()
    light.settle()
    assert light.page.evaluate(ground) == dark.page.evaluate(ground)


def test_hostile_text_is_shown_as_text(opened: Open, tmp_path: Path) -> None:
    page = write_report(
        [trace_of(PLAIN), trace_of(SKIPS)],
        tmp_path / "hostile.html",
        names=HOSTILE[:2],
        token=lambda token: HOSTILE[token % len(HOSTILE)],
    )
    found = opened(page)
    found.page.locator("#view-candidates summary").click()
    found.rest()
    assert found.page.evaluate("window.hacked") is None
    assert found.page.locator("img").count() == 0
    assert HOSTILE[0] in found.page.locator("#verdict").inner_text()
    assert "{{ 7 * 7 }}" in found.page.content()
    width = found.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1200
    assert found.said == []


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_hostile_trace_is_shown_as_text(
    opened: Open, tmp_path: Path, language: str, width: int
) -> None:
    """Everything that a trace may hold as text: names of models, settings, what was seen."""
    path = tmp_path / "hostile.html"
    a, b = (renamed(trace_of(settings), HOSTILE[i]) for i, settings in enumerate((PLAIN, SKIPS)))
    evil = [Sentence("{quoted}", quoted=Code(text)) for text in HOSTILE]
    cause = Finding(HOSTILE[0], 11, evil[0], Place(0, 1), evil[1], evil[2], Proof.OBSERVED, evil[3])
    diagnosis = Diagnosis(
        parted=True,
        summary=evil[4],
        findings=(cause,),
        remarks=(cause,),
        ruled_out=(RuledOut(HOSTILE[1], event_sentence(HOSTILE[0])),),
        noise=evil[5],
        unavailable=tuple(evil),
        next_command=evil[0],
    )
    write_report([a, b], path, diagnosis=diagnosis, language=language)
    found = opened(path, width=width)
    found.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found.rest()
    assert found.page.evaluate("window.hacked") is None
    assert found.page.locator("img").count() == 0
    assert HOSTILE[0] in found.page.locator("#verdict").inner_text()
    assert HOSTILE[0] in found.page.title()
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.said == []


def renamed(trace: MemoryTrace, text: str) -> MemoryTrace:
    """The same run of a model, on a device and under settings, of other names."""
    header = trace.records[0].header
    settings = {**header.settings, text: text, "cache": text}
    hostile = MemoryTrace()
    hostile.begin([replace(header, model=text, device=text, settings=settings)], "decisions")
    for step in trace.records[0].steps:
        hostile.step(0, step, {})
    outcome = trace.records[0].outcome
    assert outcome is not None
    hostile.end([outcome])
    return hostile


def test_numbers_are_written_as_in_a_terminal(opened: Open, path: Path) -> None:
    found, random = opened(path), Random("page")
    groups = [values for values, _ in CASES] + [crowd(random) for _ in range(300)]
    written = "groups => groups.map(g => { const t = toldApart(g); return g.map(v => t.get(v)); })"
    assert found.page.evaluate(written, groups) == [told_apart(values) for values in groups]


def test_confidences_that_differ_do_not_look_the_same(opened: Open, tmp_path: Path) -> None:
    traces = [sure(trace_of(PLAIN), 1 - 3.1e-9), sure(trace_of(SKIPS), 1 - 3.2e-9)]
    found = opened(write_report(traces, tmp_path / "sure.html"))
    rows = found.page.locator("#inspector tr")
    texts = dict(row.split("\t", 1) for row in rows.all_inner_texts())
    assert texts["confidence"].split("\t") == ["1 - 3.1e-9", "1 - 3.2e-9"]
    found.page.locator("#view-candidates summary").click()
    found.rest()
    assert "1 - 3.1e-9" in found.page.locator("#view-candidates .rows").inner_text()
    assert found.said == []


def sure(trace: MemoryTrace, confidence: float) -> MemoryTrace:
    """The same run, of a model that is as sure of every token."""
    record, other = trace.records[0], MemoryTrace()
    other.begin([record.header], "decisions")
    for step in record.steps:
        sure = np.full_like(step.candidates.confidence, confidence)
        candidates = replace(step.candidates, confidence=sure)
        other.step(0, replace(step, candidates=candidates), {})
    assert record.outcome is not None
    other.end([record.outcome])
    return other


def test_answers_may_be_empty(opened: Open, tmp_path: Path) -> None:
    found = opened(
        write_report(
            [trace_of(PLAIN), trace_of(SKIPS)], tmp_path / "empty.html", token=lambda _: ""
        )
    )
    assert found.said == []


def test_runs_that_are_the_same(opened: Open, tmp_path: Path) -> None:
    page = write_report([trace_of(PLAIN), trace_of(PLAIN)], tmp_path / "same.html")
    found = opened(page)
    assert "same decisions in every step" in found.page.locator("h1").inner_text()
    assert found.said == []


def test_a_ladder_of_runs(opened: Open, tmp_path: Path) -> None:
    other = trace_of(replace(PLAIN, cache=NoCache()))
    traces: list[MemoryTrace] = [trace_of(PLAIN), other, trace_of(SKIPS)]
    found = opened(write_report(traces, tmp_path / "ladder.html", names=("x", "y", "z")))
    assert found.page.locator("#ladder tbody tr").count() == 3
    assert found.said == []


def test_a_long_run_is_small_and_paints_at_once(opened: Open, tmp_path: Path) -> None:
    # The longest canvas of the tiny model.
    traces = [record(replace(settings, gen_length=248, steps=248)) for settings in (PLAIN, SKIPS)]
    page = write_report(traces, tmp_path / "long.html")
    assert page.stat().st_size < 5_000_000
    first = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    # The machine may be busy: the page is given some tries.
    assert any(opened(page).page.evaluate(first) < 1000 for _ in range(8))
