"""``skipstone models``: every entry says what it is, and its recommendation can be decoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipstone.cli.main import run
from skipstone.engine import parse_settings
from skipstone.models.table import ARCHITECTURES
from skipstone.testing import write_checkpoint


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


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("TraDo", "SDAR"),
        ("JetLM/SDAR-8B-Chat", "SDAR"),
        ("dream-coder", "Dream"),
        ("inclusionAI/LLaDA2.1-mini", "LLaDA2"),
        ("llada2.0", "LLaDA2"),
        ("GSAI-ML/LLaDA-8B-Instruct", "dense LLaDA"),
        ("LLaDA-1.5", "dense LLaDA"),
        ("LLaDA-MoE-7B-A1B-Instruct", "LLaDA-MoE"),
        ("iLLaDA-8B-Base", "iLLaDA"),
    ],
)
def test_what_people_download_leads_to_its_entry(
    name: str, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", name]) == 0
    assert capsys.readouterr().out.startswith(f"{title}  ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LLaDA", "may be one of several: dense LLaDA, LLaDA-MoE, LLaDA2;"),
        ("LLaDA-V", "LLaDA-V does not run yet: reads images"),
        ("WeDLMForCausalLM", "WeDLM does not run yet"),
        ("DreamReasoner-8B", "is unknown"),
        ("", "is unknown"),
    ],
)
def test_a_name_of_several_and_one_of_none_are_refused(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", name]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_one_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "illda"]) == 2
    assert "iLLaDA" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ARCHITECTURES.values(), ids=lambda entry: entry.name)
def test_a_recommendation_is_settings(entry: object) -> None:
    guide = ARCHITECTURES[entry.name].guide  # pyrefly: ignore[missing-attribute]
    settings = parse_settings(guide.recommended)
    assert not guide.recommended or settings != parse_settings({})
    assert guide.verified


FROM_DREAM = (
    "note: from the model: unmask=fixed:order=entropy,schedule=time temperature=0.2 top_p=0.95 "
    "(the README of its authors); what is stated wins\n"
)


def test_what_is_taken_from_a_model_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_checkpoint(tmp_path / "dream", architecture="DreamModel"))
    decode = ["generate", "hello", "--model", model, "--gen-length", "16"]
    assert run(decode) == 0
    assert capsys.readouterr().err.count("from the model") == 1
    assert run([*decode, "--json"]) == 0
    out, err = capsys.readouterr()
    assert FROM_DREAM in err
    settings = json.loads(out)["settings"]
    assert (settings["temperature"], settings["top_p"], settings["stop_ids"]) == (0.2, 0.95, [258])
    assert run([*decode, "--top-p", "0.5"]) == 0
    assert "schedule=time temperature=0.2 (the README" in capsys.readouterr().err
    assert run([*decode, "--unmask", "threshold", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "from the model" not in err
    assert json.loads(out)["settings"]["temperature"] == 0.0


def test_runs_that_are_compared_do_not_draw_unless_that_is_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_checkpoint(tmp_path / "dream", architecture="DreamModel"))
    both = ["compare", "hello", "--model", model, "--gen-length", "16", "--json"]
    assert run([*both, "--a", "cache=none", "--b", "unmask=threshold:0.5"]) in (0, 1)
    out, err = capsys.readouterr()
    told = json.loads(out)
    a, b = (told[side]["settings"] for side in "ab")
    assert (a["temperature"], a["top_p"]) == (b["temperature"], b["top_p"]) == (0.0, None)
    assert {name for name in a if a[name] != b[name]} == {"cache", "unmask"}
    assert err.count("from the model") == 1


def test_llada_has_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "Who is Newton, physics?"]) == 0
    assert "from the model" not in capsys.readouterr().err
