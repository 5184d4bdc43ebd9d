"""Every block of the README runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from skipstone.cli.main import run
from tests.conftest import ROOT
from tests.docs import pages

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = pages.blocks(ROOT / "README.md")
    return [block.code for block in found if block.language == language]


@pytest.mark.parametrize(
    ("index", "printed"),
    [
        (0, "Isaac Newton"),
        (1, "stale-skipped-state"),
        (2, "misaligned_rows"),
        (3, "Newton was an English physicist"),
    ],
)
def test_the_python_examples_run(
    capsys: pytest.CaptureFixture[str], index: int, printed: str
) -> None:
    code = blocks("python")[index]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), {})
    assert printed in capsys.readouterr().out


def test_there_is_a_test_for_every_python_example() -> None:
    assert len(blocks("python")) == 4


SHORTER = {
    # The diagnosis of the traces is made in full in Python, by the second example.
    "diagnose a.trace": "--time-limit 1s",
    "report a.trace": "--time-limit 0 --floor estimate",
    "diagnose cache=none": "--time-limit 1s",
    # Fewer prompts prove less.
    "sweep": "--limit 5 --bound 70%",
}
"""What makes the first words of a command take less time; all else of it stays as it is told."""


def sweep_of_the_commands(folder: Path, shorter: dict[str, str]) -> Any:
    """Run all commands in a folder; what the sweep among them sums up."""
    (folder / "prompts.txt").write_text("What is the capital of Turkey?\n")
    lines = [words for code in blocks("sh") for words in pages.commands(code)]
    commands = [words[1:] for words in lines if words[0] == "skipstone"]
    told = [" ".join(command) for command in commands]
    assert len(commands) >= 4
    assert all(sum(line.startswith(begin) for line in told) == 1 for begin in shorter)
    for command, line in zip(commands, told, strict=True):
        more = [options for begin, options in shorter.items() if line.startswith(begin)]
        assert run([*command, *" ".join(more).split()]) in (0, 1), line
    return json.loads((folder / "sweep" / "summary.json").read_text(encoding="utf-8"))


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    baseline, *settings = sweep_of_the_commands(tmp_path, SHORTER)["settings"]
    assert baseline["right"] == baseline["prompts"]
    assert any(setting["right"] < setting["prompts"] for setting in settings)


@pytest.mark.long
def test_the_commands_run_to_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = sweep_of_the_commands(tmp_path, {})
    baseline, *settings = sweep["settings"]
    assert baseline["right"] == baseline["prompts"]
    assert any(setting["right"] < setting["prompts"] for setting in settings)
    assert sweep["recommendation"]["setting"] == "cache=none unmask=threshold:0.9"


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_it_says_how_to_install_and_where_the_command_is(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for told in (
        "`.venv/bin/skipstone`",
        "`source .venv/bin/activate`",
        "make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu",
        "`pip install .`",
        "3.11",
        "3.13",
    ):
        assert told in text
    assert "pip install skipstone" not in text
