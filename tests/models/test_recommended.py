"""generation_config.json is heard where it is there, and refused where it says nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import skipstone
from skipstone.errors import CheckpointError
from skipstone.models.load import Model
from skipstone.models.table import ARCHITECTURES
from skipstone.testing import write_checkpoint


def loaded(directory: Path, architecture: str = "DreamModel", /, **file: object) -> Model:
    """A checkpoint with a generation_config.json."""
    write_checkpoint(directory, architecture=architecture)
    (directory / "generation_config.json").write_text(json.dumps(file))
    return skipstone.load(directory, device="cpu")


def test_what_a_checkpoint_says_comes_before_what_its_architecture_says(tmp_path: Path) -> None:
    model = loaded(tmp_path, do_sample=True, temperature=0.6, top_k=20, top_p=0.8)
    assert model.recommended.settings == {
        "unmask": "fixed:order=entropy,schedule=time",
        "temperature": "0.6",
        "top_p": "0.8",
        "top_k": "20",
    }
    assert model.recommended.by == "the README of its authors and generation_config.json"
    settings = skipstone.Engine(model, top_k=5).settings
    assert (settings.temperature, settings.top_p, settings.top_k) == (0.6, 0.8, 5)


def test_a_file_may_ask_for_greedy_decoding_or_for_nothing(tmp_path: Path) -> None:
    greedy = loaded(tmp_path / "a", do_sample=False, temperature=0.6, top_k=20)
    settings = skipstone.Engine(greedy).settings
    assert (settings.temperature, settings.top_p, settings.top_k) == (0.0, None, None)
    silent = loaded(tmp_path / "b", eos_token_id=256, top_k=0, transformers_version="4.46.2")
    settings = skipstone.Engine(silent).settings
    assert (settings.temperature, settings.top_p, settings.top_k) == (0.2, 0.95, None)
    assert loaded(tmp_path / "c", "LLaDAModelLM", eos_token_id=257).recommended.settings == {}


@pytest.mark.parametrize(
    ("stated", "found"),
    [(256, (258,)), ([258, 256], (258,)), ([9, 256], (9, 258)), (None, (258,)), (12, (12, 258))],
)
def test_its_stop_ids_are_heard_beside_the_ends_of_turns(
    tmp_path: Path, stated: object, found: tuple[int, ...]
) -> None:
    assert loaded(tmp_path, eos_token_id=stated).stop_ids == found


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("eos_token_id", "256", "ids below 264"),
        ("eos_token_id", [256, 264], "ids below 264"),
        ("eos_token_id", [True], "ids below 264"),
        ("eos_token_id", -1, "ids below 264"),
        ("eos_token_id", list(range(9)), "at most 7 ids"),
        ("temperature", "0.2", "a number, 0 or more"),
        ("temperature", -1.0, "a number, 0 or more"),
        ("temperature", True, "a number, 0 or more"),
        ("top_p", 0, "above 0, and at most 1"),
        ("top_p", 1.5, "above 0, and at most 1"),
        ("top_k", 2.5, "a whole number"),
        ("top_k", -1, "a whole number"),
    ],
)
def test_a_value_that_is_none_is_refused_by_name(
    tmp_path: Path, name: str, value: object, rule: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        loaded(tmp_path, **{name: value})
    message = str(caught.value)
    assert f"generation_config.json: {name} is " in message
    assert rule in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="DreamModel")
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        skipstone.load(tmp_path, device="cpu")


def test_a_checkpoint_without_the_file_decodes_as_its_architecture_says(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="SDARForCausalLM")
    (tmp_path / "generation_config.json").unlink()
    model = skipstone.load(tmp_path, device="cpu")
    assert model.stop_ids == (258,)
    assert model.recommended.by == ARCHITECTURES["SDARForCausalLM"].guide.by


# Of the authors' code and READMEs, and of the tokenizers; not read from the table.
PUBLISHED: dict[str, tuple[dict[str, str], list[str]]] = {
    "LLaDAModelLM": ({}, ["<|eot_id|>"]),
    "ILLaDAForCausalLM": ({"growing_canvas": "true", "stop_after": "block"}, []),
    "DreamModel": (
        {
            "unmask": "fixed:order=entropy,schedule=time",
            "temperature": "0.2",
            "top_p": "0.95",
        },
        ["<|im_end|>"],
    ),
    "SDARForCausalLM": (
        {"unmask": "quota:threshold=0.9", "stop_after": "block"},
        ["<|im_end|>"],
    ),
    "StableDiffcoderForCausalLM": (
        {"unmask": "threshold:value=0.95", "stop_after": "block"},
        [],
    ),
    "LLaDAMoEModelLM": ({}, ["<|role_end|>"]),
    "LLaDA2MoeModelLM": (
        {"unmask": "quota:threshold=0.95", "stop_after": "block"},
        ["<|role_end|>"],
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_each_architecture_decodes_with_where_nobody_says(tmp_path: Path, name: str) -> None:
    settings, ends = PUBLISHED[name]
    model = loaded(tmp_path, name)
    assert model.recommended.settings == settings
    special = ARCHITECTURES[name].example.special
    assert model.stop_ids == tuple(special[token] for token in ends)
