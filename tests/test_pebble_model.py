"""The embedded model as it is shipped: its size, its files, and that it knows what it should."""

from __future__ import annotations

import json

import pytest

from pebble.model import Pebble, Shape
from pebble.world import GROUPS, heldout
from skipstone import Engine, Fixed, Model, NoCache, Threshold, load
from skipstone.models.config import read_config
from skipstone.models.registry import find


@pytest.fixture(scope="module")
def pebble() -> Model:
    return load("pebble", device="cpu")


def test_it_is_a_llada_of_the_promised_size() -> None:
    directory = find("pebble")
    files = list(directory.iterdir())
    assert sum(file.stat().st_size for file in files) <= 32e6
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LLaDAModelLM"]
    assert config["n_layers"] == 32
    shape = Shape()
    assert (config["d_model"], config["vocab_size"]) == (shape.width, shape.vocab)
    num_parameters = sum(weight.numel() for weight in Pebble(shape).parameters())
    assert 14e6 < num_parameters < 16e6
    assert read_config(directory).num_parameters == num_parameters


def test_the_trained_chat_form_is_the_template_s(pebble: Model) -> None:
    from pebble.tokenizer import chat

    prompt = "Who is Newton, physics?"
    assert pebble.text.encode(prompt) == pebble.text._ids(chat(prompt), as_text=False)


def test_it_answers_held_out_prompts_of_every_group(pebble: Model) -> None:
    # A sample, with room for chance; MODEL_CARD.md has the full figures and their command.
    problems = heldout(seed=1, per_group=20)
    engine = Engine(pebble, unmask=Threshold(0.9), gen_length=96)
    results = engine.generate_batch([problem.prompt for problem in problems])
    for group in GROUPS:
        pairs = [(p, r) for p, r in zip(problems, results, strict=True) if p.group == group]
        right = sum(r.text == p.answer for p, r in pairs)
        assert right >= 17, [(p.prompt, r.text) for p, r in pairs if r.text != p.answer]


def test_committing_too_boldly_costs_right_answers(pebble: Model) -> None:
    # What the model is for: a shortcut that is wrong must show. Everything in one step is.
    problems = [p for p in heldout(seed=2, per_group=12) if p.group in ("chains", "lists")]
    prompts = [problem.prompt for problem in problems]

    def right(engine: Engine) -> int:
        results = engine.generate_batch(prompts)
        return sum(r.text == p.answer for p, r in zip(problems, results, strict=True))

    bold = Engine(pebble, unmask=Fixed(), steps=3, gen_length=96, cache=NoCache())
    careful = Engine(pebble, unmask=Threshold(0.99), gen_length=96)
    assert right(bold) < right(careful)
