"""``skipstone models``: every entry says what it is, and its recommendation can be decoded."""

from __future__ import annotations

import json

import pytest

from skipstone.cli.main import run
from skipstone.engine import parse_settings
from skipstone.models.table import ARCHITECTURES


def test_every_model_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    for entry in ARCHITECTURES.values():
        assert entry.title in out
        assert entry.name in out
    assert run(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == ARCHITECTURES.keys()
    assert told["DreamModel"]["recommended"]["temperature"] == "0.2"


@pytest.mark.parametrize("name", ["dream", "Dream", "DreamModel"])
def test_one_is_told_in_full_by_any_of_its_names(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", name]) == 0
    out = capsys.readouterr().out
    assert "151666" in out
    assert "<|im_end|>" in out
    assert "iLLaDA" not in out


def test_an_unknown_one_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "illda"]) == 2
    assert "iLLaDA" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ARCHITECTURES.values(), ids=lambda entry: entry.name)
def test_a_recommendation_is_settings(entry: object) -> None:
    guide = ARCHITECTURES[entry.name].guide  # pyrefly: ignore[missing-attribute]
    settings = parse_settings(guide.recommended)
    assert not guide.recommended or settings != parse_settings({})
    assert guide.verified
