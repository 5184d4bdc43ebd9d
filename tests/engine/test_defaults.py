"""What a model recommends is its default, what is stated wins, and what is left makes sense."""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Unpack

import pytest

import skipstone
from skipstone.engine import Engine, Settings
from skipstone.engine.defaults import alike, with_defaults
from skipstone.engine.settings import SettingsFields, parse_settings
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.models.table import ARCHITECTURES
from skipstone.testing import write_checkpoint
from skipstone.tracing import Recorder
from skipstone.tracing.diagnose import diagnose
from skipstone.tracing.experiments.runner import settings_of
from skipstone.unmask import Fixed, Quota, Threshold, UnmaskPolicy

SMALL = Settings(gen_length=48)
_HARMLESS = (
    SettingsFields(eos_stop=False),
    SettingsFields(block_length=64),
    SettingsFields(temperature=0),
)
ENTROPY = Fixed(order="entropy", schedule="time")


@cache
def model_of(name: str) -> Model:
    directory = write_checkpoint(Path(mkdtemp()), architecture=name)
    return skipstone.load(directory, device="cpu")


def made(name: str, **stated: Unpack[SettingsFields]) -> Settings:
    """What an engine makes of settings."""
    return Engine(model_of(name), SMALL.replace(**stated)).settings


# ---------------------------------------------------------------- nothing is stated


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_who_states_nothing_gets_what_the_guide_says(name: str) -> None:
    found, guide = made(name), ARCHITECTURES[name].guide
    wanted = parse_settings(guide.recommended)
    for setting in guide.recommended:
        assert getattr(found, setting) == getattr(wanted, setting), setting
    others = SMALL.replace(block_length=found.block_length, stop_ids=found.stop_ids)
    others = others.replace(absolute_blocks=found.absolute_blocks)
    for setting in found.as_text().keys() - guide.recommended.keys():
        assert getattr(found, setting) == getattr(others, setting), setting
    assert found.idle() == ()


def test_llada_decodes_as_before() -> None:
    stops = model_of("LLaDAModelLM").stop_ids
    assert made("LLaDAModelLM") == SMALL.replace(block_length=32, stop_ids=stops)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_end_at_the_tokens_that_end_a_turn(name: str) -> None:
    entry, found = ARCHITECTURES[name], made(name)
    assert found.stop_ids == tuple(entry.example.special[text] for text in entry.stop_tokens)
    assert made(name, eos_stop=False).stop_ids == ()
    assert made(name, stop_ids=()).stop_ids == ()
    assert made(name, stop_ids=[7]).stop_ids == (7,)
    assert made(name, stop_ids=[7], eos_stop=False).stop_ids == (7,)


def test_a_default_that_draws_gives_the_same_every_time() -> None:
    engine = Engine(model_of("DreamModel"), SMALL)
    assert engine.settings.temperature == 0.2
    once, again = engine.generate("hello"), engine.generate("hello")
    beside = engine.generate_batch(["hello", "and another"])[0]
    assert once.tokens == again.tokens == beside.tokens
    assert once.tokens == Engine(engine.model, engine.settings, seed=0).generate("hello").tokens
    # It draws: this model is too sure of itself to show it at so low a temperature.
    drawn = [engine.submit("hello", temperature=3.0, seed=n).result(60).tokens for n in range(3)]
    assert len(set(drawn)) == 3


# ---------------------------------------------------------------- what is stated wins


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("DreamModel", {"temperature": 0.7}),
        ("DreamModel", {"top_p": None}),
        ("DreamModel", {"top_p": 0.5}),
        ("DreamModel", {"unmask": "fixed:order=margin"}),
        ("ILLaDAForCausalLM", {"growing_canvas": False}),
        ("ILLaDAForCausalLM", {"stop_after": "token"}),
        ("SDARForCausalLM", {"unmask": "quota:steps=2"}),
        ("SDARForCausalLM", {"stop_after": "token"}),
        ("StableDiffcoderForCausalLM", {"unmask": "threshold:value=0.5"}),
        ("LLaDA2MoeModelLM", {"unmask": "quota"}),
    ],
)
def test_each_setting_is_overridden_by_itself(name: str, stated: SettingsFields) -> None:
    plain, found = made(name), made(name, **stated)
    wanted = plain.replace(**stated)
    assert found == wanted
    assert found != plain
    # A default of Skipstone's that is stated is stated, too.
    assert Engine(model_of(name), SMALL.replace(**stated)).settings == found


def test_a_request_of_an_engine_may_state_what_its_engine_left_open() -> None:
    engine = Engine(model_of("DreamModel"), SMALL)
    asked = engine.submit("hello", temperature=0.0).result(60).settings
    assert (asked.temperature, asked.top_p, asked.unmask) == (0.0, None, ENTROPY)
    unstopped = engine.submit("hello", eos_stop=False).result(60).settings
    assert (unstopped.stop_ids, unstopped.temperature) == ((), 0.2)
    assert engine.generate("hello").settings == engine.settings


def test_what_an_engine_made_of_settings_is_stated() -> None:
    engine = Engine(model_of("DreamModel"), SMALL)
    plain = Engine(model_of("LLaDAModelLM"), SMALL)
    assert Engine(plain.model, engine.settings).settings == engine.settings
    assert Engine(engine.model, plain.settings).settings == plain.settings


