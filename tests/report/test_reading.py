"""What a reader can read of a report page: on light and dark ground, on a phone, in Chinese."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import skipstone
from skipstone import (
    CosineSkip,
    DualCache,
    Engine,
    Fixed,
    NoCache,
    Recorder,
    Settings,
    Threshold,
    write_report,
)
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.finding import Finding, Place, Proof, RuledOut
from skipstone.record import MemoryTrace
from skipstone.report.words import LANGUAGES, sentences
from tests.diagnosis.templates import filled, templates
from tests.helpers.watching import prompt_of, uneven_model
from tests.report.browsing import Open, Opened, chromium, opened_pages

__all__ = ["chromium", "opened_pages"]

pytestmark = pytest.mark.browser

PLAIN = Settings(
    gen_length=16, block_length=8, cache=DualCache(), unmask=Fixed(), steps=16, eos_stop=False
)
SKIPS = replace(PLAIN, skip=CosineSkip(skip_layer_k=2, skip_threshold=0.5))
PARALLEL = replace(PLAIN, unmask=Threshold(0.02), steps=None)
PAIRS = {
    "skip": (PLAIN, SKIPS),
    "two skips": (replace(SKIPS, skip=CosineSkip(skip_layer_k=3, skip_threshold=0.9)), SKIPS),
    "parallel": (replace(PARALLEL, unmask=Threshold(0.9)), PARALLEL),
    "cache": (replace(PLAIN, cache=NoCache()), PLAIN),
    "schedule": (PLAIN, replace(PLAIN, steps=8)),
    "same": (PLAIN, PLAIN),
}
# Words that Chinese texts about language models leave in Latin letters, keys of a keyboard, and
# what no language translates: settings, policies, dtypes, commands.
LATIN = """
A B C K V EOS NaN id token logits softmax Page Up Down Home Skipstone b s l p ms
none cosine dual prefix fixed threshold factor cpu cuda device batch backend dtype
cache skip unmask steps eos_stop budget finish refresh_every similarity_dtype skip_threshold
skipstone attach audit trace step diagnose level window
"""


def run(settings: Settings, seed: int = 1) -> tuple[Engine, MemoryTrace]:
    engine, recorder = Engine(uneven_model(seed), settings), Recorder("full")
    engine.generate(prompt_of(1, 5), observer=recorder)
    return engine, recorder.trace


def explained(name: str) -> tuple[list[MemoryTrace], Diagnosis]:
    (engine_a, a), (engine_b, b) = (run(settings) for settings in PAIRS[name])
    return [a, b], skipstone.diagnose(a, b, engine_a=engine_a, engine_b=engine_b)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page for every pair, one without a diagnosis, and one of other weights."""
    folder = tmp_path_factory.mktemp("pages")
    found = dict[str, Path]()
    for name in PAIRS:
        traces, diagnosis = explained(name)
        found[name] = write_report(
            traces, folder / f"{name}.html", names=("1.trace", "2.trace"), diagnosis=diagnosis
        )
    traces = [run(PLAIN)[1], run(PLAIN, 2)[1]]
    found["weights"] = write_report(
        traces, folder / "weights.html", diagnosis=skipstone.diagnose(*traces)
    )
    traces = [run(PLAIN)[1], run(SKIPS)[1], run(PARALLEL)[1]]
    found["not asked"] = write_report(traces, folder / "asked.html", names=("1", "2", "3"))
    return found


# --- contrast


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["skip", "two skips", "parallel", "not asked"])
def test_everything_stands_out_from_its_ground(
    opened: Open, pages: dict[str, Path], name: str, scheme: str
) -> None:
    found = opened(pages[name], scheme=scheme)
    found.unfold()
    assert found.see("paleTexts()") == []
    assert found.see("paleMarks()") == []


