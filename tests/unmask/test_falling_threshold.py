"""The falling threshold of Streaming-dLLM: its formula in every step, alone and in batches."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from skipstone import ConfigError, Engine, Settings, Threshold
from skipstone.cache import CachePolicy
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.record import RunRecord
from skipstone.unmask import FallingThreshold
from tests.helpers.recorded import case_of, record
from tests.helpers.watching import BASE, CACHES, LOW, prompt_of, uneven_model

LONG = BASE.replace(gen_length=24, block_length=8)


def literal(run: RunRecord, value: float, alpha: float, window: int | None) -> list[set[int]]:
    """What each step commits by the published formula, written down once more."""
    wanted = list[set[int]]()
    for step in run.steps:
        start = step.prompt_length
        end = run.length if window is None else min(run.length, step.block_stop + window)
        masks = [step.masked[p - start] for p in range(step.block_start, end)]
        bar = value * (1.0 - alpha * (1 - sum(masks) / len(masks)))
        sure = dict(
            zip(step.candidates.position.tolist(), step.candidates.allowed.tolist(), strict=True)
        )
        best = max(sure, key=lambda p: (sure[p], -p))
        wanted.append({p for p, confidence in sure.items() if confidence >= bar} | {best})
    return wanted


@pytest.mark.parametrize("kept", CACHES, ids=repr)
@pytest.mark.parametrize("window", [None, 0, 3, 8])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_each_step_commits_by_the_published_formula(
    kept: CachePolicy, window: int | None, alpha: float
) -> None:
    settings = LONG.replace(unmask=FallingThreshold(0.9, alpha), cache=kept, suffix_window=window)
    run = record(settings).records[0]
    assert [set(step.committed) for step in run.steps] == literal(run, 0.9, alpha, window)
    rule = CommitRule.of(run)
    assert rule is not None
    assert [rule.commits(step) for step in run.steps] == [step.committed for step in run.steps]


def test_without_a_fall_it_is_the_threshold() -> None:
    mine, theirs = (
        Engine(uneven_model(1), LONG, unmask=unmask).generate(prompt_of(1, 5))
        for unmask in (FallingThreshold(0.6, 0.0), Threshold(0.6))
    )
    assert mine.tokens == theirs.tokens
    assert mine.stats.num_forwards == theirs.stats.num_forwards
    slow, fast = (
        Engine(uneven_model(1), LONG, unmask=FallingThreshold(1.0, alpha)).generate([5, 6])
        for alpha in (0.0, 1.0)
    )
    assert slow.stats.num_forwards == 24
    assert fast.stats.num_forwards < 24


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, cache: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(1)
    chosen = Settings(gen_length=24, block_length=8, eos_stop=False, skip=skip, cache=cache)
    kinds = [(0.9, 0.5, None), (0.9, 0.5, 3), (0.6, 1.0, 0), (0.9, 0.5, None), (0.6, 0.2, 5)]
    asked = [
        (prompt_of(n, 3 + 2 * n), FallingThreshold(value, alpha), window)
        for n, (value, alpha, window) in enumerate(kinds)
    ]
    alone = [
        Engine(model, chosen, unmask=unmask, suffix_window=window).generate(prompt).tokens
        for prompt, unmask, window in asked
    ]
    engine = Engine(model, chosen, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask, suffix_window=window)
        for prompt, unmask, window in asked
    ]
    assert [handle.result(60).tokens for handle in handles] == alone


def test_the_bound_of_a_record_is_that_of_each_step() -> None:
    run = record(LONG.replace(unmask=FallingThreshold(0.9, 0.5), suffix_window=3)).records[0]
    bounds = [
        float(np.unique(step.candidates.bound[step.candidates.eligible])[0]) for step in run.steps
    ]
    assert bounds[0] == 0.9
    assert min(bounds) < 0.9


def test_what_a_fall_commits_too_early_is_named_and_proved() -> None:
    mine, theirs = (LONG.replace(unmask=FallingThreshold(0.9, alpha)) for alpha in (0.0, 1.0))
    first = diagnose(case_of(mine, theirs)).findings[0]
    assert first.rule == "over-parallel"
    assert first.proof is Proof.NECESSARY_AND_SUFFICIENT


@pytest.mark.parametrize("wrong", [{"value": 2.0}, {"alpha": -0.1}, {"alpha": 1.5}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"falling_threshold .*between 0 and 1"):
        FallingThreshold(**wrong)
