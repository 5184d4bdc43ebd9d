"""The bench of published code, as far as it can be tried without any: planting, and scoring."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from faults.published import table
from faults.published.insert import inserted
from faults.published.planted import EVERY
from faults.published.trial import Outcome, Verdict
from skipstone.errors import ConfigError

HERE = sys.modules[__name__]


def loop(numbers: list[int]) -> list[int]:
    """Stands for a loop of theirs."""
    done = list[int]()
    total = 0
    for number in numbers:
        step, total = number + 1, total + number
        done += [step]
    if not done:
        done = [total]
    return done


class Holder:
    """Has a method."""

    def value(self, start: int) -> int:
        """One more."""
        result = start
        return result + 1


def outcome(verdict: Verdict, **more: Any) -> Outcome:
    return Outcome(
        "a fault", "a base", "a job", "it does so", ("stale-kv",), False, verdict, **more
    )


def test_a_statement_runs_behind_every_assignment_to_a_variable() -> None:
    with inserted(HERE, "loop", "step *= 10", after="step"):
        assert loop([1, 2]) == [20, 30]
    assert loop([1, 2]) == [2, 3]


def test_one_assignment_can_be_chosen() -> None:
    with inserted(HERE, "loop", "done.append(99)", after="done", nth=0):
        assert loop([1]) == [99, 2]
    with inserted(HERE, "loop", "done.append(99)", after="done", nth=-1):
        assert loop([]) == [0, 99]
        assert loop([1]) == [2]


def test_two_statements_can_be_put_into_one_function() -> None:
    with (
        inserted(HERE, "loop", "step *= 10", after="step"),
        inserted(HERE, "loop", "step += 1", after="step", nth=-1),
    ):
        assert loop([1]) == [21]


def test_a_method_is_rewritten_on_its_class() -> None:
    with inserted(Holder, "value", "result = -result", after="result"):
        assert Holder().value(3) == -2
    assert Holder().value(3) == 4


@pytest.mark.parametrize(("name", "nth"), [("nothing", None), ("step", 1), ("step", -2)])
def test_another_version_of_the_code_is_refused(name: str, nth: int | None) -> None:
    with pytest.raises(ConfigError, match="another version"):
        inserted(HERE, "loop", "pass", after=name, nth=nth)


def test_a_wrong_claim_weighs_as_three_that_are_missed() -> None:
    done = [
        outcome("right", step_right=True),
        outcome("right", step_right=True, place_right=True),
        outcome("inconclusive"),
        outcome("WRONG"),
        outcome("does not act"),
    ]
    shares = table.shares(done)
    assert shares == {
        "cause": 0.5,
        "inconclusive": 0.25,
        "wrong": 0.25,
        "weighted": 0.0,
        "step": 1.0,
        "place": 0.5,
    }
    assert "does not act" in table.summary(done).lower()


def test_every_fault_says_what_it_does_and_what_is_right() -> None:
    assert EVERY
    for fault in EVERY:
        assert fault.says.endswith("."), fault.name
        assert fault.causes, fault.name
        assert fault.jobs, fault.name
    assert len({(fault.base, fault.name) for fault in EVERY}) == len(EVERY)
