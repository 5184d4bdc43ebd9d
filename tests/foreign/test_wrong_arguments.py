"""Wrong arguments of ``attach``, ``sanitize`` and ``explain`` are refused where they enter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipstone import ConfigError, OutputError, attach, explain, sanitize
from tests.foreign.shapes.network import MASK, Plain


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"mask_id": "66"}, "mask_id is '66', must be a whole number"),
        ({"mask_id": -1}, "mask_id is -1, must be an id of the vocabulary, at least 0"),
        ({"eos_id": 1.5}, "eos_id is 1.5, must be a whole number"),
        ({"prompt_length": -3}, "prompt_length is -3, must be at least 0"),
        ({"prompt_length": "3"}, "prompt_length is '3', must be a whole number"),
        ({"path": 3}, "path is 3, must be the folder of a new trace"),
        ({"stated": [4]}, "must be a dictionary of settings"),
        ({"stated": {"block_length": "x"}}, "is 'x', must be a number of positions"),
        ({"stated": {"block_length": 0}}, "is 0, must be a number of positions"),
        ({"level": "window", "window": "x"}, "window is 'x', must be the first and the last"),
        ({"level": "window", "window": ((1, 0), (0, 0))}, "must be the first and the last"),
        ({"level": "window", "window": (1, 2)}, "must be the first and the last"),
        ({"level": "ful"}, "did you mean 'full'"),
    ],
)
def test_attach_refuses_it_at_once(given: dict[str, Any], why: str) -> None:
    arguments: dict[str, Any] = {"mask_id": MASK, **given}
    with pytest.raises(ConfigError, match=why.replace("[", r"\[")):
        attach(Plain(), **arguments)


def test_attach_refuses_a_path_that_is_taken_before_the_loop_runs(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already, and is never overwritten"):
        attach(Plain(), mask_id=MASK, path=tmp_path)


def test_sanitize_refuses_a_mask_that_is_no_id() -> None:
    wrong: Any = "66"
    with pytest.raises(ConfigError, match="mask_id is '66'"), sanitize(Plain(), mask_id=wrong):
        pass


@pytest.mark.parametrize("given", [{"seed": "a"}, {"time_limit": "60s"}])
def test_explain_refuses_it_before_anything_runs(given: dict[str, Any]) -> None:
    def runs() -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match=f"{next(iter(given))} is '"):
        explain(Plain(), runs, runs, mask_id=MASK, **given)