def test_what_is_pale_is_seen(opened: Open, pages: dict[str, Path]) -> None:
    found = opened(pages["skip"])
    found.page.evaluate("document.querySelector('h1').style.color = '#ddd'")
    # The heading has a name of a policy in it, which is a text of its own.
    pale = found.see("paleTexts()")
    assert pale
    assert all(text.endswith(": 1.30") for text in pale)
    found.page.evaluate("data.colours.light.a = '#f0f0f0'; redraw()")
    found.rest()
    marks = found.see("paleMarks()")
    assert any("candidates" in mark and "mark-symbol" in mark for mark in marks)


def test_a_badge_keeps_its_shape_beside_a_long_answer(opened: Open, pages: dict[str, Path]) -> None:
    found = opened(pages["skip"], width=360)
    for badge in found.page.locator(".run").all():
        box = badge.bounding_box()
        assert box is not None
        assert box["width"] == box["height"] == 24


# --- small screens


@pytest.mark.parametrize("language", list(LANGUAGES))
@pytest.mark.parametrize("width", [360, pytest.param(390, marks=pytest.mark.long), 768, 1024, 1280])
def test_nothing_is_cut_at_any_width(
    opened: Open, pages: dict[str, Path], width: int, language: str
) -> None:
    for name in ("skip", "not asked"):
        found = opened(pages[name], width=width)
        found.speak(language)
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert found.page.evaluate(overflow) == 0
        assert found.see("cutTexts()") == []
        assert found.see("cutCharts()") == []
        for bar in ("header", "#cursor"):
            assert one_line(found, bar), bar


def one_line(found: Opened, bar: str) -> bool:
    """Whether a bar is one line in which nothing overlaps, wraps or hides."""
    return found.see(f"inOneLine({bar!r})")


def test_the_contents_are_a_menu_where_there_is_no_room(
    opened: Open, pages: dict[str, Path]
) -> None:
    found = opened(pages["skip"], width=390)
    assert not found.page.locator("#contents").is_visible()
    found.page.locator("#menu").click()
    links = found.page.locator("#contents a")
    assert links.count() == 11
    assert all(link.is_visible() for link in links.all())
    links.last.click()
    assert not found.page.locator("#contents").is_visible()
    assert found.page.evaluate("location.hash") == "#work"


# --- what it says


def test_the_headline_says_the_cause_and_the_line_below_the_place(
    opened: Open, pages: dict[str, Path]
) -> None:
    found = opened(pages["skip"])
    cause = explained("skip")[1].cause
    assert cause is not None
    heading = found.page.locator("h1").inner_text()
    assert heading.lower() == cause.what
    assert "part at block" in found.page.locator(".parting").inner_text()
    assert heading.lower() in found.page.title().lower()
    found = opened(pages["not asked"])
    assert "part at block" in found.page.locator("h1").inner_text()


def test_steps_are_not_to_be_taken_for_decimals(opened: Open, pages: dict[str, Path]) -> None:
    found = opened(pages["skip"])
    found.unfold()
    texts = found.see("chartTexts()")
    steps = [text for _, _, text in texts if re.fullmatch(r"b\d+ s\d+", text)]
    assert len(steps) > 10
    titles = {text for _, kind, text in texts if "title" in kind}
    assert "block (b) and step (s)" in titles
    cells = found.page.locator("#view-commits_a table tbody td:nth-child(2)").all_inner_texts()
    assert cells
    assert all(re.fullmatch(r"b\d+ s\d+", cell) for cell in cells)
    maps = [
        text for view, kind, text in texts if view[:6] in ("commit", "shapes") and "label" in kind
    ]
    labels = [text for text in maps if re.search(r"\d", text)]
    assert all(re.fullmatch(r"b\d+ s\d+|\d+|[01]\.\d", label) for label in labels)


@pytest.mark.parametrize("name", list(PAIRS))
def test_what_to_do_next_can_be_done(opened: Open, pages: dict[str, Path], name: str) -> None:
    shown = opened(pages[name]).page.locator(".next")
    for text in shown.all_inner_texts():
        assert text.strip()
        assert not re.search(r"\.\.\.|SPEC|<\w+>|\b[A-Z]{3,}\b|values between", text)


