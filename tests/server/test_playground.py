"""The page at ``/`` in a browser, against the real server: what it shows is what the engine did."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from skipstone import Engine, load
from skipstone.diff.compare import compare
from skipstone.engine.settings import parse_settings
from skipstone.server.options import ServerOptions
from skipstone.tracing import Recorder
from tests.helpers.waiting import wait_until
from tests.report.browsing import CONTRAST, chromium
from tests.server.running import client_of, running
from tests.server.test_canvas import WITH_CANVAS
from tests.server.test_canvas import Page as Drawing
from tests.server.test_traces import PATIENT

__all__ = ["chromium"]

pytestmark = pytest.mark.browser

QUESTION = "Who is Newton, physics?"
ASKED: Any = [{"role": "user", "content": QUESTION}]
LOSSY = {"skip_layer_k": "2", "skip_threshold": "0.5"}
EVIL = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 2</script>"

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32, block_length=16, cache="none")


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with running(engine, PATIENT) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the page; nothing may be asked of anybody else, or be complained of."""
    contexts, said, roots = list[BrowserContext](), list[str](), list[str]()

    def open_page(where: str = address, language: str = "en-GB", **options: Any) -> Page:
        context = browser.new_context(locale=language, **options)
        contexts.append(context)
        roots.append(where.removesuffix("v1"))
        # Of every tab, also those that the page opens.
        context.on("console", lambda message: said.append(message.text))
        context.on("weberror", lambda error: said.append(f"{error.error}"))
        context.on("request", lambda asked: said.append(asked.url))
        page = context.new_page()
        page.goto(roots[-1])
        page.wait_for_function("document.querySelector('#send').textContent")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in said if not line.startswith((*roots, "data:", "Failed to"))] == []


def ask(page: Page, question: str = QUESTION) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")
    expect(page.locator("#send")).to_be_visible(timeout=60_000)


def against(page: Page, kind: str, policy: str, own: dict[str, str]) -> None:
    """Let the second column have another policy."""
    page.check("#compare")
    column = page.locator("#settings-b")
    column.locator(f"[name={kind}]").select_option(policy)
    for name, value in own.items():
        column.get_by_label(name, exact=True).fill(value)


def shown(page: Page, run: str) -> list[tuple[str, str]]:
    """State and token of each cell."""
    script = "cells => cells.map(one => [one.dataset.state, one.dataset.token])"
    found = page.locator(f".turn:last-child .answer-{run} .cell").evaluate_all(script)
    return [tuple(cell) for cell in found]


def streamed(address: str, settings: dict[str, str]) -> list[dict[str, Any]]:
    """What a stream tells of the canvas of an answer that is recorded."""
    with client_of(address) as client:
        stream = client.chat.completions.create(
            model="pebble",
            messages=ASKED,
            stream=True,
            stream_options=WITH_CANVAS,
            extra_body={"skipstone": {"trace": "decisions", **settings}},
        )
        told = [getattr(chunk.choices[0], "skipstone", None) for chunk in stream]
    return [one["canvas"] for one in told if one and one["canvas"]]


def test_an_answer_and_its_canvas_are_those_of_the_stream(
    visit: Visit, address: str, engine: Engine
) -> None:
    page = visit()
    ask(page)
    assert page.locator(".said").inner_text() == engine.generate(QUESTION).text
    drawing = Drawing()
    for news in streamed(address, {}):
        drawing.take(news)

    def cells(frame: list[tuple[str, int | None, float]]) -> list[tuple[str, str]]:
        blank = ("masked", "filled")
        return [(state, "" if state in blank else f"{token}") for state, token, _ in frame]

    assert shown(page, "a") == cells(drawing.cells)
    assert page.locator(".block").count() == 2
    # Back to each of its steps.
    for count, frame in enumerate(drawing.frames, start=1):
        page.locator(".answer-a input[type=range]").fill(f"{count}")
        assert shown(page, "a") == cells(frame)
    shades = page.locator(".cell").evaluate_all("c => c.map(one => one.style.cssText)")
    assert len(set(shades)) > 4


def test_two_columns_part_where_a_diagnosis_says_and_its_report_names_the_cause(
    visit: Visit,
) -> None:
    page = visit()
    against(page, "skip", "cosine", LOSSY)
    ask(page)
    assert "skip=cosine:skip_layer_k=2,skip_threshold=0.5" in page.locator(".answer-b").inner_text()
    marked = [page.locator(f".answer-{run} .parted") for run in "ab"]
    where = page.locator(".parting").inner_text()
    said = re.search(r"block (\d+), step (\d+), at token (\d+)", where)
    assert said is not None
    for cell in marked:
        expect(cell).to_have_count(1)
        expect(cell).to_have_attribute("data-position", said[3])
    page.click(".show")
    states = [cell.get_attribute("data-state") for cell in marked]
    assert sorted(map(str, states)) == ["committed", "provisional"]
    page.click(".cause")
    found = page.locator(".found")
    expect(found.locator("h4")).to_have_text("Cause: stale-skipped-state", timeout=300_000)
    expect(found).to_contain_text("necessary and sufficient")
    expect(found).to_contain_text(f"block {said[1]}, step {said[2]}, position")
    expect(found).to_contain_text(f"(new token {said[3]})")
    with page.context.expect_page() as opened:
        page.click(".report")
    report = opened.value
    report.wait_for_selector("#verdict", timeout=300_000)
    assert report.locator("#verdict .cause").inner_text() == "stale-skipped-state"
    # Its own scripts run.
    report.wait_for_function("() => document.querySelector('figure.view').dataset.rows")


