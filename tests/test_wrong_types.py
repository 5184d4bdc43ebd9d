"""Python lets any value through; settings refuse those that are not what their field says."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skipstone
from skipstone import ConfigError, Engine, PromptError, Settings
from skipstone.engine import parse_settings, parse_spec
from skipstone.models.load import Model

WRONG: list[tuple[str, str, Any, str]] = [
    ("Settings", "gen_length", "8", "gen_length is '8', must be a whole number"),
    ("Settings", "gen_length", 8.5, "gen_length is 8.5, must be a whole number"),
    ("Settings", "gen_length", True, "gen_length is True, must be a whole number"),
    ("Settings", "gen_length", None, "gen_length is None, must be a whole number"),
    ("Settings", "block_length", 0, "block_length is 0, must be at least 1"),
    ("Settings", "steps", 1.0, "steps is 1.0, must be a whole number"),
    ("Settings", "temperature", "hot", "temperature is 'hot', must be a number"),
    ("Settings", "seed", 1.5, "seed is 1.5, must be a whole number"),
    ("Settings", "eos_stop", "no", "eos_stop is 'no', must be true or false"),
    ("Settings", "budget", None, "budget is None; known: finish, stop"),
    ("Settings", "budget", "stopp", "budget is 'stopp'; did you mean 'stop'?"),
    ("Settings", "budget", ["stop"], "budget is ['stop']; did you mean 'stop'?"),
    ("Settings", "temperature", 10**400, "must be a number"),
    ("Settings", "temperature", torch.tensor([0.5]), "must be a number"),
    ("Settings", "gen_length", 10**18, "gen_length is 1000000000000000000, must be at least 1 and"),
    ("Settings", "gen_length", np.float64(8), "gen_length is 8.0, must be a whole number"),
    ("Settings", "gen_length", np.bool_(True), "gen_length is True, must be a whole number"),
    ("Settings", "steps", 10**18, "steps is 1000000000000000000, must be between"),
    ("Settings", "cache", skipstone.DualCache, "cache is the class DualCache; write DualCache()"),
    ("Settings", "skip", "dyllm", "skip policy 'dyllm' is unknown; there is cache=dyllm"),
    ("Settings", "cache", "duel", "cache policy 'duel' is unknown; did you mean 'dual'?"),
    ("Settings", "cache", "dual:refresh=2", "has no setting 'refresh'"),
    (
        "Settings",
        "cache",
        "",
        "cache policy '' is unknown; known: d2cache, dkv, dllm, dual, dyllm, elastic, none, once, "
        "prefix, sparse, vicinity",
    ),
    ("Settings", "unmask", "x" * 5000, "xxx..."),
    ("Settings", "cache", b"dual", "cache is b'dual', which is no cache policy"),
    ("Settings", "unmask", skipstone.DualCache(), "which is no unmask policy"),
    ("Settings", "skip", None, "skip is None, which is no skip policy"),
    ("CosineSkip", "skip_layer_k", "3", "skip_layer_k is '3', must be a whole number"),
    ("CosineSkip", "skip_layer_k", 2.5, "skip_layer_k is 2.5, must be a whole number"),
    ("CosineSkip", "skip_threshold", "1", "skip_threshold is '1', must be a number"),
    ("CosineSkip", "keep_committed", "yes", "keep_committed is 'yes', must be true or false"),
    ("CosineSkip", "reference", "previous", "did you mean 'previous_step'?"),
    ("Threshold", "value", "0.9", "value is '0.9', must be a number"),
    ("Factor", "value", None, "value is None, must be a number"),
    (
        "Fixed",
        "order",
        1,
        "order is 1; known: confidence, entropy, left_to_right, margin, most_entropy, random",
    ),
    ("DualCache", "refresh_every", 1.5, "refresh_every is 1.5, must be a whole number"),
    ("PrefixCache", "refresh_every", "2", "refresh_every is '2', must be a whole number"),
]


@pytest.mark.parametrize(("owner", "field", "value", "message"), WRONG)
def test_a_wrong_type_is_refused(owner: str, field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(skipstone, owner)(**{field: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("field", ["gen_length", "block_length", "steps", "seed", "temperature"])
def test_numbers_that_python_does_not_print_are_refused(field: str) -> None:
    settings: dict[str, Any] = {field: 10**5000}
    with pytest.raises(ConfigError, match=f"{field} is a very large number, must be"):
        Settings(**settings)


def test_whole_numbers_serve_as_numbers() -> None:
    assert Settings(temperature=1).temperature == 1
    assert skipstone.Threshold(1).value == 1
    # The same run is written down in the same words.
    assert Settings(temperature=1).as_text() == Settings(temperature=1.0).as_text()


@pytest.mark.parametrize("eight", [np.int64(8), np.uint8(8), np.array(8), torch.tensor(8)])
def test_scalars_of_numpy_and_torch_are_plain_numbers(eight: Any) -> None:
    settings = Settings(gen_length=eight, block_length=eight, seed=eight, temperature=eight)
    assert settings == Settings(gen_length=8, block_length=8, seed=8, temperature=8.0)
    assert (
        eval(repr(settings), {name: getattr(skipstone, name) for name in skipstone.__all__})
        == settings
    )
    assert type(settings.gen_length) is int
    assert type(settings.temperature) is float


def test_other_scalars_keep_their_exact_value() -> None:
    half: list[Any] = [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)]
    assert {skipstone.Threshold(value).value for value in half} == {0.5}
    no: Any = np.bool_(False)
    assert Settings(eos_stop=no) == Settings(eos_stop=False)


def test_policies_may_be_written_as_on_the_command_line(model: Model) -> None:
    settings = Settings(cache="dual", unmask="threshold:value=0.7", skip="cosine:skip_layer_k=4")
    assert settings.cache == skipstone.DualCache()
    assert settings.unmask == skipstone.Threshold(0.7)
    assert settings.skip == skipstone.CosineSkip(4)
    assert Settings().replace(cache="none").cache == skipstone.NoCache()
    engine = Engine(model, cache="prefix:refresh_every=2", unmask="factor:2", skip="none")
    assert engine.settings.cache == skipstone.PrefixCache(2)
    assert engine.settings.unmask == skipstone.Factor(2.0)
    assert engine.settings.skip == skipstone.NoSkip()


def test_max_new_tokens_is_gen_length(model: Model) -> None:
    assert Settings(max_new_tokens=64) == Settings(gen_length=64)
    assert Settings(gen_length=8).replace(max_new_tokens=16).gen_length == 16
    assert Engine(model, Settings(gen_length=8), max_new_tokens=16).settings.gen_length == 16
    assert Settings(gen_length=8, max_new_tokens=8).gen_length == 8
    assert parse_settings({"max_new_tokens": "24"}).gen_length == 24
    assert parse_spec("max-new-tokens=24 cache=dual") == {"gen_length": "24", "cache": "dual"}
    with pytest.raises(ConfigError, match="max_new_tokens=9 and gen_length=8 are one setting"):
        Settings(gen_length=8, max_new_tokens=9)
    with pytest.raises(ConfigError, match="max_new_tokens=9 and gen_length=8 are one setting"):
        parse_spec("max_new_tokens=9 gen_length=8")


def test_settings_survive_copies() -> None:
    settings = Settings(cache="none", gen_length=8)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert copy.deepcopy(settings) == settings
    assert dataclasses.replace(settings, gen_length=9).gen_length == 9
    assert hash(settings) == hash(Settings(cache="none", gen_length=8))


@pytest.mark.parametrize("wrong", [{"gen_length": 8}, "dual", skipstone.DualCache(), 3])
def test_settings_of_an_engine_are_settings(model: Model, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="must be Settings"):
        Engine(model, wrong)


@pytest.mark.parametrize("wrong", [1, None, "eagre", b"eager"])
def test_a_runner_is_known_by_name(model: Model, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"runner .* is unknown"):
        Engine(model, runner=wrong)


@pytest.mark.parametrize("name", ["device", "dtype"])
def test_what_belongs_to_the_model_says_so(model: Model, name: str) -> None:
    wrong: dict[str, Any] = {name: "cpu"}
    with pytest.raises(ConfigError, match=rf"skipstone\.load\(\.\.\., {name}=\.\.\.\)"):
        Engine(model, **wrong)


def test_an_unknown_setting_is_refused_with_the_nearest(model: Model) -> None:
    unknown: dict[str, Any] = {"gen_lenght": 8}
    with pytest.raises(ConfigError, match="'gen_lenght' is unknown; did you mean 'gen_length'"):
        Engine(model, **unknown)
    with pytest.raises(ConfigError, match="'gen_lenght' is unknown; did you mean 'gen_length'"):
        Settings(**unknown)
    with pytest.raises(ConfigError, match="'gen_lenght' is unknown; did you mean 'gen_length'"):
        Settings().replace(**unknown)


@pytest.mark.parametrize(
    ("name", "meant"), [("dtyp", "'dtype'"), ("torch_dtype", "'dtype'"), ("device_map", "'device'")]
)
def test_an_unknown_argument_of_load_is_refused_with_the_nearest(name: str, meant: str) -> None:
    unknown: dict[str, Any] = {name: "auto"}
    with pytest.raises(ConfigError, match=f"no argument '{name}'; did you mean {meant}"):
        skipstone.load("pebble", **unknown)


@pytest.mark.parametrize("wrong", ["pebble", Path("pebble"), None, 3, "x" * 5000])
def test_an_engine_needs_a_loaded_model(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="load it first"):
        Engine(wrong)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "the prompt is None; give text, a list of messages, or a list of token ids"),
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


@pytest.mark.parametrize("wrong", ["2", 2.0, True, [2], torch.tensor([2])])
def test_a_batch_size_is_a_whole_number(model: Model, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is .*, must be a whole number"):
        Engine(model, gen_length=8).generate_batch([[1], [2]], batch_size=wrong)


def test_a_batch_size_may_be_any_kind_of_whole_number(model: Model) -> None:
    two: Any = np.int64(2)
    engine = Engine(model, gen_length=8, block_length=8)
    assert len(engine.generate_batch([[1], [2], [3]], batch_size=two)) == 3
