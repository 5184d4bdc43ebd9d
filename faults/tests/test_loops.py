"""The commit rule of a loop, found from what was recorded of its decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, pairwise

import numpy as np
import pytest
import torch

from faults import loop_faults as faults
from faults.cases import SPECIMENS
from faults.engine.instead import Fault, instead
from faults.foreign import (
    JOBS,
    PARALLEL,
    THEIR_SKIP,
    Against,
    Encounter,
    Recorded,
    Stranger,
    record,
    run,
)
from faults.foreign_cases import FAULTY
from faults.foreign_code import STYLES, Job, Style, model, plain
from faults.foreign_loops import FAULTY_LOOPS
from faults.tests.strangers import named, one_style_each
from faults.trial import Outcome, Trial
from faults.trial import run as run_specimen
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Proof
from skipstone.diagnosis.loop import identified
from skipstone.diagnosis.loop.fit import Fit
from skipstone.diagnosis.loop.number import shares
from skipstone.diagnosis.loop.rule import ValueRange
from skipstone.foreign.attach.attach import attach
from skipstone.record import RANDOM_CALLS, MemoryTrace
from skipstone.testing.tiny import EOS, MASK
from specimens import decode

RULES: dict[str, Fault] = {
    "probability": faults.chosen_by(faults.probability),
    "positions": faults.over_positions,
    "margin": faults.by_margin,
    "entropy": faults.by_entropy,
    "left": faults.from_the_left,
    "EOS raised": faults.eos_raised,
    "shifted": faults.shifted,
    "chance": faults.by_chance,
    "warm": faults.warm,
}


def decoding(
    prompt: tuple[int, ...], gen_length: int, block_length: int, threshold: float | None
) -> Job:
    return Job(prompt, gen_length, block_length, threshold, THEIR_SKIP, MASK, EOS)


def first_that_acts(stranger: Stranger) -> tuple[Encounter, Outcome]:
    for job in stranger.jobs:
        trial = Encounter(stranger, job, "code", reference=False)
        found = run(trial)
        if found.acted:
            return trial, found
    raise AssertionError(f"{named(stranger)} acts on no job")


def watched(style: Style, fault: Fault, threshold: float | None, dtype: torch.dtype) -> MemoryTrace:
    job = (JOBS if threshold is None else PARALLEL)[0]
    net = STYLES[style](model("random")).to(dtype)
    stated = {"block_length": job.block_length}
    watcher = attach(net, mask_id=job.mask_id, eos_id=job.eos_id, level="full", stated=stated)
    with fault(), watcher:
        plain(net, job)
    return watcher.trace


def best(trace: MemoryTrace) -> Fit:
    found = identified(trace, 0).best
    assert found is not None
    return found


@pytest.mark.parametrize("stranger", one_style_each(FAULTY_LOOPS))
def test_a_fault_of_a_loop_is_named_with_its_step_and_position(stranger: Stranger) -> None:
    _, found = first_that_acts(stranger)
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


def styles_and_pairings() -> Iterator[object]:
    """Every fault in every style, beside our engine and beside right code in turn.

    ``make test-long`` asks for both.
    """
    for turn, stranger in enumerate(FAULTY_LOOPS):
        for number, against in enumerate(stranger.against):
            now = len(stranger.against) == 1 or (turn + number) % 2 == 0
            name = f"{named(stranger)}-{against}"
            marks = () if now else pytest.mark.long
            yield pytest.param(stranger, against, id=name, marks=marks)


@pytest.mark.parametrize(("stranger", "against"), list(styles_and_pairings()))
def test_a_quick_guard_of_the_bench(stranger: Stranger, against: Against) -> None:
    """At the last of its jobs at which it acts, from the traces alone."""
    trials = (Encounter(stranger, job, against, reference=False) for job in stranger.jobs[::-1])
    found = next(outcome for outcome in map(run, trials) if outcome.acted)
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


@pytest.mark.parametrize("job", JOBS[1:3], ids=["the mask alone is summed", "EOS is always best"])
def test_an_id_that_always_loses_is_named_as_left_out(job: Job) -> None:
    """Rows that are shifted may explain more tokens than the own ones, with that id in the draw."""
    stranger = next(s for s in FAULTY_LOOPS if named(s) == "llada-EOS suppressed")
    runs = record(Encounter(stranger, job, "engine", reference=False))
    cause = runs.diagnosis().cause
    assert cause is not None
    assert cause.rule == "commit-rule"
    assert str(cause.what) == f"B never takes token {EOS}, A does"
    assert cause.proof is Proof.NECESSARY_AND_SUFFICIENT


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fault", ["EOS suppressed", "threshold passed, not reached"])
def test_scores_that_are_all_but_certain_are_told_to_the_last_digit(fault: str, style: str) -> None:
    stranger = next(s for s in FAULTY_LOOPS if named(s) == f"{style}-{fault}")
    found = run(Encounter(stranger, stranger.jobs[0], "engine"))
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


@pytest.mark.parametrize("reference", [True, False], ids=["with-model", "without"])
def test_a_stated_threshold_is_the_one_that_was_meant(reference: bool) -> None:
    """Both runs leave room for a common one, where a confidence of A lies above what it states."""
    stranger = next(s for s in FAULTY_LOOPS if named(s) == "bare-EOS raised")
    trial = Encounter(stranger, stranger.jobs[0], "engine", reference)
    found = run(trial)
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found
    identified_a = identified(record(trial).a, 0)
    assert {fit.rule.selection.value for fit in identified_a.complete} == {ValueRange(0.5, 0.5)}


@pytest.mark.parametrize("style", STYLES)
def test_a_threshold_that_was_changed_is_repaired_with_the_right_one(style: str) -> None:
    stranger = next(s for s in FAULTY_LOOPS if named(s) == f"{style}-threshold changed")
    runs = record(first_that_acts(stranger)[0])
    cause = runs.diagnosis().cause
    assert cause is not None
    assert cause.proof is Proof.NECESSARY_AND_SUFFICIENT
    assert "threshold >= 0.5" in cause.remedy
    b = best(runs.b).rule.selection
    assert b.number == "at least"
    assert 0.3 in b.value


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("name", RULES)
def test_two_loops_with_one_rule_are_not_told_apart(name: str, threshold: float | None) -> None:
    """Their forwards differ by rounding, so that their decisions part."""
    exact = watched("bare", RULES[name], threshold, torch.float64)
    coarse = watched("hf", RULES[name], threshold, torch.bfloat16)
    case = Case(exact, coarse)
    assert case.loops.difference is None


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        ("probability", "kind", "probability"),
        ("positions", "axis", "rows"),
        ("margin", "kind", "margin"),
        ("entropy", "kind", "entropy"),
        ("left", "kind", "left to right"),
    ],
)
def test_the_order_of_a_loop_is_found(name: str, part: str, value: str) -> None:
    found = best(watched("bare", RULES[name], None, torch.float64))
    assert found.complete
    assert getattr(found.rule.confidence, part) == value


def test_an_id_that_is_never_taken_may_be_in_the_softmax() -> None:
    def best_but_eos(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., EOS] = -torch.inf
        return logits.argmax(-1)

    stranger = next(s for s in FAULTY_LOOPS if named(s) == "bare-EOS suppressed")
    fault = faults.chosen_by(faults.probability, draw=best_but_eos)
    trial, found = first_that_acts(replace(stranger, fault=fault))
    assert found.cause_right
    draw = best(record(trial).b).rule.draw
    assert draw.greedy
    assert EOS in draw.without


def test_a_quota_may_be_that_of_the_whole_canvas() -> None:
    def share(canvas: torch.Tensor, start: int, stop: int, mask_id: int, left: int) -> int:
        return -(-int((canvas == mask_id).sum()) // max(1, left))

    with instead(decode, "share_of", share):
        found = best(watched("bare", RULES["probability"], None, torch.float64))
    assert found.complete
    assert found.rule.selection.of_canvas
    assert found.rule.predicts


def test_numbers_that_no_schedule_gives_are_said_to_be_such() -> None:
    numbers = cycle((1, 3, 1, 1, 2))

    def share(canvas: torch.Tensor, start: int, stop: int, mask_id: int, left: int) -> int:
        return next(numbers)

    with instead(decode, "share_of", share):
        found = best(watched("bare", RULES["probability"], None, torch.float64))
    assert (found.complete, found.rule.selection.number) == (True, "some")


def test_a_rule_that_nobody_tried_is_said_to_be_unknown() -> None:
    def odd(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return torch.sin(1000 * logits.double().logsumexp(-1))

    stranger = next(s for s in FAULTY_LOOPS if named(s) == "bare-order by margin")
    strange = replace(stranger, fault=faults.chosen_by(odd), jobs=JOBS[3:])
    found = record(first_that_acts(strange)[0]).diagnosis()
    assert found.cause is None
    assert "none of" in found.known
    assert "explains B" in found.known
    assert "B's scores decided by A's rule: A's commits" in found.known


def test_without_logits_the_candidates_are_enough_for_a_plain_rule() -> None:
    full = watched("bare", RULES["probability"], 0.5, torch.float64)
    plainer = MemoryTrace()
    plainer.begin([full.records[0].header], "decisions")
    for step in full.records[0].steps:
        plainer.step(0, step, {})
    found = best(plainer)
    assert found.complete
    assert found.rule.selection.number == "at least"
    assert 0.5 in found.rule.selection.value


def test_scores_that_differ_are_no_matter_of_the_loop() -> None:
    stranger = next(s for s in FAULTY_LOOPS if named(s) == "bare-order by margin")
    runs: Recorded = record(first_that_acts(stranger)[0])
    b = MemoryTrace()
    record_b = runs.b.records[0]
    b.begin([record_b.header], "full")
    for step in record_b.steps:
        keys = (k for k in runs.b.keys(0) if k.forward == step.forward)
        rows = {key: runs.b.tensor(0, key) for key in keys}
        moved = {k: (t.positions, t.values * 1.5) for k, t in rows.items() if t is not None}
        b.step(0, step, moved)
    assert Case(runs.a, runs.b).loops.difference is not None
    assert Case(runs.a, b).loops.difference is None


HELD_OUT = [
    # A scores no more than its block; B is through in one step; in two steps.
    ("hf-commits beyond the block", "engine", decoding((14, 14, 21, 35, 6), 18, 6, 0.5)),
    ("bare-commits beyond the block", "code", decoding((14, 14, 21, 35, 6), 18, 6, 0.5)),
    (
        "llada-commits beyond the block",
        "engine",
        decoding((27, 18, 28, 18, 28, 45, 9, 5, 2), 18, 6, 0.5),
    ),
    # B turns back to a block that it did not leave because its steps were up.
    ("llada-commits beyond the block", "engine", decoding((39, 37, 8, 26, 6, 24, 8), 8, 4, None)),
    # Only one of the runs shows what is done about the mask.
    (
        "bare-commits beyond the block",
        "code",
        decoding((35, 10, 7, 39, 32, 10, 37, 26, 41), 24, 8, 0.4),
    ),
    # All tokens are the best of their rows; and tokens of other rows that were as likely.
    (
        "llada-temperature not zero",
        "code",
        decoding((27, 18, 28, 18, 28, 45, 9, 5, 2), 16, 8, None),
    ),
    ("hf-temperature not zero", "engine", decoding((14, 14, 21, 35, 6), 16, 8, None)),
    ("hf-temperature not zero", "code", decoding((3, 1, 4, 1, 5, 9, 2), 18, 6, 0.5)),
]


@pytest.mark.parametrize(("name", "against", "job"), HELD_OUT)
@pytest.mark.parametrize(
    "reference",
    [
        pytest.param(True, id="with-model", marks=pytest.mark.long),
        pytest.param(False, id="without"),
    ],
)
def test_a_fault_is_named_at_other_settings(
    name: str, against: Against, job: Job, reference: bool
) -> None:
    stranger = next(s for s in FAULTY_LOOPS if named(s) == name)
    found = run(Encounter(stranger, job, against, reference))
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "not stated"])
@pytest.mark.parametrize(
    ("style", "job"),
    [
        ("bare", decoding((3, 1, 4, 1, 5, 9, 2), 18, 6, 0.5)),
        ("llada", decoding((8, 41, 13, 39), 20, 10, 0.7)),
        ("bare", decoding((7, 27, 5, 7, 27), 30, 10, 0.6)),
    ],
)
def test_a_threshold_is_no_odd_number_where_another_dtype_explains_as_much(
    style: str, job: Job, stated: bool
) -> None:
    """A threshold is compared in the dtype of the confidence: 0.7 is 0.69921875 in bfloat16."""
    stranger = next(s for s in FAULTY if named(s) == f"{style}-confidence in bfloat16")
    stranger = stranger if stated else replace(stranger, stated=lambda job: {})
    found = run(Encounter(stranger, job, "engine", reference=False))
    assert (found.verdict, found.step_right, found.place_right) == ("confidence-dtype", True, True)
    # Control: another threshold that somebody would choose is one.
    changed = next(s for s in FAULTY_LOOPS if named(s) == f"{style}-threshold changed")
    found = run(Encounter(changed, job, "engine", reference=False))
    assert found.verdict == "commit-rule"


def test_what_a_loop_draws_over_is_recorded() -> None:
    traces = (watched("bare", RULES[name], None, torch.float64) for name in ("probability", "warm"))
    plainly, drawn = (trace.records[0].header for trace in traces)
    assert plainly.environment[RANDOM_CALLS] == "none"
    rows = len(plainly.prompt_ids) + plainly.gen_length
    assert drawn.environment[RANDOM_CALLS] == f"rand:1x{rows}x{drawn.vocab_size}"
    states = [drawn.environment[f"random {when}"] for when in ("before", "after")]
    assert states[0] == states[1], "it has a generator of its own"


def test_our_own_confidences_are_of_no_dtype_that_does_not_hold_them() -> None:
    """Left to right, as ties of a coarse dtype fall; but the record has the confidences."""
    leftmost = next(s for s in SPECIMENS if s.name == "leftmost first")
    prompt = "Question: Tell me about William Harvey."
    found = run_specimen(Trial(leftmost, prompt, leftmost.pairs[0], alone=True))
    assert (found.verdict, found.step_right, found.place_right) == ("reveal-order", True, True)


def test_schedules_commit_every_mask_once() -> None:
    for number in ("remainder first", "remainder last", "rounded share", "timesteps", "cosine"):
        for steps in range(1, 12):
            assert sum(shares(number, 9, steps)) == 9, (number, steps)
    assert shares("remainder first", 8, 3) == [3, 3, 2]
    assert shares("remainder last", 8, 3) == [2, 3, 3]
    # Halves are rounded to the even number, of shares that are held in float32.
    assert shares("rounded share", 12, 8) == [2, 1] * 4


def test_intervals_meet() -> None:
    reached, passed = ValueRange(0.5, 1.0, low_included=False), ValueRange(0.2, 0.5)
    assert reached.meet(passed).empty
    assert 0.5 in passed
    assert 0.5 not in reached
    met = ValueRange(0.0, 0.9).meet(ValueRange(0.5, 1.0, high_included=False))
    assert (met.low, met.high, met.high_included) == (0.5, 0.9, True)
    edges = np.linspace(0, 1, 5)
    for low, high in pairwise(edges):
        assert (low + high) / 2 in ValueRange(float(low), float(high))