PAIRS: tuple[tuple[dict[str, str], dict[str, str]], ...] = (
    ({}, {"unmask": "threshold:0.5"}),
    ({}, {"skip": "cosine:skip_layer_k=2,skip_threshold=0.5"}),
    ({"cache": "none"}, {"cache": "dual"}),
    ({}, {"block_length": "32"}),
    ({"block_length": "8"}, {}),
    ({"gen_length": "16"}, {}),
    ({"unmask": "fixed"}, {"unmask": "wino:value=0.3,back=0.9"}),
    ({"temperature": "1", "seed": "1"}, {"temperature": "1", "seed": "2"}),
    ({"budget": "stop", "steps": "4"}, {}),
    ({}, {}),
)
READ = """
async ([a, b]) => {
    const { Canvas } = await import("/page/canvas.js");
    const { Divergence } = await import("/page/divergence.js");
    const drawn = [new Canvas(), new Canvas()];
    const divergence = new Divergence(...drawn);
    // By turns, as they come: what is found may not change any more.
    for (let at = 0; at < Math.max(a.length, b.length); at += 1) {
        [a, b].forEach((news, run) => { if (news[at]) drawn[run].take(news[at]); });
        divergence.look();
    }
    return divergence.found;
}
"""


def test_the_first_decision_that_differs_is_that_of_the_traces(
    visit: Visit, address: str, engine: Engine
) -> None:
    page, kinds = visit(), set[object]()
    for pair in PAIRS:
        recorders = Recorder(), Recorder()
        for settings, recorder in zip(pair, recorders, strict=True):
            own = parse_settings(settings, engine.settings)
            Engine(engine.model, own).generate(QUESTION, observer=recorder)
        found = page.evaluate(READ, [streamed(address, settings) for settings in pair])
        first: Any = compare(*recorders).as_json()["first"]
        parts = ("kind", "block", "step", "position")
        if found and found["kind"] == "committed_set":
            assert (found["position"] in first["committed_a"]) == (found["by"] == "A")
        assert (found and [found[key] for key in parts]) == (
            first and [first[key] for key in parts]
        ), pair
        kinds.add(found and found["kind"])
    assert kinds >= {None, "committed_set", "token", "stop"}


def test_everything_can_be_done_by_keyboard(visit: Visit, engine: Engine) -> None:
    page = visit()
    expect(page.locator("#model")).to_have_text("pebble")

    def reach(selector: str) -> None:
        for _ in range(60):
            if page.locator(selector).first.evaluate("one => one === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first link leads to the question
    page.keyboard.type(QUESTION)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text(engine.generate(QUESTION).text, timeout=30_000)
    expect(page.locator(".said")).to_have_attribute("aria-busy", "false")
    page.evaluate("document.activeElement.blur()")
    reach("#compare")
    page.keyboard.press("Space")
    expect(page.locator("#settings-b")).to_be_visible()
    reach(".cell")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = page.locator(".cell:focus")
    assert int(focused.get_attribute("data-position") or 0) > 4
    assert (focused.get_attribute("aria-label") or "").startswith("position ")
    expect(page.locator(".detail")).to_have_text(focused.get_attribute("aria-label") or "")
    reach(".answer input[type=range]")
    page.keyboard.press("Home")
    assert {state for state, _ in shown(page, "a")} == {"masked"}


def test_it_speaks_chinese_to_whoever_reads_it_and_remembers(visit: Visit) -> None:
    page = visit(language="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    expect(page.locator("#send")).to_have_text("发送")
    ask(page)
    expect(page.locator(".cause")).to_have_text("加速手段改变了什么？")
    label = page.locator(".cell").first
    assert (label.get_attribute("aria-label") or "").startswith("位置 0：")
    # Everything is said in it, but for names.
    texts = page.locator("[data-word]").evaluate_all("e => e.map(one => one.textContent)")
    assert [one for one in texts if re.search("[a-z]{4} [a-z]", one) and "Who" not in one] == [
        "Replace somebody in the queue Tom, Anna, Leo, Mia by Zoe."
    ]
    page.click("[data-language=en]")
    expect(page.locator("#send")).to_have_text("Send")
    assert (label.get_attribute("aria-label") or "").startswith("position 0: ")
    page.reload()
    expect(page.locator("#send")).to_have_text("Send")


def test_whatever_is_written_is_inert(visit: Visit) -> None:
    page = visit()
    page.fill("#system", EVIL)
    # The model says what a model may say; what it is asked is repeated by the page, too.
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            body=evil_stream(), headers={"content-type": "text/event-stream"}
        ),
    )
    ask(page, EVIL)
    assert page.locator(".said").inner_text() == EVIL
    assert page.locator(".question p").inner_text() == EVIL
    assert page.locator(".cell").first.inner_text() == EVIL
    assert page.locator("main img, main script").count() == 0
    page.unroute("**/v1/chat/completions")
    ask(page, EVIL)
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None


