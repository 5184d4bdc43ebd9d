"""KLASS: how far distributions move, against a literal twin, and what is committed for it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import Engine, PolicyError, Settings, Threshold, TraceWriter
from skipstone.canvas import StepContext
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.engine.observe import StepView, Taps
from skipstone.engine.score.drift import Distributions
from skipstone.engine.score.scorer import Scorer
from skipstone.record import Tap, TensorKey, open_trace
from skipstone.tracing import Recorder
from skipstone.unmask import Entropy, Fixed, Klass, MaskLogits, Need, Scores
from tests.helpers.recorded import record
from tests.helpers.watching import BASE, LOW, Looking, prompt_of, uneven_model

KLASS = [Klass(0.3, 0.3), Klass(0.3, 0.05, 1), Klass(0.3, 0.3, 2, "best"), Klass(0.6, 1.0, 3)]


def divergence(now_V: np.ndarray, before_V: np.ndarray | None) -> float:
    """As published: of all numbers, with the tiny one in both logarithms."""

    def softmax(logits_V: np.ndarray) -> np.ndarray:
        raised_V = np.exp(logits_V.astype(np.float64) - logits_V.max())
        return raised_V / raised_V.sum()

    p_V = softmax(now_V)
    q_V = np.zeros_like(p_V) if before_V is None else softmax(before_V)
    return float((p_V * (np.log(p_V + 1e-12) - np.log(q_V + 1e-12))).sum())


@pytest.mark.parametrize("cache", ["none", "dual", "prefix:refresh_every=2"])
def test_the_drift_is_the_divergence_from_the_distribution_before(cache: str) -> None:
    settings = BASE.replace(unmask=KLASS[0], cache=cache)
    recorder = Recorder("full")
    Engine(uneven_model(1), settings).generate(prompt_of(1, 5), observer=recorder)
    before = dict[int, np.ndarray]()
    compared = 0
    for step in recorder.records[0].steps:
        rows = recorder.trace.tensor(0, TensorKey(step.forward, Tap.LOGITS, 4))
        assert rows is not None
        for position, logits_V in zip(
            rows.positions.tolist(), rows.at(rows.positions), strict=True
        ):
            candidate = step.candidates.at(position)
            assert candidate is not None
            assert candidate.drift is not None
            # Masks right of a block are seen before it begins, where their rows are computed.
            if step.step > 0 or step.block == 0:
                expected = divergence(logits_V, before.get(position))
                assert candidate.drift == pytest.approx(expected, rel=1e-4, abs=1e-6)
                compared += 1
            before[position] = logits_V
    assert compared > 30


def test_a_block_begins_with_distributions_that_are_known() -> None:
    def first_drifts(cache: str) -> np.ndarray:
        steps = record(BASE.replace(unmask=KLASS[0], cache=cache)).records[0].steps
        return np.concatenate([s.candidates.drift for s in steps if s.step == 0 and s.block > 0])

    # Nothing was known: about the logarithm of the tiny number.
    assert (first_drifts("none") < 10).all()
    with patch.object(Scorer, "_look_ahead"):
        assert (first_drifts("none") > 20).all()


def masks(logits_NV: Tensor, taken_N: Tensor | None = None) -> MaskLogits:
    at_N = torch.arange(len(logits_NV))
    return MaskLogits(logits_NV, torch.zeros_like(at_N), at_N, taken_N, 3)


def test_what_is_not_taken_does_not_count_and_what_left_is_forgotten() -> None:
    torch.manual_seed(0)
    kept = Distributions(torch.zeros(1, 4), 11)
    first_NV, second_NV = torch.randn(2, 4, 11)
    anew_N = kept.moved(masks(first_NV))
    assert (anew_N > 20).all()
    kept.moved(masks(torch.full_like(first_NV, torch.nan), torch.zeros(4, dtype=torch.bool)))
    moved_N = kept.moved(masks(second_NV))
    wanted = [divergence(a.numpy(), b.numpy()) for a, b in zip(second_NV, first_NV, strict=True)]
    assert moved_N.tolist() == pytest.approx(wanted, rel=1e-5)
    # A distribution that stays is rounded to nothing.
    assert kept.moved(masks(second_NV)).abs().max() < 1e-6
    kept.forget(0)
    assert torch.equal(kept.moved(masks(first_NV)), anew_N)


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(1)
    chosen = Settings(gen_length=18, block_length=6, eos_stop=False, skip=skip)
    unmasks = [*KLASS, Threshold(0.7), Entropy(2), *KLASS]
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(unmasks))]
    alone = [
        Engine(model, chosen, unmask=unmask).generate(prompt)
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    # More prompts than slots: others take the slots of those that leave, which it must forget.
    engine = Engine(model, chosen, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask)
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    assert [h.result().tokens for h in handles] == [one.tokens for one in alone]
    # Control: some steps commit several, as no schedule does here.
    assert any(one.stats.num_forwards < 18 for one in alone[:4])


@pytest.mark.parametrize("unmask", KLASS, ids=repr)
@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("steps", [None, 9])
def test_what_is_recorded_is_replayed(unmask: Klass, cache: str, steps: int | None) -> None:
    settings = BASE.replace(unmask=unmask, cache=cache, skip=LOW)
    if steps is not None:
        settings = settings.replace(steps=steps)
    run = record(settings).records[0]
    rule = CommitRule.of(run)
    assert rule is not None
    assert [rule.commits(step) for step in run.steps] == [s.committed for s in run.steps]


def test_the_rule_is_the_literal_one() -> None:
    run = record(BASE.replace(unmask=Klass(0.3, 0.3, 2))).records[0]
    stable = dict[int, int]()
    by_rule = 0
    for step in run.steps:
        stable = {} if step.step == 0 else stable
        ready, best = list[int](), (-1.0, 0)
        for c in step.candidates:
            assert c.drift is not None
            stable[c.position] = stable.get(c.position, 0) + 1 if c.drift < 0.3 else 0
            best = max(best, (c.confidence, -c.position))
            if c.confidence > 0.3 and stable[c.position] >= 2:
                ready.append(c.position)
        assert step.committed == tuple(ready or [-best[1]])
        by_rule += len(ready) > 1
    assert by_rule > 1


def test_distributions_are_kept_where_somebody_asks_and_nowhere_else() -> None:
    with patch.object(Distributions, "__init__", side_effect=AssertionError("somebody asked")):
        for unmask in (Threshold(0.7), Fixed(), Entropy()):
            steps = record(BASE.replace(unmask=unmask)).records[0].steps
            assert all(np.isnan(step.candidates.drift).all() for step in steps)
        with pytest.raises(PolicyError, match="somebody asked"):
            record(BASE.replace(unmask=Klass()))


def test_a_trace_on_disk_has_the_drift_and_an_older_one_has_no_rule(tmp_path: Path) -> None:
    path = tmp_path / "klass.trace"
    settings = BASE.replace(unmask=KLASS[0])
    Engine(uneven_model(1), settings).generate(
        prompt_of(1, 5), observer=Recorder(sink=TraceWriter(path))
    )
    (run,) = open_trace(path).records
    rule = CommitRule.of(run)
    assert rule is not None
    assert [rule.commits(step) for step in run.steps] == [s.committed for s in run.steps]
    nothing = [
        replace(s, candidates=replace(s.candidates, drift=np.full(len(s.candidates), math.nan)))
        for s in run.steps
    ]
    assert CommitRule.of(replace(run, steps=tuple(nothing))) is None


def test_scores_of_a_batch_tell_the_drift_to_those_who_asked() -> None:
    seen = list[tuple[bool, bool]]()
    select = Threshold.select

    def look(self: Threshold, scores: Scores, context: StepContext) -> Tensor:
        seen.append((scores.drift is None, scores.entropy is None))
        return select(self, scores, context)

    def tables(view: StepView) -> None:
        board = view.board.copy()
        assert view.board.drift_BG is not None
        assert board.drift_BG is not None
        assert torch.equal(board.drift_BG.isnan(), view.board.drift_BG.isnan())

    with patch.object(Threshold, "select", look):
        engine = Engine(uneven_model(1), BASE)
        engine.submit(prompt_of(1, 5), unmask=KLASS[0])
        engine.submit(prompt_of(1, 5), unmask=Threshold(0.7)).result()
    assert set(seen) == {(True, True)}
    watcher = Looking(tables, Taps())
    Engine(uneven_model(1), BASE.replace(unmask=KLASS[0])).generate(
        prompt_of(1, 5), observer=watcher
    )
    assert watcher.ended
    assert Need.DRIFT in KLASS[0].needs


@pytest.mark.parametrize(
    "wrong", ["value=1.5", "value=-1", "drift=0", "drift=-1", "drift=inf", "drift=nan", "history=0"]
)
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"klass {wrong.partition('=')[0]}"):
        Settings(unmask=f"klass:{wrong}")
