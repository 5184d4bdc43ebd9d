"""Recorded truth of models whose attention is causal over blocks.

In ``make test`` a few cases of each kind; all of them in ``make test-long``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest

from skipstone import Engine, Model, load
from skipstone.engine import parse_settings
from skipstone.engine.settings import SettingsFields
from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.folder import read
from skipstone.testing.golden.replay import miss

pytestmark = pytest.mark.golden

FOLDERS = {"sdar": 71, "stable_diffcoder": 52, "llada2": 78}
"""Cases of each; the engine can be asked for all of them."""
A_FEW = 4


@cache
def cases(folder: Path) -> list[GoldenCase]:
    """All of a folder."""
    (recorded,) = read(folder)
    found = [case for case in recorded.cases if isinstance(case, GoldenCase)]
    assert len(found) == len(recorded.cases) == FOLDERS[folder.name]
    return found


@cache
def model_of(folder: Path) -> Model:
    return load(folder, device="cpu", dtype="float32")


def some(folder: Path) -> list[GoldenCase]:
    """The first few of every kind, and those that end early."""
    seen, chosen = Counter[str](), list[GoldenCase]()
    for case in cases(folder):
        short = len(case.wanted.tokens) < int(case.settings["gen_length"])
        if seen[case.kind] < A_FEW or short:
            chosen.append(case)
        seen[case.kind] += 1
    return chosen


@pytest.mark.parametrize("name", FOLDERS)
def test_some_of_the_recorded_cases_come_again(golden_dir: Path, name: str) -> None:
    folder = golden_dir / name
    assert {
        case.name: said for case in some(folder) if (said := miss(model_of(folder), case))
    } == {}


@pytest.mark.long
@pytest.mark.parametrize("name", FOLDERS)
def test_all_recorded_cases_come_again(golden_dir: Path, name: str) -> None:
    folder = golden_dir / name
    said = {case.name: miss(model_of(folder), case) for case in cases(folder)}
    assert {name: text for name, text in said.items() if text} == {}


@pytest.mark.parametrize("name", FOLDERS)
def test_each_gives_its_tokens_beside_others_and_as_graphs(golden_dir: Path, name: str) -> None:
    folder = golden_dir / name
    made, chosen = model_of(folder), some(folder)[::2]
    engine = Engine(made, runner="graph", slots=3)
    settings = [parse_settings(case.settings).all_stated() for case in chosen]
    handles = [
        engine.submit(
            list(case.prompt),
            observer=None,
            **cast("SettingsFields", own.as_json()),
        )
        for case, own in zip(chosen, settings, strict=True)
    ]
    for case, own, handle in zip(chosen, settings, handles, strict=True):
        alone = Engine(made, own).generate(list(case.prompt))
        assert handle.result().tokens == alone.tokens, case.name


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "dual:refresh_every=2"])
def test_edits_are_the_same_with_every_cache(golden_dir: Path, cache: str) -> None:
    folder = golden_dir / "llada2"
    chosen = [case for case in cases(folder) if case.kind == "generate, 2.1"][:6]
    edits = 0
    for case in chosen:
        kept = replace(case, settings={**case.settings, "cache": cache})
        assert miss(model_of(folder), kept) == ""
        engine = Engine(model_of(folder), parse_settings(kept.settings))
        stats = engine.generate(list(case.prompt)).stats
        # Not one forward less either: a step too early would be seen here.
        assert stats.num_forwards == case.wanted.forwards
        edits += stats.num_edits
    assert edits
