"""Python lets any value through; settings refuse those that are not what their field says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import skipstone
from skipstone import ConfigError, Engine, PromptError, Settings
from skipstone.models.load import Model

WRONG: list[tuple[str, str, Any, str]] = [
    ("Settings", "gen_length", "8", "gen_length is '8', must be a whole number"),
    ("Settings", "gen_length", 8.5, "gen_length is 8.5, must be a whole number"),
    ("Settings", "gen_length", True, "gen_length is True, must be a whole number"),
    ("Settings", "block_length", None, "block_length is None, must be a whole number"),
    ("Settings", "steps", 1.0, "steps is 1.0, must be a whole number"),
    ("Settings", "temperature", "hot", "temperature is 'hot', must be a number"),
    ("Settings", "seed", 1.5, "seed is 1.5, must be a whole number"),
    ("Settings", "eos_stop", "no", "eos_stop is 'no', must be true or false"),
    ("Settings", "budget", None, "budget is None; known: finish, stop"),
    ("Settings", "budget", "stopp", "budget is 'stopp'; did you mean 'stop'?"),
    ("Settings", "cache", skipstone.DualCache, "which is no cache policy"),
    ("Settings", "cache", "dual", "cache is 'dual', which is no cache policy"),
    ("Settings", "unmask", skipstone.DualCache(), "which is no unmask policy"),
    ("Settings", "skip", None, "skip is None, which is no skip policy"),
    ("CosineSkip", "skip_layer_k", "3", "skip_layer_k is '3', must be a whole number"),
    ("CosineSkip", "skip_layer_k", 2.5, "skip_layer_k is 2.5, must be a whole number"),
    ("CosineSkip", "skip_threshold", "1", "skip_threshold is '1', must be a number"),
    ("CosineSkip", "keep_committed", "yes", "keep_committed is 'yes', must be true or false"),
    ("CosineSkip", "reference", "previous", "did you mean 'previous_step'?"),
    ("Threshold", "value", "0.9", "value is '0.9', must be a number"),
    ("Factor", "value", None, "value is None, must be a number"),
    ("Fixed", "order", 1, "order is 1; known: confidence, random"),
    ("DualCache", "refresh_every", 1.5, "refresh_every is 1.5, must be a whole number"),
    ("PrefixCache", "refresh_every", "2", "refresh_every is '2', must be a whole number"),
]


@pytest.mark.parametrize(("owner", "field", "value", "message"), WRONG)
def test_a_wrong_type_is_refused(owner: str, field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(skipstone, owner)(**{field: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_serve_as_numbers() -> None:
    assert Settings(temperature=1).temperature == 1
    assert skipstone.Threshold(1).value == 1


def test_an_unknown_setting_is_refused_with_the_nearest(model: Model) -> None:
    unknown: dict[str, Any] = {"gen_lenght": 8}
    with pytest.raises(ConfigError, match="'gen_lenght' is unknown; did you mean 'gen_length'"):
        Engine(model, **unknown)


@pytest.mark.parametrize("wrong", ["pebble", None, 3])
def test_an_engine_needs_a_loaded_model(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="load it first"):
        Engine(wrong)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "the prompt is None; give text, or a list of token ids"),
        (5, "the prompt is 5; give text"),
        ([True], "the prompt holds True"),
        (["a"], "the prompt holds 'a'"),
        ("", "the prompt is empty"),
    ],
)
def test_a_prompt_is_text_or_ids(model: Model, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        Engine(model, gen_length=8, block_length=8).generate(prompt)
    assert message in str(caught.value)


def test_a_bad_prompt_of_a_batch_is_named(model: Model) -> None:
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        Engine(model, gen_length=8, block_length=8).generate_batch(["w1", " "])


def test_ids_may_be_any_kind_of_whole_number(model: Model) -> None:
    engine = Engine(model, gen_length=8, block_length=8)
    plain = engine.generate([1, 2, 3]).tokens
    as_array: Any = np.array([1, 2, 3])
    as_tensor: Any = torch.tensor([1, 2, 3])
    assert engine.generate(as_array).tokens == plain
    assert engine.generate(as_tensor).tokens == plain
