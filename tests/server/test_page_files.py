"""What the page consists of: files that anybody may load, and that load nothing from elsewhere."""

from __future__ import annotations

import re
from importlib.resources import files

import httpx2 as httpx
import pytest

from skipstone import Engine, load
from skipstone.engine.settings import parse_settings
from skipstone.server.options import ServerOptions
from tests.server.running import running

FOLDER = files("skipstone.server").joinpath("page")
FILES = {one.name: one.read_text("utf-8") for one in FOLDER.iterdir()}
KEYED = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32, unmask="threshold:0.8")


def test_the_page_is_open_and_what_it_asks_for_is_not(engine: Engine) -> None:
    options = ServerOptions(name="mine", keys=("secret",), keep_traces=0)
    with running(engine, options) as address, httpx.Client(base_url=address[:-3]) as http:
        for path in ("/", *(f"/page/{name}" for name in FILES), "/page/theme.css"):
            found = http.get(path)
            assert found.status_code == 200, path
            policy = found.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'")
            assert ("unsafe" in policy) == (path == "/page/reader.html")
        assert http.get("/").headers["content-type"] == "text/html; charset=utf-8"
        for path in ("/page/", "/page/nothing.js", "/page/..%2Fapp.py", "/page/%2e%2e/app.py"):
            assert http.get(path).status_code == 404, path
        assert http.get("/v1/settings").status_code == 401
        told = http.get("/v1/settings", headers=KEYED).json()
    assert (told["model"], told["traces"]) == ("mine", False)
    cards = {card["name"]: card for card in told["data"]}
    assert cards["gen_length"]["value"] == 32
    assert cards["unmask"]["value"].startswith("threshold:value=0.8")
    assert set(cards["budget"]["choices"]) == {"finish", "stop"}
    # All that is told can be asked for: every policy, with its settings as they are.
    for kind, policies in told["policies"].items():
        assert [policy["name"] for policy in policies]
        for policy in policies:
            own = ",".join(f"{name}={value}" for name, value in policy["settings"].items())
            assert parse_settings({kind: f"{policy['name']}:{own}"})


def test_every_word_is_there_in_both_languages() -> None:
    keys = [
        set(re.findall(r'^ {2}"?([a-z_.0-9 ]+)"?:', FILES[f"words-{language}.js"], re.MULTILINE))
        for language in ("en", "zh")
    ]
    assert keys[0] == keys[1]
    used = set[str]()
    for name, text in FILES.items():
        if not name.startswith("words"):
            used.update(re.findall(r'data-word="([^"]+)"', text))
            used.update(re.findall(r'"([a-z]+\.[a-z0-9]+)"', text))
    named = {one for one in used if not one.endswith((".js", ".css", ".key"))}
    assert len(named) > 30
    assert named - {"skipstone.theme", "skipstone.language"} <= keys[0]


def test_nothing_is_loaded_from_elsewhere_or_made_of_markup() -> None:
    for name, text in FILES.items():
        assert "://" not in text, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|\beval\b|new Function", text), (
            name
        )
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", text), name
        assert text.count("\n") < 300, name
    writes = [name for name, text in FILES.items() if "document.write" in text]
    assert writes == ["reader.js"]
