"""SlowFast: its cycles in batches, as graphs and replayed, and what a cut filling sees."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
from torch import Tensor

from skipstone import Engine, PolicyError, Settings, Threshold
from skipstone.canvas import StepContext
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.diagnose import diagnose
from skipstone.record import StepRecord
from skipstone.unmask import Klass, Scores, SlowFast
from skipstone.unmask.slow_fast import _Cycles
from tests.helpers.recorded import case_of, record
from tests.helpers.watching import BASE, LOW, prompt_of, uneven_model

KINDS = [
    SlowFast(0.9, 2, 0.4),
    SlowFast(0.9, 2, 0.4, cut=True),
    SlowFast(0.6, 3, 0.7, window=3, spread=0.5),
    SlowFast(0.95, 1, 0.9, window=2, cut=True),
]
LONG = BASE.replace(gen_length=24, block_length=12)


def cut_at(step: StepRecord) -> int | None:
    """The position from which on a step has no rows; None if it has all of its block."""
    end = int(step.rows.max()) + 1
    return None if end >= step.block_stop else end


def steps_of(unmask: SlowFast) -> list[StepRecord]:
    runs = [record(LONG.replace(unmask=unmask), seed).records[0] for seed in range(1, 6)]
    return [step for run in runs for step in run.steps]


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("cache", ["none", "dual", "prefix:refresh_every=2"])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, cache: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(1)
    chosen = Settings(gen_length=24, block_length=12, eos_stop=False, skip=skip, cache=cache)
    unmasks = [*KINDS, Threshold(0.9), Klass(0.6, 0.3), *KINDS]
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(unmasks))]
    alone = [
        Engine(model, chosen, unmask=unmask).generate(prompt).tokens
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    # More prompts than slots: others take the slots of those that leave, which it must forget.
    engine = Engine(model, chosen, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask)
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    assert [h.result().tokens for h in handles] == alone


@pytest.mark.parametrize("unmask", KINDS, ids=repr)
@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("block_length", [7, 12, 24])
def test_what_is_recorded_is_replayed(unmask: SlowFast, cache: str, block_length: int) -> None:
    settings = LONG.replace(unmask=unmask, cache=cache, skip=LOW, block_length=block_length)
    run = record(settings, 3).records[0]
    rule = CommitRule.of(run)
    assert rule is not None
    assert [rule.commits(step) for step in run.steps] == [s.committed for s in run.steps]


def test_a_cut_filling_sees_nothing_right_of_its_region() -> None:
    unmask = SlowFast(0.9, 2, 0.6, cut=True)
    steps = steps_of(unmask)
    assert any(cut_at(step) is not None for step in steps)
    for before, step in pairwise(steps):
        end = cut_at(step)
        if end is None:
            continue
        # It is not the first of its block, and commits left of the cut, where masks were left.
        assert step.step > 2
        assert step.block == before.block
        assert max(step.committed) < end
        left = np.setdiff1d(before.candidates.position, before.committed)
        assert (left < end).any()
    assert all(cut_at(step) is None for step in steps_of(replace(unmask, cut=False)))


def test_an_error_of_what_it_sees_ends_those_who_share_it() -> None:
    select = _Cycles.select

    def spoils(self: _Cycles, scores: Scores, context: StepContext) -> Tensor:
        chosen_BG = select(self, scores, context)
        del self.sees_B1
        return chosen_BG

    engine = Engine(uneven_model(1), LONG)
    goes_on = engine.submit(prompt_of(1, 5), unmask=Threshold(0.9))
    with patch.object(_Cycles, "select", spoils):
        handle = engine.submit(prompt_of(1, 5), unmask=KINDS[1])
        with pytest.raises(PolicyError, match="sees_B1"):
            handle.result()
    alone = Engine(uneven_model(1), LONG, unmask=Threshold(0.9)).generate(prompt_of(1, 5))
    assert goes_on.result().tokens == alone.tokens


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ("slow_fast:explore=2,reach=0.6", "slow_fast:explore=2,reach=0.6,cut=true", "unmask.cut"),
        ("klass:value=0.6,drift=0.3", "klass:value=0.6,drift=0.05", "unmask.drift"),
    ],
)
def test_a_setting_of_what_remembers_is_named(one: str, other: str, named: str) -> None:
    case = case_of(LONG.replace(unmask=one), LONG.replace(unmask=other))
    cause = diagnose(case).cause
    assert cause is not None
    assert cause.rule == "commit-rule"
    assert named in str(cause.evidence)


@pytest.mark.parametrize(
    "wrong",
    ["value=1.5", "reach=-1", "explore=0", "window=0", "spread=-1", "spread=inf", "spread=nan"],
)
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"slow_fast {wrong.partition('=')[0]}"):
        Settings(unmask=f"slow_fast:{wrong}")
