"""Records say what happened, and comparisons name the first decision that differs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from skipstone import (
    ConfigError,
    CosineSkip,
    DualCache,
    Engine,
    Fixed,
    NoCache,
    Settings,
    Threshold,
    diagnose,
)
from skipstone.canvas import Status
from skipstone.cli.decisions import both_sides
from skipstone.cli.tokens import Tokens
from skipstone.diff import Divergence, compare
from skipstone.diff.compare import first_apart
from skipstone.models.load import Model
from skipstone.record import Candidate, MemoryTrace, RunRecord, Tap, TensorKey
from skipstone.testing.tiny import tiny_model
from skipstone.tracing import Recorder

PROMPT = [5, 9, 2, 30, 7]
BASE = Settings(unmask=Threshold(0.3), gen_length=40, block_length=16, eos_stop=False)
SKIP = CosineSkip(skip_layer_k=3, skip_threshold=0.9, skip_outlier=0.2)


def record(model: Model, settings: Settings) -> RunRecord:
    recorder = Recorder()
    Engine(model, settings).generate(PROMPT, observer=recorder)
    return recorder.records[0]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(1)


def test_a_record_replays_to_the_answer(model: Model) -> None:
    run = record(model, BASE.replace(skip=SKIP))
    ids = [model.config.mask_id] * 40
    for step in run.steps:
        assert list(step.ids_before) == ids
        for candidate in step.candidates:
            if candidate.committed:
                ids[candidate.position - len(PROMPT)] = candidate.token
        assert list(step.ids_after) == ids
    assert run.outcome is not None
    assert tuple(ids) == run.tokens == run.outcome.tokens
    assert run.outcome.num_forwards == len(run.steps)


def test_a_record_has_every_quantity_of_a_hand_made_trace(model: Model) -> None:
    run = record(model, BASE.replace(skip=SKIP))
    judged = [(step, step.judgements) for step in run.steps if step.judgements is not None]
    assert judged
    for step, judgements in judged:
        assert step.masks_before - step.masks_after == len(step.committed)
        assert np.array_equal(np.sort(judgements.position), np.sort(step.rows))
        assert np.array_equal(judgements.reference_position, judgements.position)
        assert (judgements.reference_forward < step.forward).all()
        skipped = judgements.position[judgements.skipped]
        assert np.array_equal(np.sort(skipped), np.sort(step.skipped))
        assert judgements.similarity.shape == (len(judgements), SKIP.skip_layer_k - 1)
        assert np.array_equal(judgements.smallest, judgements.similarity.min(1))
        assert judgements.mean == pytest.approx(judgements.similarity.mean(1), abs=1e-12)
        stable = judgements.smallest >= SKIP.skip_outlier
        stable &= judgements.mean > SKIP.skip_threshold
        assert np.array_equal(judgements.stable, stable)
        assert step.skip_layer == (SKIP.skip_layer_k if step.skipped else 0)
    assert any(step.skipped for step, _ in judged)


def test_logits_of_a_trace_give_its_tokens_and_confidences(model: Model) -> None:
    recorder = Recorder("full")
    Engine(model, BASE).generate(PROMPT, observer=recorder)
    for step in recorder.records[0].steps:
        key = TensorKey(step.forward, Tap.LOGITS, model.config.num_layers)
        logits = recorder.trace.tensor(0, key)
        assert logits is not None
        assert set(logits.positions) == {c.position for c in step.candidates if c.age == 0}
        for candidate in step.candidates:
            row = logits.at(np.array([candidate.position]))[0]
            probability = np.exp(row - row.max())
            probability /= probability.sum()
            probability[model.config.mask_id] = 0
            assert int(probability.argmax()) == candidate.token
            assert probability.max() == pytest.approx(candidate.confidence, abs=1e-5)
            second = float(np.sort(probability)[-2])
            assert candidate.margin == pytest.approx(candidate.confidence - second, abs=1e-5)


def test_ages_count_forwards_since_a_row_was_computed(model: Model) -> None:
    run = record(model, BASE.replace(skip=SKIP))
    last_entered = [-1] * (len(PROMPT) + 40)
    last_finished = list(last_entered)
    for step in run.steps:
        for position in step.rows:
            last_entered[position] = step.forward
        for position in step.finished:
            last_finished[position] = step.forward
        assert list(step.entered_age) == [step.forward - at for at in last_entered]
        assert list(step.finished_age) == [step.forward - at for at in last_finished]
    assert any(step.skipped for step in run.steps)


def test_the_same_run_twice_is_identical(model: Model) -> None:
    pair = compare(record(model, BASE), record(model, BASE))
    assert pair.identical
    assert pair.first is None
    assert pair.differing_positions == ()


def test_threshold_one_is_no_skip(model: Model) -> None:
    never = dataclasses.replace(SKIP, skip_threshold=1.0)
    pair = compare(record(model, BASE), record(model, BASE.replace(skip=never)))
    assert pair.identical
    # The control: the same rule with a threshold that can be passed does part.
    assert not compare(record(model, BASE), record(model, BASE.replace(skip=SKIP))).identical


def test_the_first_divergence_is_the_first_step_with_other_commits(model: Model) -> None:
    a, b = record(model, BASE), record(model, BASE.replace(cache=NoCache(), unmask=Threshold(0.6)))
    first = compare(a, b).first
    assert first is not None
    pairs = [(x, y) for x, y in zip(a.steps, b.steps, strict=False)]
    index = next(i for i, (x, y) in enumerate(pairs) if (x.ids_after != y.ids_after).any())
    step = pairs[index][0]
    assert (first.block, first.step) == (step.block, step.step)
    assert first.position in set(first.committed_a) ^ set(first.committed_b)
    assert first.kind == "committed_set"


def test_another_token_at_the_same_place_is_named_as_such(model: Model) -> None:
    a = record(model, BASE)
    at = next(i for i, step in enumerate(a.steps) if step.committed)
    place = a.steps[at].committed[0]
    table = a.steps[at].candidates
    other = np.where(table.position == place, table.token + 1, table.token)
    candidates = dataclasses.replace(table, token=other)
    steps = list(a.steps)
    steps[at] = dataclasses.replace(steps[at], candidates=candidates)
    first = compare(a, dataclasses.replace(a, steps=tuple(steps))).first
    assert first is not None
    assert (first.kind, first.position) == ("token", place)


def test_a_run_that_ends_before_the_other_is_a_stop(model: Model) -> None:
    a = record(model, BASE)
    shorter = dataclasses.replace(a, steps=a.steps[:-1])
    first = compare(a, shorter).first
    assert first is not None
    assert first.kind == "stop"
    assert (first.block, first.step) == (a.steps[-1].block, a.steps[-1].step)
    assert first.committed_b == ()


def test_runs_of_different_lengths_differ_where_only_one_has_tokens(model: Model) -> None:
    pair = compare(record(model, BASE), record(model, BASE.replace(gen_length=32)))
    assert set(range(len(PROMPT) + 32, len(PROMPT) + 40)) <= set(pair.differing_positions)
    assert not pair.identical


def test_runs_of_different_prompts_are_refused(model: Model) -> None:
    recorder = Recorder()
    Engine(model, BASE).generate([1, 2, 3], observer=recorder)
    with pytest.raises(ConfigError, match="different prompts"):
        compare(record(model, BASE), recorder.records[0])


def test_json_positions_are_indices_into_tokens(model: Model) -> None:
    a, b = record(model, BASE), record(model, BASE.replace(skip=SKIP, unmask=Fixed()))
    plain = compare(a, b).as_json()
    differing = [i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=True)) if x != y]
    assert plain["differing_positions"] == differing
    first = plain["first"]
    assert isinstance(first, dict)
    assert first["canvas_position"] == first["position"] + len(PROMPT)


def candidate(confidence: float, bound: float | None, margin: float) -> Candidate:
    return Candidate(
        7, 3, confidence, 4, margin, 0, bound, None, None, 0, eligible=True, committed=True
    )


def test_numbers_of_both_sides_that_differ_do_not_look_the_same() -> None:
    a, b = candidate(1 - 3.1e-9, 1 - 3.3e-9, 1 - 4e-9), candidate(1 - 3.2e-9, 0.9, 1 - 5e-9)
    first = Divergence(0, 0, 7, "committed_set", a, b, (7,), ())
    lines = list(both_sides(first, Tokens(None, ids=True)))
    assert lines == [
        "   A  commits id 3, confidence 1 - 3.1e-9 against 1 - 3.3e-9, margin 1 - 4e-9 before id 4",
        "   B  commits id 3, confidence 1 - 3.2e-9 against 0.9, margin 1 - 5e-9 before id 4",
    ]
    alone = dataclasses.replace(first, b=None)
    assert list(both_sides(alone, Tokens(None, ids=True)))[1].endswith(
        "no scores for it in this step"
    )


def test_each_request_of_a_batch_has_the_record_it_has_alone(model: Model) -> None:
    recorder = Recorder()
    settings = BASE.replace(skip=SKIP, cache=DualCache())
    prompts = [PROMPT, [8] * 12, [1, 2]]
    Engine(model, settings).generate_batch(prompts, observer=recorder)
    pair = compare(recorder.records[0], record(model, settings))
    assert pair.identical
    together, alone = recorder.records[0].steps, record(model, settings).steps
    assert [s.skipped for s in together] == [s.skipped for s in alone]
    assert all(
        Status.PAD not in s.status_after and np.array_equal(s.rows, t.rows)
        for s, t in zip(together, alone, strict=True)
    )


def test_of_a_batch_the_first_request_that_parts_is_looked_at(model: Model) -> None:
    def batch(*runs: RunRecord) -> MemoryTrace:
        trace = MemoryTrace()
        trace.begin([run.header for run in runs], "decisions")
        for number, run in enumerate(runs):
            for step in run.steps:
                trace.step(number, step, {})
        trace.end([run.outcome for run in runs if run.outcome is not None])
        return trace

    slow, fast = record(model, BASE.replace(unmask=Fixed())), record(model, BASE)
    a, b = batch(slow, slow, slow), batch(slow, slow, fast)
    assert compare(a, b).first == compare(slow, fast).first is not None
    assert compare(a, b, sample=1).identical
    found = diagnose(a, b)
    assert found.parted
    assert str(found.cause) == str(diagnose(slow, fast).cause)
    assert diagnose(a, b, sample=0).cause is None
    assert first_apart(a, a) == 0
