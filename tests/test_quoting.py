"""Values in messages: whatever is given, an error is one line of under 500 characters."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipstone import Engine, TraceWriter, load, open_trace
from skipstone.bench.plan import parse_generation
from skipstone.diff.judges import find_judge
from skipstone.engine import Settings, parse_settings, parse_spec
from skipstone.engine.roofline import card
from skipstone.errors import CheckpointError, ConfigError, SkipstoneError
from skipstone.outputs import check_output
from skipstone.quoting import LONGEST_MESSAGE, cut, one_line, shown, whole_characters, within
from skipstone.report.words import words
from skipstone.sweep.executors import parse_executor
from skipstone.sweep.grid import parse_grid

LONG = ("x" * 5000, "x y " * 2000, "a/" + "b" * 5000, "é\n" * 3000, "'" * 5000, "k=" + "v" * 9000)


class Verbose:
    def __repr__(self) -> str:
        return "verbose " * 10_000


def _key(name: str) -> dict[str, Any]:
    return {name: 1}


CALLS: dict[str, Callable[[Any], object]] = {
    "load": lambda v: load(v, local_files_only=True),
    "load a path": lambda v: load(Path(v)),
    "load dtype": lambda v: load("pebble", dtype=v),
    "load device": lambda v: load("pebble", device=v),
    "load argument": lambda v: load("pebble", **_key(v)),
    "engine without model": Engine,
    "engine setting": lambda v: Engine(load("pebble"), **_key(v)),
    "engine cache": lambda v: Engine(load("pebble"), cache=v),
    "engine unmask": lambda v: Engine(load("pebble"), unmask=f"threshold:{v}"),
    "engine steps": lambda v: Engine(load("pebble"), steps=v),
    "engine budget": lambda v: Engine(load("pebble"), budget=v),
    "prompt": lambda v: Engine(load("pebble"), gen_length=4).generate([v, 5]),
    "prompt of bytes": lambda v: Engine(load("pebble")).generate(v.encode()),
    "role": lambda v: Engine(load("pebble")).generate([{"role": [v], "content": "Hi"}]),
    "settings": lambda v: parse_settings({"seed": v}),
    "setting": lambda v: parse_settings({v: "1"}),
    "spec": lambda v: parse_spec(f"{v} = {v}"),
    "spec key": lambda v: parse_spec(f"{v}=1 {v}=2"),
    "grid": lambda v: parse_grid(f"{v}=1,2", Settings(), Settings()),
    "executor": parse_executor,
    "judge": find_judge,
    "card": card,
    "generation": parse_generation,
    "language": words,
    "open_trace": open_trace,
    "TraceWriter": lambda v: TraceWriter(Path("/nowhere") / v),
    "output": lambda v: check_output(Path("/nowhere") / v),
}


@pytest.mark.parametrize("value", LONG, ids=range(len(LONG)))
@pytest.mark.parametrize("name", CALLS)
def test_an_error_is_one_line_whatever_was_given(name: str, value: str) -> None:
    with pytest.raises(SkipstoneError) as caught:
        CALLS[name](value)
    message = str(caught.value)
    assert len(message) < 500
    assert len(message.splitlines()) == 1


def test_a_message_keeps_what_it_says_around_a_long_value() -> None:
    error = ConfigError(f"model {'x' * 5000!r} not found; use 'pebble'")
    assert str(error).startswith("model 'xxx")
    assert "characters)..." in str(error)
    assert str(error).endswith("not found; use 'pebble'")
    assert len(error.args[0]) > 5000
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    # The control: what is short is not touched.
    assert str(CheckpointError("a  b 'c'")) == "a  b 'c'"


def test_a_value_is_cut_before_it_is_written_out() -> None:
    assert shown("ab") == "'ab'"
    assert shown(["a", 1, None]) == "['a', 1, None]"
    assert shown("a\nb\x1b") == r"'a\nb\x1b'"
    for value in ("x" * 10**7, list(range(10**6)), dict.fromkeys(range(10**5)), Verbose()):
        assert len(shown(value)) <= 120
    assert shown(10**5000) == "a very large number"
    assert cut("x" * 500).endswith("x...")
    assert len(one_line(ValueError("a\n b " * 1000))) <= 200
    assert one_line(KeyError()) == "KeyError"
    assert len(within("y " * 5000)) == LONGEST_MESSAGE


def test_half_a_character_is_written_as_its_escape() -> None:
    assert whole_characters("a\udcff\ud800é") == r"a\udcff\ud800é"