def test_blank_cells_are_explained(opened: Open, pages: dict[str, Path]) -> None:
    found = opened(pages["skip"])
    note = found.page.locator("#view-errors .blanks")
    assert note.is_visible()
    cells = sum(map(int, re.findall(r"(\d+) (?:deep )?cells", note.inner_text())))
    total = found.page.evaluate("data.length * (data.layers + 1)")
    assert cells == total - int(found.page.locator("#view-errors").get_attribute("data-rows") or 0)
    for view in ("similarity_b", "shapes_a", "commits_a"):
        about = found.page.locator(f"#view-{view} figcaption p").inner_text()
        assert "lank" in about, view


def test_legends_have_a_symbol_for_each_of_their_words(
    opened: Open, pages: dict[str, Path]
) -> None:
    found = opened(pages["skip"])
    words = [text for _, kind, text in found.see("chartTexts()") if "legend-label" in kind]
    for word in ("cached", "skipped", "never", "goes on", "within the noise"):
        assert word in words
    # That each symbol stands out is measured with all other marks.


# --- Chinese


def english(texts: list[str], names: set[str]) -> list[str]:
    """Texts that have a word in Latin letters, without names of settings, code and the like."""
    found = [(text, _latin(text) - names) for text in texts]
    return [f"{text}: {sorted(words)}" for text, words in found if words]


def _latin(text: str) -> set[str]:
    """Words in Latin letters, without the short names of steps and the exponents of numbers."""
    text = re.sub(r"\bb\d+ s\d+\b", "", text)
    return set(re.findall(r"(?<![\w.])[A-Za-z]\w*", text, re.ASCII))


def code_names() -> set[str]:
    """What may stand in Latin letters."""
    settings = " ".join(map(repr, (PLAIN, SKIPS, PARALLEL)))
    return {*LATIN.split(), "MLP", *re.findall(r"\w+", settings)}


@pytest.mark.parametrize("name", [*PAIRS, "weights", "not asked"])
def test_a_chinese_page_has_no_english(opened: Open, pages: dict[str, Path], name: str) -> None:
    found = opened(pages[name])
    found.speak("zh")
    found.unfold()
    written = [*found.see("writing()"), found.page.title()]
    written += [text for view, _, text in found.see("chartTexts()") if view != "top"]
    assert len(written) > 100
    rules = set(re.findall(r"[\w-]+", " ".join(found.page.locator("code").all_inner_texts())))
    assert english(written, code_names() | rules | {"trace"}) == []


def test_english_on_a_chinese_page_is_seen(opened: Open, pages: dict[str, Path]) -> None:
    found = opened(pages["skip"])
    assert len(english(found.see("writing()"), code_names())) > 50


def test_every_sentence_of_every_rule_is_chinese_on_a_chinese_page(
    opened: Open, tmp_path: Path
) -> None:
    said = sorted(templates())
    assert len(said) > 250
    cause = Finding("stale-kv", 11, filled(said[0]), Place(0, 1, 2, 3), filled(said[1]),
                    filled(said[2]), Proof.SUFFICIENT, filled(said[3]))  # fmt: skip
    ruled_out = tuple(RuledOut(f"rule-{i}", filled(text)) for i, text in enumerate(said))
    diagnosis = Diagnosis(
        parted=True,
        summary=filled(said[4]),
        findings=(cause,),
        remarks=(cause,),
        ruled_out=ruled_out,
        noise=filled(said[5]),
        unavailable=(filled(said[6]),),
        next_command=filled(said[7]),
    )
    traces = [run(PLAIN)[1], run(SKIPS)[1]]
    path = write_report(
        traces, tmp_path / "all.html", names=("1", "2"), diagnosis=diagnosis, language="zh"
    )
    found = opened(path)
    found.unfold()
    assert found.page.locator(".ruled-out li").count() == len(said)
    code = re.findall(
        r"[a-z_]+=\w+|\.float\(\)|torch\.\w+\(True\)", " ".join(sentences("zh").values())
    )
    names = set(re.findall(r"\w+", " ".join(code)))
    assert english(found.see("writing()"), code_names() | names) == []