def test_what_was_stated_outlives_copies() -> None:
    stated = Settings(temperature=0.0).replace(gen_length=64)
    assert stated.stated == {"temperature", "gen_length"}
    assert pickle.loads(pickle.dumps(stated)).stated == stated.stated
    assert Settings(max_new_tokens=5).stated == {"gen_length"}
    assert parse_settings({"top_p": "none"}).stated == {"top_p"}
    assert stated.all_stated().stated == set(stated.as_text())
    # It is no setting, and decides nothing of what is equal.
    assert Settings(temperature=0.0) == Settings()
    assert "stated" not in Settings().as_text()
    with pytest.raises(ConfigError, match="'stated' is unknown"):
        parse_settings({"stated": "none"})


# ---------------------------------------------------------------- what is left makes sense


@pytest.mark.parametrize("unmask", [Threshold(0.9), Quota(threshold=0.9)])
def test_another_rule_has_its_bars_for_the_whole_distribution(unmask: UnmaskPolicy) -> None:
    """A low temperature sharpens what a bar is held against, so draws go with their rule."""
    found = made("DreamModel", unmask=unmask)
    assert (found.unmask, found.temperature, found.top_p) == (unmask, 0.0, None)
    drawn = made("DreamModel", unmask=unmask, temperature=0.3)
    assert (drawn.temperature, drawn.top_p) == (0.3, None)


def test_who_is_greedy_cuts_nothing() -> None:
    found = made("DreamModel", temperature=0)
    assert (found.unmask, found.temperature, found.top_p) == (ENTROPY, 0.0, None)
    assert made("DreamModel", temperature=0, top_p=0.9).top_p == 0.9


def test_steps_fit_the_rule_that_the_model_decodes_by() -> None:
    # By time there may be more of them than tokens; by LLaDA's threshold there may not.
    assert made("DreamModel", steps=100).steps == 100
    for name in ("LLaDAModelLM", "SDARForCausalLM"):
        with pytest.raises(ConfigError, match="steps is 100, must be between"):
            made(name, steps=100)
    idle = made("SDARForCausalLM", steps=12).idle()
    assert [line.split(":")[0] for line in idle] == ["steps=12 has no effect"]
    assert made("SDARForCausalLM", steps=12, unmask="fixed").idle() == ()


def test_nothing_is_recommended_that_would_have_no_effect() -> None:
    for name in ("ILLaDAForCausalLM", "SDARForCausalLM", "LLaDA2MoeModelLM"):
        assert made(name, eos_stop=False).stop_after == "token"
        assert made(name, eos_stop=False, stop_ids=[7]).stop_after == "block"
    assert made("ILLaDAForCausalLM").growing_canvas is True
    assert made("ILLaDAForCausalLM", block_length=48).growing_canvas is False
    for name in ARCHITECTURES:
        for stated in _HARMLESS:
            assert made(name, **stated).idle() == ()


def test_an_edit_sees_what_lies_right_of_a_mask() -> None:
    engine = Engine(model_of("ILLaDAForCausalLM"), SMALL)
    mask = engine.model.config.mask_id
    canvas = [9, 8, mask, 7, *[mask] * 40, 6, 6, 11]
    found = engine.edit(canvas).settings
    assert (found.growing_canvas, found.eos_stop, found.stop_after) == (False, False, "token")
    other = engine.edit([*canvas[:-1], 200]).tokens
    assert other[0] != engine.edit(canvas).tokens[0]
    assert engine.edit(canvas, growing_canvas=True).settings.growing_canvas is True


# ---------------------------------------------------------------- runs beside each other


def test_runs_that_are_compared_differ_in_what_was_stated_alone() -> None:
    model = model_of("DreamModel")
    a, b = alike([Settings(cache="none"), Settings(unmask="threshold")], model)
    assert (a.temperature, a.top_p) == (b.temperature, b.top_p) == (0.0, None)
    assert (a.unmask, b.unmask) == (ENTROPY, Threshold())
    drawn = alike([Settings(temperature=0.5, seed=1), Settings(temperature=0.5)], model)
    assert [one.temperature for one in drawn] == [0.5, 0.5]
    growing = model_of("ILLaDAForCausalLM")
    whole, parts = alike(
        [Settings(gen_length=32), Settings(gen_length=32, block_length=8)], growing
    )
    assert (whole.growing_canvas, parts.growing_canvas) == (False, False)


def test_a_record_has_all_of_them_and_nobody_is_blamed() -> None:
    model = model_of("SDARForCausalLM")
    recorders = [Recorder(), Recorder()]
    for recorder, cached in zip(recorders, ("dual", "none"), strict=True):
        settings = SMALL.replace(cache=cached)
        result = Engine(model, settings).generate("hello", observer=recorder)
        header = recorder.records[0].header
        assert header.settings == result.settings.as_text()
        assert settings_of(recorder.records[0], {}) == with_defaults(settings, model)
    found = diagnose(*(recorder.trace for recorder in recorders), model=model)
    assert "stop_after" not in json.dumps(found.as_json())
    assert "quota" not in json.dumps(found.as_json())


def test_the_settings_of_an_old_record_are_those_that_it_was_made_with() -> None:
    """One that knew nothing of stop_after stopped at a token, whatever its model recommends."""
    model = model_of("SDARForCausalLM")
    recorder = Recorder()
    Engine(model, SMALL, stop_after="token", unmask="threshold").generate(
        "hello", observer=recorder
    )
    header = recorder.records[0].header
    for name in ("stop_after", "unmask", "stop_ids"):
        del header.settings[name]
    found = Engine(model, settings_of(recorder.records[0], {})).settings
    assert (found.stop_after, found.unmask, found.stop_ids) == ("token", Threshold(), ())
