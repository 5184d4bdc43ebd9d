"""The tutorial runs and prints what it shows; the site builds, and a broken link stops it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import skipstone
from docs.screenshots import EXACT, PROMPT, SKIPS
from skipstone import Engine, NoCache
from skipstone.cli.main import COMMANDS
from skipstone.cli.main import skipstone as cli
from tests.conftest import ROOT
from tests.docs.pages import blocks, execute, is_as_shown

DOCS = ROOT / "docs"


def test_the_tutorial_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [block for block in blocks(DOCS / "tutorial.md") if block.language != "text"]
    assert len(runs) >= 7
    namespace = dict[str, object]()
    for block in runs:
        printed = execute(block, namespace)
        assert block.shown is not None, f"line {block.line} shows no output"
        assert is_as_shown(block.shown, printed), f"line {block.line} prints:\n{printed}"


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    options = ["--nitpicky", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(DOCS, target)
    assert done.returncode == 0, done.stderr
    return target


def test_the_site_has_every_page(site: Path) -> None:
    pages = [path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")]
    assert len(pages) > 15
    missing = [page for page in pages if not (site / page).with_suffix(".html").exists()]
    assert missing == []


def test_the_site_asks_no_network(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe)[^>]+src="(https?:)?//|<link[^>]+href="(https?:)?//"""
    )
    styled = re.compile(r"""(?:@import|url\()\s*(?:url\()?["']?(?:https?:)?//""")
    assert loaded.search('<script src="https://cdn.example/x.js">')
    assert styled.search("@import url('//fonts.example/x.css')")
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not styled.search(sheet.read_text(encoding="utf-8")), sheet


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    pages = {p.stem: p.read_text(encoding="utf-8") for p in (site / "api").glob("*.html")}
    index = pages.pop("index")
    for name in skipstone.__all__:
        anchor = f'id="skipstone.{name}"'
        assert sum(anchor in page for page in pages.values()) == 1, name
        assert f"#skipstone.{name}" in index, name


def test_the_reference_has_types_that_lead_to_their_pages(site: Path) -> None:
    page = (site / "api" / "run.html").read_text(encoding="utf-8")
    load = page.partition('id="skipstone.load"')[2].partition('id="skipstone.Model"')[0]
    assert 'href="#skipstone.Model"' in load
    assert "local_files_only" in load
    assert 'href="errors.html#skipstone.CheckpointError"' in load


