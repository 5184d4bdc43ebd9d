"""What is not installed is named with a remedy that works: Skipstone itself is on no index."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from skipstone import extras
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
READ = ("README*.md", "docs/**/*.md", "docs/*.py", "src/**/*.py", "src/**/*.toml")
READ += ("examples/**/*.py", "examples/*.ipynb", "Makefile", "pyproject.toml")


def test_the_remedy_names_the_packages_of_the_extra() -> None:
    declared = PROJECT["optional-dependencies"]["report"]
    assert extras.requirements("report") == declared
    message = str(extras.missing("altair", "a report", "report"))
    packages = " ".join(f"'{need}'" for need in declared)
    assert message == (
        f"a report needs altair, which is not installed; run: pip install {packages}"
    )


def test_every_extra_that_a_message_names_is_declared() -> None:
    named = set[str]()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        named.update(re.findall(r"missing\([^()]*(?:\([^()]*\)[^()]*)*, \"([\w-]+)\"\)", text))
        named.update(re.findall(r"\bcluster\([^()]*extra=\"([\w-]+)\"", text))
    assert named == {"report", "sweep", "export", "ray", "lm-eval", "serve", "replicas"}
    assert named < set(PROJECT["optional-dependencies"])


def test_where_nothing_is_installed_the_remedy_is_the_checkout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", absent)
    assert extras.requirements("report") == [".[report]"]


def test_nobody_is_told_to_install_skipstone_from_an_index() -> None:
    told = re.compile(
        r"pip\d? install(?: [^\n`]*?)?['\" ]skipstone(?=[\[\s'\"=<>~]|$)", re.MULTILINE
    )
    assert told.search("pip install 'skipstone[report]'")
    assert told.search("  - run: pip install skipstone\n")
    assert not told.search("pip install '.[report]'")
    files = [path for pattern in READ for path in ROOT.glob(pattern)]
    assert len(files) > 100
    for path in files:
        found = told.search(Path(path).read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found}"
