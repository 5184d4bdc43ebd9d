"""The rule of a policy once more, on recorded scores: it decides as the policy does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import Factor, Fixed, Settings, Threshold
from skipstone.blocks import Block
from skipstone.canvas import Canvas, Geometry, StepContext
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.errors import PolicyError
from skipstone.unmask import (
    Certainty,
    Credit,
    DinferThreshold,
    DreamThreshold,
    Editing,
    Entropy,
    EntropyBound,
    FallingThreshold,
    Frechet,
    Hierarchical,
    Klass,
    LocalLeap,
    Margin,
    Need,
    Quota,
    Scores,
    SlowFast,
    UnmaskPolicy,
)
from tests.conftest import context_at
from tests.helpers.recorded import record, steps_of, trace_of
from tests.helpers.watching import BASE, LOW
from tests.unmask.recorded_step import NOT_ALLOWED, step_before

GEOMETRY = Geometry(
    batch=1,
    length=1,
    gen_length=1,
    num_layers=1,
    width=1,
    dtype=torch.float32,
    device=torch.device("cpu"),
)
UNMASKS: list[UnmaskPolicy] = [
    Fixed(),
    Threshold(0.3),
    Threshold(0.05),
    FallingThreshold(0.45, 1.0),
    Factor(0.8),
    Factor(2.0),
    Frechet(-2.0),
    Editing(0.5, 0.05),
    Editing(0.4, 0.0, 2, post_steps=1),
    Hierarchical(0.6, 0.05),
    Hierarchical(None, None),
    Credit(0.6, alpha=2.0),
    LocalLeap(0.6, 0.35, 1),
    SlowFast(0.6, 2, 0.3),
    LocalLeap(0.6, 0.2, 3),
    Fixed("left_to_right"),
    Fixed(schedule="time"),
    Fixed("margin", first_alone=True),
    DinferThreshold(0.9, 0.05),
    DreamThreshold(0.3),
    DreamThreshold(0.3, cached=False),
    Margin(2),
    Margin(threshold=0.1),
    Certainty(sigma=1.0),
    Certainty(2, 40.0),
    Certainty(threshold=0.1),
    Quota(),
    Quota(3),
    Quota(3, 0.3),
    Quota(3, order="left_to_right"),
]
SHARP: list[UnmaskPolicy] = [
    Entropy(2),
    Entropy(limit=2.5),
    Fixed("entropy", "time", first_alone=True),
    EntropyBound(3.0),
    EntropyBound(4.0, "margin", "last", 2),
    EntropyBound(4.0, "entropy"),
    EntropyBound(4.0, "entropy", "none"),
    Fixed("most_entropy"),
    Klass(0.3, 0.3),
    Klass(0.6, 0.1, 1, "best"),
]

# Few values, so that exact ties are common; -inf is what may not be committed.
scores = st.lists(
    st.tuples(
        st.sampled_from(
            [-inf, 0.0, 0.05, 0.3, 0.3 + 1e-16, 0.5, 2 / 3, 0.75, 0.9, 1 - 2**-53, 1.0]
        ),
        st.sampled_from([0.0, 0.05, 0.1, 0.25]),
        st.sampled_from([0.0, 0.001, 0.5, 1.0, 3.0]),
        st.sampled_from([0.0, 0.01, 0.02, 30.0]),
    ),
    min_size=1,
    max_size=14,
)
unmasks = st.one_of(
    st.just(Fixed()),
    st.builds(
        Fixed,
        st.sampled_from(["confidence", "margin", "entropy", "most_entropy"]),
        st.sampled_from(["even", "time"]),
        st.sampled_from([0.001, 0.3]),
        st.booleans(),
    ),
    st.builds(DinferThreshold, st.sampled_from([0.3, 0.9, 1.0]), st.sampled_from([0.0, 0.1])),
    st.builds(DreamThreshold, st.sampled_from([0.0, 0.3, 0.75, 1.0]), st.booleans()),
    st.builds(
        FallingThreshold, st.sampled_from([0.3, 0.75, 0.9]), st.sampled_from([0.0, 0.3, 1.0])
    ),
    st.builds(Threshold, st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9, 1.0])),
    st.builds(Factor, st.sampled_from([0.05, 0.3, 1.0, 1.5, 4.0])),
    st.builds(Factor, st.sampled_from([0.3, 1.5]), st.just(True)),
    st.just(Fixed("left_to_right")),
    st.builds(
        Klass,
        st.sampled_from([0.0, 0.3, 0.75]),
        st.sampled_from([0.01, 0.02]),
        st.sampled_from([1, 2]),
        st.sampled_from(["all", "best"]),
    ),
    st.builds(
        SlowFast,
        st.sampled_from([0.3, 0.75, 0.9]),
        st.integers(1, 3),
        st.sampled_from([0.05, 0.5]),
        st.integers(1, 3),
        st.sampled_from([0.0, 1.0]),
        st.booleans(),
    ),
    st.builds(
        LocalLeap,
        st.sampled_from([0.3, 0.75, 0.9]),
        st.sampled_from([0.05, 0.3, 0.5]),
        st.sampled_from([0, 1, 2, 30]),
    ),
    st.builds(Credit, st.sampled_from([0.0, 0.3, 0.75, 1.0])),
    st.builds(
        Editing, st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.0, 0.3]), st.integers(1, 3)
    ),
    st.builds(
        Hierarchical, st.sampled_from([None, 0.3, 0.9]), st.sampled_from([None, 0.0, 0.3, 0.75])
    ),
    st.builds(Frechet, st.sampled_from([-3.0, -0.5, 0.0, 0.25, 0.9])),
    st.builds(Margin, st.integers(1, 3), st.sampled_from([None, 0.0, 0.25, 0.65])),
    st.builds(
        Certainty,
        st.integers(1, 3),
        st.sampled_from([0.3, 1.0, 10.0, 1e9]),
        st.sampled_from([None, 0.0, 0.25, 0.65]),
    ),
    st.builds(
        Quota,
        st.sampled_from([None, 1, 2, 3, 5, 20]),
        st.sampled_from([None, 0.0, 0.3, 0.75]),
        st.sampled_from(["confidence", "left_to_right"]),
        st.sampled_from(["block", "masks"]),
    ),
    st.builds(Entropy, st.integers(1, 3), st.sampled_from([None, 0.0, 0.5, 3.0])),
    st.builds(
        EntropyBound,
        st.sampled_from([0.0, 0.001, 1.0, 3.0]),
        st.sampled_from(["confidence", "margin", "entropy"]),
        st.sampled_from(["largest", "last", "none"]),
        st.integers(1, 3),
    ),
)


@hypothesis_settings(deadline=None, derandomize=True, max_examples=1000)
@given(scores, unmasks, st.integers(1, 14), st.integers(0, 20), st.integers(1, 9))
@example([(0.5, 0.0, 1.0, 0.0)] * 6, Fixed(), 3, 0, 4)
def test_a_replayed_decision_is_the_policys(
    row: list[tuple[float, float, float, float]],
    unmask: UnmaskPolicy,
    steps: int,
    step: int,
    prompt_length: int,
) -> None:
    length = len(row)
    chosen = Settings(gen_length=length, block_length=length, unmask=unmask)
    if unmask.uses_steps:
        chosen = chosen.replace(steps=min(steps, length))
    canvas = Canvas.start([[1] * prompt_length], length, 0, torch.device("cpu"))
    context = context_at(canvas, Block(0, 0, length), step, chosen.steps or length)
    confidence, runner_up, entropy, drift = map(list, zip(*row, strict=True))
    sure, second, told, moved = (
        torch.tensor([v], dtype=torch.float64) for v in (confidence, runner_up, entropy, drift)
    )
    margin_BG = sure.where(sure != -inf, NOT_ALLOWED) - second
    token_BG, none_BG = torch.zeros_like(canvas.region_BG), torch.full_like(sure, -inf)
    offered = Scores(token_BG, sure, margin_BG, told, none_BG, moved).only(unmask.needs)
    picked = unmask.start(GEOMETRY).select(offered, context)[0].nonzero()[:, 0] + prompt_length
    rule = rule_of(chosen.as_text())
    assert rule is not None
    before = step_before(canvas, confidence, step, runner_up, entropy, drift)
    assert rule.commits(before) == tuple(picked.tolist())


def rule_of(settings: dict[str, str]) -> CommitRule | None:
    """The rule of a record that states these settings."""
    run = trace_of(BASE).records[0]
    return CommitRule.of(replace(run, steps=(), header=replace(run.header, settings=settings)))


def test_equal_confidence_is_replayed_from_the_left() -> None:
    canvas = Canvas.start([[1]], 6, 0, torch.device("cpu"))
    step = step_before(canvas, [0.2, 0.7, 0.7, 0.7, 0.2, 0.7], 0)
    taken = {
        unmask: rule.commits(step)
        for unmask in ("fixed", "threshold:value=0.9", "factor:value=0.75", "frechet", "margin")
        if (rule := rule_of({"unmask": unmask, "steps": "3", "gen_length": "6"}))
    }
    assert taken == {
        "fixed": (2, 3),
        "threshold:value=0.9": (2,),
        "factor:value=0.75": (2,),
        "frechet": (2,),
        "margin": (2,),
    }


@pytest.mark.parametrize("unmask", [*UNMASKS, *SHARP], ids=repr)
@pytest.mark.parametrize("block_length", [6, 7, 18])
@pytest.mark.parametrize("steps", [None, 5, 11])
def test_a_recorded_run_keeps_to_its_rule(
    unmask: UnmaskPolicy, block_length: int, steps: int | None
) -> None:
    settings = BASE.replace(unmask=unmask, block_length=block_length, skip=LOW)
    if steps is not None:
        settings = settings.replace(steps=steps, budget="stop")
    assert replay_of(settings, settings) == [step.committed for step in steps_of(settings)]


def replay_of(rule: Settings, run: Settings) -> list[tuple[int, ...]]:
    """What the rule of some settings commits in the steps of another run."""
    record = trace_of(run).records[0]
    stated = replace(record, header=replace(record.header, settings=rule.as_text()))
    found = CommitRule.of(stated)
    assert found is not None
    return [found.commits(step) for step in steps_of(run)]


def test_only_its_own_rule_explains_a_run() -> None:
    runs = [BASE.replace(unmask=u, steps=6, budget="stop") for u in UNMASKS]
    explains = [
        [replay_of(rule, run) == [step.committed for step in steps_of(run)] for rule in runs]
        for run in runs
    ]
    assert explains == np.eye(len(runs), dtype=bool).tolist()


def test_a_rule_that_is_not_known_is_not_guessed() -> None:
    for text in ("fixed:order=random", "unheard_of:value=0.9", "threshold:value=2", ""):
        assert rule_of({"unmask": text, "gen_length": "6"}) is None
    assert rule_of({"unmask": "fixed"}) is None
    for gen_length, steps in (("6", "many"), ("", "6"), ("six", "6")):
        assert rule_of({"unmask": "fixed", "gen_length": gen_length, "steps": steps}) is None


def test_equal_scores_are_replayed_from_the_right_where_the_highest_came_first() -> None:
    canvas = Canvas.start([[1]], 6, 0, torch.device("cpu"))
    step = step_before(canvas, [0.2, 0.7, 0.7, 0.7, 0.2, 0.7], 0, [0.1] * 6, [1.0] * 6)
    for unmask, highest in (
        ("fixed", (4, 6)),
        ("margin:each=2", (4, 6)),
        ("entropy", (6,)),
        ("certainty:sigma=1e9", (6,)),
        ("certainty:sigma=2", (2,)),
    ):
        rule = rule_of({"unmask": unmask, "steps": "3", "gen_length": "6"})
        assert rule is not None
        assert rule.commits_highest_first(step) == highest, unmask


def test_what_was_not_recorded_is_not_replayed() -> None:
    # A trace of before the entropy was recorded, or of a run that had no need of it.
    told = trace_of(BASE.replace(unmask=Entropy())).records[0]
    assert CommitRule.of(told) is not None
    plain = trace_of(BASE).records[0]
    stated = {**plain.header.settings, "unmask": "entropy:each=1,limit=None"}
    assert CommitRule.of(replace(plain, header=replace(plain.header, settings=stated))) is None


@pytest.mark.parametrize("unmask", [*UNMASKS, *SHARP], ids=repr)
def test_the_entropy_is_recorded_where_it_was_asked_for_and_nowhere_else(
    unmask: UnmaskPolicy,
) -> None:
    for step in steps_of(BASE.replace(unmask=unmask)):
        known = np.isfinite(step.candidates.entropy)
        assert known.all() == known.any() == (Need.ENTROPY in unmask.needs)


def test_scores_that_were_not_asked_for_are_not_there() -> None:
    @dataclass(frozen=True)
    class Greedy(Threshold):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            return scores.entropy_BG < 1

    with pytest.raises(PolicyError, match=r"name Need\.ENTROPY in its needs \(scores\.py"):
        record(BASE.replace(unmask=Greedy()))


def test_a_class_that_selects_otherwise_does_not_inherit_the_rule() -> None:
    @dataclass(frozen=True)
    class Otherwise(Threshold):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            return scores.confidence_BG > self.value

    @dataclass(frozen=True)
    class Renamed(Threshold):
        pass

    assert not Otherwise().replays
    assert Renamed().replays
    assert not Fixed("random").replays


def test_every_policy_is_read_and_replayed_without_torch() -> None:
    script = """
import sys
sys.modules["torch"] = None
import numpy as np
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.policies import CACHE, SKIP, UNMASK
from skipstone.unmask import HostScores
rows = np.zeros(3, int), np.ones(3) / 2
where = dict(block=0, step=0, step_budget=1, block_start=0, block_stop=3)
seen = HostScores(rows[0], rows[0], *[rows[1]] * 4, block_length=3, masks_left=3, **where)
for name in UNMASK.built_in:
    policy = UNMASK.parse(name)
    assert policy.replays and policy.replay(seen).any(), name
    policy.bound(seen)
for kind in (CACHE, SKIP):
    for name in kind.built_in:
        kind.parse(name)
assert SKIP.parse("cosine").replay(np.ones((2, 4))).stable_J.all()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