def test_every_command_and_option_is_described(site: Path) -> None:
    page = (site / "cli.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert f'id="skipstone-{name}"' in page
        flags = [flag for option in command.params for flag in option.opts if flag[:2] == "--"]
        assert flags
        for flag in flags:
            assert f'id="cmdoption-skipstone-{name}-{flag[2:]}"' in page, (name, flag)


def test_every_variable_that_is_read_is_on_the_page_of_the_environment() -> None:
    page = (DOCS / "environment.md").read_text(encoding="utf-8")
    read = set[str]()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"""environ(?:\.get|\.setdefault)?[(\[]["'](\w+)["']""", text))
        read |= set(re.findall(r"""["'](\w+)["'] (?:not )?in os\.environ""", text))
        read |= set(re.findall(r"constants\.(HF_\w+)", text))
    assert {"OMP_NUM_THREADS", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"} <= read
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_the_glossary_has_the_words_of_the_field(site: Path) -> None:
    page = (site / "glossary.html").read_text(encoding="utf-8")
    words = (
        "request slot step block commit refresh skip age canvas row in-flight drain admit release"
    )
    for word in words.split():
        assert f'id="term-{word}"' in page, word


def test_law_7_has_its_precision() -> None:
    law, _, limits = (DOCS / "laws.md").read_text("utf-8").partition("## How exact law 7 is")
    assert "[How exactly](#how-exact-law-7-is) depends on the dtype" in law
    assert "In float32, decisions are the same to the bit" in limits
    assert "In half precision (bfloat16, float16) decisions are the same up to ties" in limits


def test_the_pictures_show_a_right_answer_and_what_a_shortcut_made_of_it() -> None:
    model = skipstone.load("pebble")
    longer = EXACT.replace(gen_length=128, steps=128, cache=NoCache())
    right, exact, skipped = (
        Engine(model, settings).generate(PROMPT).text for settings in (longer, EXACT, SKIPS)
    )
    assert exact == right
    assert skipped != right
    assert PROMPT in (DOCS / "report.md").read_text(encoding="utf-8")


def test_the_pictures_are_small() -> None:
    for picture in (DOCS / "images").glob("report-*.png"):
        assert picture.stat().st_size < 60_000, picture


def test_a_broken_link_stops_the_build(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text((DOCS / "conf.py").read_text(encoding="utf-8"))
    (source / "other.md").write_text("---\norphan: true\n---\n\n# Other\n")
    page = "# Page\n\n[fine](other.md#other)\n"
    (source / "index.md").write_text(page)
    assert build(source, tmp_path / "good").returncode == 0
    # One build tells them all, a line each.
    links = ["[gone](gone.md)", "[here](#here_gone)", "[there](other.md#there_gone)"]
    (source / "index.md").write_text("\n\n".join((page, *links)))
    done = build(source, tmp_path / "bad")
    assert done.returncode != 0
    for name in ("gone.md", "here_gone", "there_gone"):
        assert name in done.stderr


def test_the_page_on_modelling_files_prints_what_it_shows() -> None:
    namespace = dict[str, object]()
    for block in blocks(DOCS / "howto" / "modelling-file.md"):
        if block.language == "python":
            printed = execute(block, namespace)
            assert block.shown is not None
            assert is_as_shown(block.shown, printed), f"line {block.line} prints:\n{printed}"


def test_the_policy_package_installs_and_is_found(tmp_path: Path) -> None:
    package = ROOT / "examples" / "policy_package"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(tmp_path), str(package)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}", "PATH": "", "OMP_NUM_THREADS": "1"}

    def skipstone(*arguments: str) -> str:
        command = [sys.executable, "-m", "skipstone", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=found)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ramp" in skipstone("policies")
    run = ["generate", "Who is Newton, physics?", "--gen-length", "64", "--json"]
    value = json.loads(skipstone(*run, "--unmask", "ramp:first=0.95,over=4"))
    assert value["settings"]["unmask"] == "ramp:first=0.95,last=0.7,over=4"
    assert value["masks_left"] == 0
    assert value["text"].startswith("Isaac Newton")


def test_the_policy_of_the_how_to_decodes_as_its_page_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "policy_package" / "src"))
    namespace = dict[str, object]()
    pythons = [b for b in blocks(DOCS / "howto" / "policy.md") if b.language == "python"]
    assert len(pythons) == 2
    for block in pythons:
        assert block.shown is not None
        assert is_as_shown(block.shown, execute(block, namespace))


def shape(page: Path) -> dict[str, list[str]]:
    """What two languages of one page have in common."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    table = [line for line in prose.splitlines() if line.startswith("|")]
    links = re.findall(r"\]\(([^)]+)\)", prose)
    return {
        "headings": list(re.findall(r"^(#+) ", prose, flags=re.MULTILINE)),
        "blocks": re.findall(r"```.*?```", text, flags=re.DOTALL),
        "links": sorted(link for link in links if not link.startswith("README")),
        "settings": [name for row in table for name in re.findall(r"`([^`]+)`", row)],
        "items": re.findall(r"^- ", prose, flags=re.MULTILINE),
        "paragraphs": [
            part[:1] if part[0] in "#|-!" else "text" for part in re.split(r"\n\n+", prose.strip())
        ],
    }


def test_the_chinese_readme_keeps_beside_the_english_one() -> None:
    english, chinese = shape(ROOT / "README.md"), shape(ROOT / "README.zh-CN.md")
    assert english["blocks"]
    for name in english:
        assert chinese[name] == english[name], name
    assert "(README.zh-CN.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(README.md)" in (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
