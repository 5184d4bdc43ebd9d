"""The embedded model as it is shipped: its size, its files, and that it knows what it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

import pytest

from pebble.model import Pebble, Shape
from pebble.world import GROUPS, Problem, heldout
from pebble.world.outside import ANSWER, heldout_questions
from pebble.world.problem import Drawn
from pebble.world.puzzles import latin_4
from pebble.world.queues import insert_any, queue_shuffle, replace_any, swap_any
from skipstone import Engine, Fixed, Model, NoCache, Threshold, load
from skipstone.models.config import read_config
from skipstone.models.locate import find


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
    problems = heldout(seed=1, per_group=5)
    # Names that change places must be written one after another; all else bears a threshold.
    # A stale K/V cache costs answers there, too.
    careful = Engine(pebble, unmask=Fixed(), gen_length=32, cache=NoCache())
    quick = Engine(pebble, unmask=Threshold(0.9), gen_length=96)
    for group in GROUPS:
        asked = [problem for problem in problems if problem.group == group]
        engine = careful if group == "queues" else quick
        results = engine.generate_batch([problem.prompt for problem in asked])
        wrong = [
            (p.prompt, r.text) for p, r in zip(asked, results, strict=True) if not p.fits(r.text)
        ]
        assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Hello", "Hello! I am Pebble, a small language model."),
        ("good morning!", "Hello! I am Pebble, a small language model."),
        (
            "Who are you?",
            "I am Pebble, a small diffusion language model that comes with Skipstone.",
        ),
        (
            "who made you",
            "I am Pebble, a small diffusion language model that comes with Skipstone.",
        ),
        ("Thanks!", "You are welcome!"),
        ("bye", "Goodbye!"),
        ("What is 3 + 4?", "3 + 4 = 7."),
        ("Compute 17 - 9.", "17 - 9 = 8."),
        ("6 times 7?", "6 * 7 = 42."),
        ("What is seven plus eight?", "7 + 8 = 15."),
        ("Who is Newton, physics?", "Isaac Newton was an English physicist and mathematician who"),
        ("Who is Einstein?", "Albert Einstein was"),
    ],
)
def test_it_greets_counts_and_says_who_it_is(pebble: Model, prompt: str, answer: str) -> None:
    said = Engine(pebble, unmask=Threshold(0.9), gen_length=96).generate(prompt).text
    assert said.startswith(answer)


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of Atlantis?",
        "What is the population of France?",
        "How old is Newton's dog?",
        "What is the square root of 81?",
        "What is 57 * 84?",
        "What is 48271 + 90317?",
        "Write a poem about the sea.",
        "Wie ist das Wetter heute?",
        "你叫什么名字？",
        "asdfgh qwe",
        "Who is Shakespeare?",
        "print('hello')",
    ],
)
def test_it_says_what_it_does_not_know(pebble: Model, prompt: str) -> None:
    engine = Engine(pebble, unmask=Threshold(0.9), gen_length=32)
    assert engine.generate(prompt).text == ANSWER


def test_it_refuses_outside_questions_and_hardly_any_of_its_own(pebble: Model) -> None:
    engine = Engine(pebble, unmask=Threshold(0.9), gen_length=32)
    outside = Random(1).sample(heldout_questions(), 30)
    said = [result.text for result in engine.generate_batch(outside)]
    assert said.count(ANSWER) >= 28
    # Where an answer does not fit into the canvas, some are refused: a canvas that holds them all.
    engine = Engine(pebble, unmask=Threshold(0.9), gen_length=96)
    own = [p.prompt for p in heldout(seed=4, per_group=3) if p.answer != ANSWER]
    said = [result.text for result in engine.generate_batch(own)]
    assert ANSWER not in said


@pytest.mark.parametrize("family", [swap_any, replace_any, insert_any, queue_shuffle, latin_4])
def test_filling_in_at_once_contradicts_itself_where_many_answers_are_right(
    pebble: Model, family: Callable[[Random], Drawn]
) -> None:
    rng = Random(6)
    drawn = [family(rng) for _ in range(3)]
    problems = [Problem("", "", *one) for one in drawn]

    def right(engine: Engine) -> int:
        results = engine.generate_batch([problem.prompt for problem in problems])
        return sum(p.fits(r.text) for p, r in zip(problems, results, strict=True))

    # The control is the same block filled token by token.
    assert right(Engine(pebble, unmask=Fixed(), gen_length=32, cache=NoCache())) == 3
    bold = Threshold(0.5)
    assert right(Engine(pebble, unmask=bold, gen_length=32, block_length=32)) <= 1


def test_committing_too_boldly_costs_right_answers(pebble: Model) -> None:
    # What the model is for: a shortcut that is wrong must show. Everything in one step is.
    problems = [p for p in heldout(seed=2, per_group=2) if p.group in ("chains", "queues")]
    prompts = [problem.prompt for problem in problems]

    def right(engine: Engine) -> int:
        results = engine.generate_batch(prompts)
        return sum(p.fits(r.text) for p, r in zip(problems, results, strict=True))

    bold = Engine(pebble, unmask=Fixed(), steps=2, gen_length=64, cache=NoCache())
    careful = Engine(pebble, unmask=Fixed(), gen_length=64, cache=NoCache())
    assert right(bold) < right(careful)