def evil_stream() -> str:
    """An answer of one token, which is markup."""
    token = {"position": 0, "id": 1, "token": EVIL, "confidence": 1.0}
    step = {"number": 0, "block": 0, "step": 0, "committed": [token]}
    canvas: list[dict[str, object]] = [
        {"type": "begin", "prompt_length": 1, "length": 1, "limit": 1, "blocks": [[0, 1]]},
        {"type": "step", **step, "provisional": [], "revoked": [], "filled": []},
        {"type": "end", "finish_reason": "length", "tokens": 1},
    ]
    chunks = [
        {"choices": [{"delta": {"content": text}, "skipstone": {"canvas": news}}]}
        for text, news in zip(("", EVIL, ""), canvas, strict=True)
    ]
    return "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"


def test_what_the_server_refuses_is_said_in_its_sentence(visit: Visit) -> None:
    page = visit()
    page.fill("#settings-a [name=temperature]", "warm")
    ask(page)
    expect(page.locator(".refused")).to_have_text(
        "No answer: temperature is 'warm', must be a number"
    )
    page.fill("#settings-a [name=temperature]", "")
    expect(page.locator("#question")).to_have_value(QUESTION)
    page.press("#question", "Enter")
    expect(page.locator(".turn:last-child .cause")).to_be_enabled()


def test_an_answer_is_stopped_and_the_chat_goes_on(visit: Visit, engine: Engine) -> None:
    page, sent = visit(), list[Any]()
    page.on("request", lambda asked: sent.append(json.loads(asked.post_data or "null")))
    page.fill("#settings-a [name=gen_length]", "480")
    page.locator("#settings-a [name=unmask]").select_option("fixed")
    page.fill("#system", "Be short.")
    page.fill("#question", QUESTION)
    page.press("#question", "Enter")
    expect(page.locator(".cell[data-state=committed]").first).to_be_visible(timeout=30_000)
    page.keyboard.press("Escape")
    expect(page.locator(".state")).to_contain_text("stopped after")
    wait_until(lambda: not engine.load.running)
    page.locator("#settings-a [name=unmask]").select_option("")
    page.fill("#settings-a [name=gen_length]", "")
    for question in ("One?", "Two?"):
        ask(page, question)
    roles = [message["role"] for message in sent[-1]["messages"]]
    assert sent[-1]["messages"][0] == {"role": "system", "content": "Be short."}
    assert roles[1:] in (["user", "assistant", "user"], ["user", "assistant"] * 2 + ["user"])
    assert sent[-1]["messages"][-1]["content"] == "Two?"


def is_report(request: Request) -> bool:
    return "/report?" in request.url and request.url.split("/")[3] == "traces"


def test_what_is_drawn_is_drawn_alike_in_both_columns(visit: Visit, engine: Engine) -> None:
    page = visit()
    page.click("#begin")
    assert page.evaluate("document.activeElement.closest('#settings-b') !== null")
    for run in "ab":
        page.fill(f"#settings-{run} [name=temperature]", "2")
    ask(page)
    expect(page.locator(".parting")).to_have_text("A and B decide the same in every step.")
    assert page.locator(".said").first.inner_text() != engine.generate(QUESTION).text


def test_a_key_is_asked_for_and_forgotten_with_the_tab(
    browser: Browser, engine: Engine, visit: Visit
) -> None:
    with running(engine, ServerOptions(keys=("open",))) as where:
        page = visit(where)
        expect(page.locator("#key")).to_be_focused()
        page.fill("#key", "closed")
        page.press("#key", "Enter")
        expect(page.locator("#problem")).to_contain_text("this API key is not known")
        page.fill("#key", "open")
        page.press("#key", "Enter")
        expect(page.locator("#model")).to_have_text("pebble")
        expect(page.locator("#access")).to_be_hidden()
        ask(page)
        assert page.locator(".said").inner_text() == engine.generate(QUESTION).text
        # The tab of a report has it, too; whoever closes it ends the diagnosis.
        with page.context.expect_event("request", is_report) as asked:
            page.click(".report")
        assert asked.value.headers["authorization"] == "Bearer open"
        page.context.pages[-1].close()
        kept = page.evaluate("[Object.values(localStorage), document.cookie]")
        assert kept == [[], ""]
        page.goto("about:blank")
        page.goto(where.removesuffix("v1"))
    other = visit()
    assert other.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_stands_out_from_its_ground(visit: Visit, scheme: str) -> None:
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.click("#panel > summary")
    against(page, "skip", "cosine", LOSSY)
    page.click("#panel > summary")
    ask(page)
    expect(page.locator(".cause")).to_be_enabled()
    wide = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    page.click("#panel > summary")
    assert page.evaluate(wide)
    pale = page.evaluate(f"async () => {{ {CONTRAST}\nreturn paleTexts(); }}")
    assert pale == []
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    page.reload()
    page.wait_for_function("document.documentElement.dataset.theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
