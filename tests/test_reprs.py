"""What objects say of themselves, in a shell and in a notebook."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import skipstone
from skipstone import Engine, Recorder, Result, Settings, diagnose, load, open_trace
from skipstone.diff import compare, diff
from skipstone.diff.floor import estimated_floor
from skipstone.record.settings import plain_settings
from skipstone.sentence import after_end, counted
from tests.helpers import synthetic_trace as made_up


@pytest.fixture(scope="module")
def recorded() -> tuple[Result, Recorder]:
    recorder = Recorder("full")
    engine = Engine(load("pebble"), gen_length=16)
    return engine.generate("Who is Newton, physics?", observer=recorder), recorder


def test_a_result_and_its_stats_tell_a_person_something(
    recorded: tuple[Result, Recorder],
) -> None:
    result, _ = recorded
    assert str(result) == result.text
    forwards = counted(result.stats.num_forwards, "forward")
    assert f"{result.stats.generated} tokens, {forwards}" in str(result.stats)
    assert [counted(1, "mask"), counted(0, "mask")] == ["1 mask", "0 masks"]
    assert str(result.stats) in repr(result)
    assert len(repr(result.stats)) < 120
    assert result.answer == result.tokens[: result.length]


def test_a_notebook_shows_a_result_and_runs_nothing_of_it() -> None:
    engine = Engine(load("pebble"), gen_length=4)
    result = engine.generate("Hi")
    object.__setattr__(result, "text", "<script>alert(1)</script>\n&")
    page = result._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n&amp;" in page
    assert "gen_length=4" in page


def test_a_notebook_shows_one_mark_for_all_that_follows_eos() -> None:
    result = Engine(load("pebble"), gen_length=32).generate("What is 3 + 4?")
    end = len(result.tokens) - result.length
    assert 0 < end < 32
    assert f'3 + 4 = 7. <span style="opacity:0.6">+ {end} EOS</span></pre>' in result._repr_html_()
    assert after_end((5, 6)) == "+ 2 from EOS on"
    assert after_end(()) == ""


def test_every_recorded_object_is_one_short_line(
    recorded: tuple[Result, Recorder],
) -> None:
    _, recorder = recorded
    trace = recorder.trace
    record = trace.records[0]
    step = record.steps[0]
    tensor = trace.tensor(0, trace.keys(0)[0])
    found = diff(trace, trace)
    objects = [
        recorder,
        trace,
        record,
        record.header,
        record.outcome,
        step,
        step.candidates,
        tensor,
        compare(record, record),
        found,
        found.alignment,
        found.alignment.pairs[0],
        estimated_floor(record.header),
        made_up.event(),
        made_up.step(0).judgements,
    ]
    for one in objects:
        text = repr(one)
        assert len(text) < 900, text
        assert "\n" not in text
        assert "array(" not in text
        assert " object at 0x" not in text
    assert f"block {step.block}, step {step.step}, forward {step.forward}" in repr(step)


def test_a_diagnosis_prints_its_lines(recorded: tuple[Result, Recorder]) -> None:
    _, recorder = recorded
    diagnosis = diagnose(recorder.trace, recorder.trace, time_limit=0.1)
    assert str(diagnosis) == "\n".join(diagnosis.lines())
    assert repr(diagnosis).startswith("<Diagnosis same: ")


def test_a_stored_trace_says_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "x.trace"
    made_up.write(path)
    with open_trace(path) as trace:
        assert str(path) in repr(trace)


@pytest.mark.parametrize("name", skipstone.__all__)
def test_every_public_name_has_help(name: str) -> None:
    about = inspect.getdoc(getattr(skipstone, name)) or ""
    assert len(about) > 20
    assert not about.startswith(f"{name}(")


def test_help_names_every_setting() -> None:
    for about in (inspect.getdoc(Engine) or "", inspect.getdoc(Settings) or ""):
        assert all(f"``{name}``" in about for name in Settings.__dataclass_fields__)


def test_settings_in_json_are_numbers_where_they_are_numbers() -> None:
    recorders = [Recorder(), Recorder()]
    for recorder, steps in zip(recorders, (8, 4), strict=True):
        engine = Engine(load("pebble"), unmask="fixed", gen_length=8, steps=steps)
        engine.generate("Hi", observer=recorder)
    found = json.dumps(diff(*(recorder.trace for recorder in recorders)).as_json())
    assert {"name": "steps", "a": 8, "b": 4} in json.loads(found)["settings"]
    texts = {"gen_length": "8", "temperature": "0.0", "seed": "None", "eos_stop": "true"}
    plain = {"gen_length": 8, "temperature": 0.0, "seed": None, "eos_stop": True}
    assert plain_settings(texts) == plain
    assert plain_settings({"a": "007", "b": "1" * 5000, "c": "nan"})["a"] == "007"
