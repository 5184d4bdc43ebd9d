"""Experiments: made once, within a time limit, and told apart by their names."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from skipstone import DualCache, Fixed, NoCache, Threshold
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diagnosis.experiment import (
    ExperimentRequest,
    Follow,
    Patch,
    Rerun,
    Rescore,
    Spent,
    Turn,
    Unavailable,
    Unobserved,
)
from skipstone.engine import Engine
from skipstone.record import Tap, Trace
from skipstone.sentence import Sentence
from skipstone.tracing.experiments import runner
from skipstone.tracing.experiments.known import Answer, KnownAnswers
from skipstone.tracing.experiments.names import as_request, key_of
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from tests.helpers.recorded import case_of, trace_of
from tests.helpers.watching import BASE, uneven_model

PLAIN = BASE.replace(cache=NoCache(), unmask=Fixed())
# What B does otherwise, and the rule that says so.
CAUSES = {
    "stale-kv": PLAIN.replace(cache=DualCache()),
    "over-parallel": PLAIN.replace(unmask=Threshold(0.3)),
}
# What decisions alone say of them, replayed without any experiment: less, and true.
REPLAYED = {"stale-kv": "inconclusive", "over-parallel": "commit-rule"}


class Clock:
    """A time that stands still until it is moved."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    standing = Clock()
    monkeypatch.setattr(runner, "time", standing)
    return standing


def experiment_runner(
    *, time_limit: float = 60.0, told: list[str] | None = None
) -> ExperimentRunner:
    a = Side(trace_of(PLAIN))
    tell = None if told is None else told.append
    return ExperimentRunner(a, a, uneven_model(1), time_limit=time_limit, progress=tell)


def test_a_question_is_answered_once(clock: Clock) -> None:
    told = list[str]()
    experimenter = experiment_runner(told=told)
    first = experimenter.ask(Follow("a", "a", (0, 1)))
    assert experimenter.ask(Follow("a", "a", (0, 1))) is first
    assert experimenter.ask(Follow("a", "a", (0, 2))) is not first
    assert len(told) == len(experimenter.done) == 2


def test_nothing_is_started_after_the_limit_and_what_is_known_stays_known(clock: Clock) -> None:
    experimenter = experiment_runner()
    first = experimenter.ask(Follow("a", "a", (0, 1)))
    clock.now += 60.0
    experimenter.ask(Follow("a", "a", (0, 2)))
    clock.now += 0.1
    with pytest.raises(Spent, match="the time limit is reached"):
        experimenter.ask(Follow("a", "a", (0, 3)))
    assert experimenter.ask(Follow("a", "a", (0, 1))) is first
    assert len(experimenter.done) == 2


def test_what_cannot_be_made_is_said_and_takes_no_part(clock: Clock) -> None:
    side = Side(trace_of(PLAIN))
    for experimenter, asked, reason in (
        (experiment_runner(), Rerun("b"), "side B cannot be run again: only its trace is here"),
        (experiment_runner(), Unobserved("a"), "side A cannot be run again"),
        (
            ExperimentRunner(side, side, None),
            Follow("a", "a", (0, 1)),
            "the model is not here",
        ),
        (
            experiment_runner(),
            Follow("a", "a", (0, 1), (("cahce", "dual"),)),
            "did you mean 'cache'",
        ),
    ):
        with pytest.raises(Unavailable, match=reason) as error:
            experimenter.ask(asked)
        assert not isinstance(error.value, Spent)
        assert experimenter.done == []


def test_experiments_that_differ_in_anything_are_kept_apart() -> None:
    follow = Follow("a", "a", (0, 1))
    asked: list[ExperimentRequest] = [
        follow,
        replace(follow, forwards=(1, 1)),
        replace(follow, led=frozenset(("rows",))),
        replace(follow, led=frozenset(("rows", "skip"))),
        replace(follow, tensors=False),
        replace(follow, unskip=(3,)),
        replace(follow, variation="batch"),
        replace(follow, turn=Turn(queries=1)),
        replace(follow, turn=Turn(keys=1)),
        replace(follow, turn=Turn(stretch=0.5)),
        replace(follow, turn=Turn(pairs="neighbours")),
        replace(follow, turn=Turn(width_power=0.5)),
        replace(follow, keys="unrotated"),
        Rerun("a"),
        Rerun("a", attempt=1),
        Rerun("a", until=3),
        Rescore("a", (1, 2), (5,)),
        Rescore("a", (1, 3), (5,)),
        Unobserved("a"),
    ]
    keys = [key_of(experiment) for experiment in asked]
    assert len(set(keys)) == len(asked)
    assert keys == [key_of(experiment) for experiment in asked]
    assert all(json.loads(json.dumps(as_request(e)))["kind"] for e in asked)


# --- diagnoses that hold runs against one baseline


def test_what_is_known_of_a_alone_is_made_once_for_all_diagnoses() -> None:
    model = uneven_model(1)
    a = Side(trace_of(PLAIN), 0, Engine(model, PLAIN), known=KnownAnswers())
    for name in (*CAUSES, *CAUSES):
        settings = CAUSES[name]
        b = Side(trace_of(settings), 0, Engine(model, settings))
        experimenter = ExperimentRunner(a, b, model)
        found = diagnose(Case(a.trace, b.trace, experimenter))
        assert found.lines() == diagnose(case_of(PLAIN, settings)).lines()
        again = list[str]()
        repeated = ExperimentRunner(a, b, model, progress=again.append)
        assert diagnose(Case(a.trace, b.trace, repeated)).lines() == found.lines()
        # Each counts, so that a verdict does not depend on what was asked before.
        assert len(repeated.done) == len(experimenter.done)
        made = [one for one in repeated.done if not _of_a(one.experiment)]
        assert len(again) == len(made) < len(repeated.done)


def _of_a(asked: ExperimentRequest) -> bool:
    if isinstance(asked, Follow):
        return asked.along == asked.settings == "a" and not asked.patches
    return asked.side == "a"


def test_what_the_other_side_has_a_part_in_is_made_again() -> None:
    known, answer = KnownAnswers(most=2), Answer(trace_of(PLAIN), 0.5)
    patch = Patch(Tap.STATE, 0, 0, np.zeros(1, np.int32), np.zeros((1, 4), np.float32))
    for theirs in (
        Rerun("b"),
        Unobserved("b"),
        Rescore("b", (1,), (5,)),
        Follow("b", "a", (0, 1)),
        Follow("a", "b", (0, 1)),
        Follow("a", "a", (0, 1), patches=(patch,), patch_name="values of B"),
    ):
        known.keep(theirs, answer)
        assert known.get(theirs) is None
    asked = [Rerun("a"), Unobserved("a"), Follow("a", "a", (0, 1))]
    for one in asked[:2]:
        known.keep(one, answer)
    assert known.get(asked[0]) is answer
    known.keep(asked[2], answer)
    assert [known.get(one) for one in asked] == [answer, None, answer]


# --- a diagnosis that runs out of time


@dataclass
class Limited:
    """Answers a number of questions; then the time is over."""

    experimenter: ExperimentRunner
    limit: int

    def ask(self, experiment: ExperimentRequest) -> Trace:
        if len(self.experimenter.done) < self.limit:
            return self.experimenter.ask(experiment)
        raise Spent(Sentence("the time limit is reached"))


def diagnosed(name: str, limit: int) -> tuple[Diagnosis, int]:
    """The diagnosis after so many experiments, and how many were made."""
    case = case_of(PLAIN, CAUSES[name])
    assert isinstance(case.inquiry.experimenter, ExperimentRunner)
    experimenter = case.inquiry.experimenter
    case.inquiry.experimenter = Limited(experimenter, limit)
    return diagnose(case), len(experimenter.done)


@pytest.mark.parametrize("name", CAUSES)
def test_with_less_time_a_diagnosis_says_less_and_nothing_false(name: str) -> None:
    full, made = diagnosed(name, 1000)
    assert full.cause is not None
    assert (full.verdict, full.unavailable) == (name, ())
    verdicts = list[str]()
    for limit in (0, 1, 4, 12, 17, made - 1):
        short, _ = diagnosed(name, limit)
        verdicts.append(short.verdict)
        assert short.unavailable == ("the time limit is reached",)
        assert "not tried: the time limit is reached" in short.lines()
        assert len(short.lines()) <= 10
        assert len(short.ruled_out) < len(full.ruled_out)
        assert {r.rule for r in short.ruled_out} <= {r.rule for r in full.ruled_out}
        if short.cause is None:
            assert any(line.startswith("cause: NOT FINISHED") for line in short.lines())
        else:
            assert short.verdict in (name, REPLAYED[name])
            assert short.cause.proof <= full.cause.proof
    assert verdicts[0] == REPLAYED[name]
    assert verdicts[-1] == name
