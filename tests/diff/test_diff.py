"""The diff of two traces names the first decision, state and bit that differ, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from skipstone import ConfigError, CosineSkip, Engine, NoCache, Settings, Threshold
from skipstone.cli.diff import diff_command
from skipstone.diff import (
    Difference,
    Floor,
    align,
    compare,
    diff,
    estimated_floor,
    floor_from,
    states,
    tensor_pairs,
)
from skipstone.diff.margins import closeness
from skipstone.models.load import Model
from skipstone.record import (
    Candidates,
    MemoryTrace,
    Outcome,
    RunRecord,
    StepRecord,
    Tap,
    TensorKey,
    Trace,
    TraceWriter,
)
from skipstone.record.sketch import sketch_rows
from skipstone.testing.tiny import EOS, MASK, tiny_model
from skipstone.tracing import Recorder
from skipstone.tracing.record.recorder import Level
from tests.conftest import ROOT

PROMPT = [5, 9, 2, 30, 7]
BASE = Settings(unmask=Threshold(0.3), gen_length=24, block_length=12, eos_stop=False)
SKIP = CosineSkip(skip_layer_k=3, skip_threshold=0.9, skip_outlier=0.2)
SCHEMA = json.loads((ROOT / "docs" / "schema" / "diff.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(1)


@pytest.fixture(scope="module")
def full(model: Model) -> MemoryTrace:
    return recorded(model, BASE, "full")


def recorded(
    model: Model,
    settings: Settings,
    level: Level = "decisions",
    prompts: Sequence[Sequence[int]] = (PROMPT,),
) -> MemoryTrace:
    recorder = Recorder(level)
    Engine(model, settings).generate_batch(prompts, observer=recorder)
    return recorder.trace


def changed(
    trace: MemoryTrace, key: TensorKey, positions: np.ndarray, values: np.ndarray
) -> MemoryTrace:
    """A copy of a trace in which one tensor is another."""
    return rewritten(trace, tensors={key: (positions, values)})


def rewritten(
    trace: MemoryTrace,
    *,
    tensors: dict[TensorKey, tuple[np.ndarray, np.ndarray]] | None = None,
    steps: Sequence[StepRecord] | None = None,
    dtype: np.dtype | None = None,
    finished: bool = True,
) -> MemoryTrace:
    """A copy of a trace with something else in it."""
    record, copy = trace.records[0], MemoryTrace()
    copy.begin([record.header], trace.level)
    for step in record.steps if steps is None else steps:
        mine = dict[TensorKey, tuple[np.ndarray, np.ndarray]]()
        for key in trace.keys(0):
            tensor = trace.tensor(0, key) if key.forward == step.forward else None
            if tensor is not None:
                mine[key] = (tensor.positions, tensor.values)
        mine.update({key: rows for key, rows in (tensors or {}).items() if key in mine})
        if dtype is not None:
            mine = {key: (p, v.astype(dtype)) for key, (p, v) in mine.items()}
        copy.step(0, step, mine)
    if finished and record.outcome is not None:
        copy.end([record.outcome])
    return copy


def values_of(trace: Trace, key: TensorKey) -> tuple[np.ndarray, np.ndarray]:
    tensor = trace.tensor(0, key)
    assert tensor is not None
    return tensor.positions, tensor.values


def made(
    header_of: RunRecord,
    commits: Sequence[Sequence[tuple[int, int]]],
    *,
    numbers: Sequence[tuple[int, int]] | None = None,
    end: bool = True,
    confidence: float = 0.5,
) -> RunRecord:
    """A run of one block of 8 that commits (offset, token) in each step."""
    header = dataclasses.replace(header_of.header, gen_length=8)
    start = len(header.prompt_ids)
    ids, status = np.full(8, MASK, np.int32), np.full(8, 2, np.uint8)
    steps = list[StepRecord]()
    for forward, pairs in enumerate(commits):
        block, number = (0, forward) if numbers is None else numbers[forward]
        before, status_before = ids.copy(), status.copy()
        masked = np.flatnonzero(status == 2)
        tokens = dict(pairs)
        for offset, token in pairs:
            ids[offset], status[offset] = token, 3
        size = masked.size
        steps.append(
            dataclasses.replace(
                header_of.steps[0],
                forward=forward,
                block=block,
                step=number,
                recovery=False,
                block_start=start,
                block_stop=start + 8,
                ids_before=before,
                ids_after=ids.copy(),
                status_before=status_before,
                status_after=status.copy(),
                rows=np.arange(start, start + 8, dtype=np.int32),
                finished=np.arange(start, start + 8, dtype=np.int32),
                entered_age=np.zeros(start + 8, np.int32),
                finished_age=np.zeros(start + 8, np.int32),
                candidates=Candidates(
                    position=(masked + start).astype(np.int32),
                    token=np.array([tokens.get(o, 1) for o in masked.tolist()], np.int32),
                    confidence=np.full(size, confidence),
                    runner_up=np.zeros(size, np.int32),
                    runner_up_confidence=np.full(size, 0.1),
                    rank=np.arange(size, dtype=np.int32),
                    bound=np.full(size, np.nan),
                    entropy=np.full(size, np.nan),
                    drift=np.full(size, np.nan),
                    age=np.zeros(size, np.int32),
                    eligible=np.ones(size, bool),
                    committed=np.array([o in tokens for o in masked.tolist()], bool),
                ),
                judgements=None,
            )
        )
    done = Outcome("", tuple(ids.tolist()), int((status == 2).sum()), len(steps), 0.0, 0.0)
    return RunRecord(header, tuple(steps), done if end else None)


# --- alignment ----------------------------------------------------------------------------------


def test_every_step_is_in_exactly_one_pair_and_pairs_never_cross(model: Model) -> None:
    hows = set[str]()
    others = [
        BASE.replace(cache=NoCache()),
        BASE.replace(skip=SKIP),
        BASE.replace(unmask=Threshold(0.9)),
        BASE.replace(block_length=8),
        BASE.replace(gen_length=16, block_length=8),
    ]
    a = recorded(model, BASE).records[0]
    for settings in others:
        b = recorded(model, settings).records[0]
        pairs = align(a, b).pairs
        assert [p.a.forward for p in pairs if p.a is not None] == [s.forward for s in a.steps]
        assert [p.b.forward for p in pairs if p.b is not None] == [s.forward for s in b.steps]
        hows |= {pair.how for pair in pairs}
        for pair in pairs:
            if pair.how == "canvas":
                assert pair.a is not None
                assert pair.b is not None
                assert pair.a.canvas == pair.b.canvas
                assert pair.reason == ""
            else:
                assert pair.reason
    assert hows >= {"canvas", "step", "alone"}


def test_canvases_that_meet_again_stand_beside_each_other(model: Model) -> None:
    base = recorded(model, BASE).records[0]
    a = made(base, [[(0, 5)], [(1, 6)], [(2, 7)], [(3, 8)]])
    b = made(base, [[(0, 5), (1, 6)], [(2, 7)], [(3, 8)]])
    pairs = align(a, b).pairs
    beside = [(p.a and p.a.step, p.b and p.b.step, p.how) for p in pairs]
    assert beside == [
        (0, 0, "canvas"),
        (1, None, "alone"),
        (2, 1, "canvas"),
        (3, 2, "canvas"),
    ]


def test_nested_canvases_are_paired_where_neither_canvas_nor_number_agrees(model: Model) -> None:
    base = recorded(model, BASE).records[0]
    a = made(base, [[(0, 5)], [(1, 6)], [(2, 7)]], numbers=[(0, 0), (0, 1), (0, 2)])
    b = made(base, [[(0, 5), (2, 7)], [(4, 9)]], numbers=[(0, 0), (0, 7)])
    pairs = align(a, b).pairs
    assert [(p.a and p.a.step, p.b and p.b.step, p.how) for p in pairs] == [
        (0, 0, "canvas"),
        (1, 7, "commits"),
        (2, None, "alone"),
    ]
    # The control: with another token in it, neither canvas contains the other.
    b = made(base, [[(0, 4), (2, 7)], [(4, 9)]], numbers=[(0, 0), (0, 7)])
    assert [p.how for p in align(a, b).pairs] == ["canvas", "alone", "alone", "alone"]


def test_other_step_numbers_are_no_other_decisions(model: Model) -> None:
    base = recorded(model, BASE).records[0]
    commits = [[(0, 5)], [(1, 6)], [(2, 7)]]
    a, b = made(base, commits), made(base, commits, numbers=[(0, 1), (0, 2), (0, 4)])
    assert compare(a, b).first is None
    # The control: one other commit is found, and where.
    first = compare(a, made(base, [*commits[:2], [(3, 7)]], numbers=[(0, 1), (0, 2), (0, 4)])).first
    assert first is not None
    assert (first.kind, first.step, first.position) == ("committed_set", 2, 5 + 2)


def test_another_length_says_what_can_be_compared(model: Model) -> None:
    a, b = recorded(model, BASE), recorded(model, BASE.replace(gen_length=16, block_length=8))
    found = diff(a, b)
    assert found.alignment.count("canvas") == 0
    assert any("gen_length is 24 and 16" in limit for limit in found.alignment.limits)
    assert any("block_length is 12 and 8" in limit for limit in found.alignment.limits)
    assert found.decision is not None
    assert found.decision.kind != "stop"


def test_traces_that_do_not_belong_together_are_refused(model: Model, full: MemoryTrace) -> None:
    with pytest.raises(ConfigError, match="different prompts"):
        diff(full, recorded(model, BASE, prompts=[[1, 2, 3]]))
    with pytest.raises(ConfigError, match="sample is 1, but trace A has 1"):
        diff(full, full, sample=1)


# --- states and bits ----------------------------------------------------------------------------


def test_a_trace_does_not_differ_from_itself(full: MemoryTrace) -> None:
    found = diff(full, full)
    assert found.identical
    assert (found.decision, found.state, found.bit) == (None, None, None)
    assert found.tensors.tensors == len(full.keys(0))
    assert found.as_json()["not_comparable"] == []


@pytest.mark.parametrize("tap", [Tap.STATE, Tap.KEY, Tap.VALUE, Tap.LOGITS])
def test_one_changed_row_is_named_exactly(full: MemoryTrace, tap: Tap) -> None:
    key = next(k for k in full.keys(0) if k.tap is tap and k.forward == 2 and k.layer == 4)
    positions, values = values_of(full, key)
    other = values.copy()
    row = positions.size // 2
    other[row, 3] += 0.01 * np.linalg.norm(values[row])
    state = diff(full, changed(full, key, positions, other)).state
    assert state is not None
    step = full.records[0].steps[2]
    assert (state.forward_a, state.tap, state.layer) == key
    assert (state.block, state.step) == (step.block, step.step)
    assert state.positions == (state.position,) == (int(positions[row]),)
    assert state.relative_l2 is not None
    assert 0.001 < state.relative_l2 < 0.1


def test_the_first_in_order_of_computation_is_named(full: MemoryTrace) -> None:
    order = [(Tap.KEY, 2), (Tap.STATE, 2), (Tap.KEY, 3), (Tap.LOGITS, 4)]
    tensors = dict[TensorKey, tuple[np.ndarray, np.ndarray]]()
    for tap, layer in reversed(order):
        key = TensorKey(3, tap, layer)
        positions, values = values_of(full, key)
        tensors[key] = positions, values * np.linspace(1.1, 1.2, values.shape[1])
        state = diff(full, rewritten(full, tensors=tensors)).state
        assert state is not None
        assert (state.tap, state.layer) == (tap, layer)


def test_a_difference_below_the_noise_is_a_bit_and_no_state(full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.STATE, 3)
    positions, values = values_of(full, key)
    other = values.copy()
    other[0] = np.nextafter(other[0], np.inf)
    found = diff(full, changed(full, key, positions, other))
    assert found.state is None
    assert found.bit is not None
    assert (found.bit.forward_a, found.bit.tap, found.bit.layer) == key
    assert found.bit.position == positions[0]
    # The control: the same change is a state if there is no noise to hide it.
    silent = Floor({}, 1e-20, 1.0, 1.0, 1.0)
    assert diff(full, changed(full, key, positions, other), floor=silent).state is not None


def test_rows_are_joined_by_position_not_by_order(full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.STATE, 2)
    positions, values = values_of(full, key)
    shuffled = np.random.default_rng(0).permutation(positions.size)
    assert diff(full, changed(full, key, positions[shuffled], values[shuffled])).bit is None
    # The control: the same values under other positions are other rows.
    assert diff(full, changed(full, key, positions, values[shuffled])).state is not None


def test_rows_of_one_side_are_listed_and_not_compared(full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.STATE, 2)
    positions, values = values_of(full, key)
    found = diff(full, changed(full, key, positions[2:], values[2:]))
    assert found.state is None
    start = len(PROMPT)
    listed = f"new tokens {positions[0] - start} to {positions[1] - start}"
    assert found.tensors.limits == (
        f"only A has the hidden states of some positions in some steps: {listed}",
    )


def test_what_was_never_computed_is_not_compared(model: Model, full: MemoryTrace) -> None:
    record = full.records[0]
    steps = list(record.steps)
    never = steps[0].entered_age.copy()
    never[-1] = -1
    steps[0] = dataclasses.replace(steps[0], entered_age=never)
    key = TensorKey(0, Tap.KEY, 2)
    positions, values = values_of(full, key)
    other = values.copy()
    other[-1] = 1e30
    assert diff(full, changed(full, key, positions, other)).state is not None
    assert diff(full, rewritten(full, steps=steps, tensors={key: (positions, other)})).state is None


def test_a_state_that_is_not_finite_is_beyond_any_noise(full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.STATE, 2)
    positions, values = values_of(full, key)
    other = values.copy()
    other[1, 0] = np.nan
    broken = changed(full, key, positions, other)
    state = diff(full, broken).state
    assert state is not None
    assert (state.position, state.relative_l2) == (positions[1], None)
    json.dumps(diff(full, broken).as_json(), allow_nan=False)
    # Equal bits are equal, whatever they stand for.
    assert diff(broken, broken).state is None


def test_a_constant_added_to_logits_is_no_difference(full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.LOGITS, 4)
    positions, values = values_of(full, key)
    loose = dataclasses.replace(estimated_floor(full.records[0].header), smallest=1e-12)
    assert diff(full, changed(full, key, positions, values + 3.0), floor=loose).state is None
    state = diff(full, changed(full, key, positions, values * 1.01), floor=loose).state
    assert state is not None
    assert state.tap is Tap.LOGITS


def test_logits_are_compared_as_distributions(full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.LOGITS, 4)
    positions, values = values_of(full, key)
    other = values.copy()
    first, second = np.argsort(values[0])[::-1][:2]
    other[0, [first, second]] = values[0, [second, first]]
    steps = full.records[0].steps[1:2]
    pairs = tensor_pairs(full, changed(full, key, positions, other), [(steps[0], steps[0])])
    errors = next(p.errors() for p in pairs if p.key == key)
    p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (values[0], other[0]))
    assert errors.kl is not None
    assert errors.top1_flip is not None
    assert errors.largest_log_ratio is not None
    assert errors.kl[0] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-9)
    assert errors.kl[1:] == pytest.approx(0.0)
    assert errors.top1_flip.tolist() == [True] + [False] * (positions.size - 1)
    swap = abs(values[0, first] - values[0, second])
    assert errors.largest_log_ratio[0] == pytest.approx(swap, rel=1e-9)


def test_sketches_find_what_states_find(model: Model) -> None:
    a = recorded(model, BASE, "sketches")
    assert diff(a, a).bit is None
    states = recorded(model, BASE, "full")
    key = TensorKey(2, Tap.STATE, 3)
    positions, values = values_of(states, key)
    other = values.copy()
    other[4] *= 1.01
    at = TensorKey(2, Tap.SKETCH, 3)
    state = diff(a, changed(a, at, positions, sketch_rows(other))).state
    assert state is not None
    assert (state.forward_a, state.tap, state.layer) == at
    assert state.positions == (positions[4],)
    assert state.relative_l2 == pytest.approx(0.01, rel=0.3)
    assert state.norm_ratio == pytest.approx(1.01, rel=1e-3)


def test_bits_of_other_dtypes_are_not_compared(full: MemoryTrace) -> None:
    rough = rewritten(full, dtype=np.dtype(np.float32))
    found = diff(full, rough, floor=estimated_floor(full.records[0].header))
    assert found.bit is None
    assert found.state is not None
    header = dataclasses.replace(full.records[0].header, dtype="float32")
    assert diff(full, rough, floor=estimated_floor(header)).state is None
    assert any("bits are not" in limit for limit in found.tensors.limits)


def test_a_stale_cache_is_named_with_its_age(model: Model, full: MemoryTrace) -> None:
    state = diff(recorded(model, BASE.replace(cache=NoCache()), "full"), full).state
    assert state is not None
    assert state.tap in (Tap.KEY, Tap.VALUE)
    assert (state.a.source, state.a.age) == ("computed", 0)
    assert (state.b.source, state.b.age) == ("cached", 1)


def test_a_skipped_row_is_named_with_its_score(model: Model, full: MemoryTrace) -> None:
    skipping = recorded(model, BASE.replace(skip=SKIP), "full")
    state = diff(full, skipping).state
    assert state is not None
    assert state.layer == SKIP.skip_layer_k
    assert state.b.source == "skipped"
    assert state.b.score is not None
    assert state.b.threshold == SKIP.skip_threshold
    assert state.b.score > SKIP.skip_threshold


# --- noise --------------------------------------------------------------------------------------


def test_a_measured_floor_covers_what_it_was_measured_on(model: Model, full: MemoryTrace) -> None:
    batched = recorded(model, BASE, "full", [PROMPT, [8] * 12])
    floor = floor_from(full, [("batch", batched), ("again", recorded(model, BASE, "full"))])
    assert floor.measured == ("batch", "again")
    assert floor.flips == {"batch": 0, "again": 0}
    assert floor.flip_rate == 0
    assert diff(full, batched, floor=floor).state is None
    # The control: another computation is beyond the same floor.
    assert diff(full, recorded(model, BASE.replace(skip=SKIP), "full"), floor=floor).state


def test_a_floor_is_never_below_the_rounding_of_the_dtype(full: MemoryTrace) -> None:
    floor = floor_from(full, [("again", full)])
    assert floor.level(Tap.STATE, 1) == floor.smallest == 4 * 2.0**-53
    assert floor.confidence_at(0, len(PROMPT)) > 0


def test_self_runs_that_decide_otherwise_are_counted(model: Model, full: MemoryTrace) -> None:
    base = full.records[0]
    plain, other = MemoryTrace(), MemoryTrace()
    commits = [[(0, 5)], [(1, 6)], [(2, 7)], [(3, 8)]]
    for trace, run in ((plain, made(base, commits)), (other, made(base, [*commits[:3], [(4, 8)]]))):
        trace.begin([run.header], "decisions")
        for step in run.steps:
            trace.step(0, step, {})
    floor = floor_from(plain, [("again", plain), ("moved", other)])
    assert floor.flips == {"again": 0, "moved": 1}
    assert floor.flip_rate == 1 / 8
    with pytest.raises(ConfigError, match="no sample of the baseline's prompt"):
        floor_from(plain, [("strange", recorded(model, BASE, prompts=[[1]]))])


def test_an_estimate_says_so_and_grows_with_depth_and_roundoff(full: MemoryTrace) -> None:
    header = full.records[0].header
    exact = estimated_floor(header)
    rough = estimated_floor(dataclasses.replace(header, dtype="bfloat16", width=4096))
    assert not exact.measured
    assert "not measured" in str(exact)
    assert exact.level(Tap.STATE, 4) > exact.level(Tap.STATE, 1)
    assert 0.01 < rough.level(Tap.STATE, 4) < 0.1
    assert rough.level(Tap.STATE, 4) > 1e9 * exact.level(Tap.STATE, 4)


@pytest.mark.parametrize(("noise", "within"), [(1e-3, True), (1e-5, False)])
def test_a_near_tie_of_rank_is_within_noise(model: Model, noise: float, *, within: bool) -> None:
    base = recorded(model, BASE).records[0]
    a, b = made(base, [[(0, 5)]]), made(base, [[(1, 5)]], confidence=0.5002)
    table = a.steps[0].candidates
    below = dataclasses.replace(table, confidence=np.array([0.5, 0.4999] + [0.4] * 6))
    step = dataclasses.replace(a.steps[0], candidates=below)
    a = dataclasses.replace(a, steps=(step,))
    first = compare(a, b).first
    assert first is not None
    floor = Floor({}, 1e-9, gap=1.0, confidence=noise, similarity=1.0)
    found = closeness(first, a.steps[0], b.steps[0], floor)
    assert found.decisive == pytest.approx(1e-4 / noise)
    assert found.within_noise == within
    assert found.moved == pytest.approx(2e-4 / noise)


@pytest.mark.parametrize(("noise", "within"), [(0.05, True), (0.001, False)])
def test_a_bound_that_was_just_missed_is_within_noise(
    model: Model, noise: float, *, within: bool
) -> None:
    base = recorded(model, BASE).records[0]
    a, b = made(base, [[(0, 5)], [(1, 5)]]), made(base, [[(0, 5), (1, 5)]])
    steps = [dataclasses.replace(a.steps[0], candidates=bounded(a.steps[0], 0.51)), a.steps[1]]
    a = dataclasses.replace(a, steps=tuple(steps))
    first = compare(a, b).first
    assert first is not None
    floor = Floor({}, 1e-9, gap=1.0, confidence=noise, similarity=1.0)
    found = closeness(first, a.steps[0], b.steps[0], floor)
    assert found.decisive == pytest.approx(0.01 / noise)
    assert found.within_noise == within


def bounded(step: StepRecord, bound: float) -> Candidates:
    table = step.candidates
    return dataclasses.replace(table, bound=np.full(len(table), bound))


# --- the whole ----------------------------------------------------------------------------------


def test_a_run_that_was_cut_off_is_compared_as_far_as_it_goes(full: MemoryTrace) -> None:
    cut = rewritten(full, steps=full.records[0].steps[:-3], finished=False)
    found = diff(full, cut)
    assert found.decision is None
    assert found.differing_positions == ()
    assert not found.identical
    assert "B is unfinished: it is compared as far as it goes" in found.alignment.limits
    # The control: the same steps as a run that ended are a stop.
    ended = rewritten(full, steps=full.records[0].steps[:-3])
    stopped = diff(full, ended).decision
    assert stopped is not None
    assert stopped.kind == "stop"


def test_the_answer_may_be_the_same_where_tokens_differ(model: Model) -> None:
    base = recorded(model, BASE).records[0]
    filled = [[(i, 5) for i in range(3)] + [(3, EOS)] + [(i, 9) for i in range(4, 8)]]
    a, b = MemoryTrace(), MemoryTrace()
    for trace, tail in ((a, 9), (b, 11)):
        run = made(base, [[(i, tail if t == 9 else t) for i, t in filled[0]]])
        trace.begin([run.header], "decisions")
        trace.step(0, run.steps[0], {})
        assert run.outcome is not None
        trace.end([run.outcome])
    found = diff(a, b)
    assert len(found.differing_positions) == 4
    assert not found.answer_differs
    assert found.endings[0].eos == found.endings[1].eos == 3
    assert found.endings[0].length == 3
    assert not found.identical


def test_settings_that_differ_are_listed(model: Model, full: MemoryTrace) -> None:
    other = recorded(model, BASE.replace(unmask=Threshold(0.9)))
    names = {s.name: (s.a, s.b) for s in diff(full, other).settings}
    assert names == {"unmask": ("threshold:value=0.3", "threshold:value=0.9")}


def plain_json(found: Difference) -> dict[str, object]:
    return json.loads(json.dumps(found.as_json(), allow_nan=False))


def test_json_is_what_the_schema_says(model: Model, full: MemoryTrace) -> None:
    key = TensorKey(1, Tap.STATE, 2)
    positions, values = values_of(full, key)
    others = [
        full,
        recorded(model, BASE.replace(skip=SKIP), "full"),
        recorded(model, BASE.replace(gen_length=16, block_length=8)),
        recorded(model, BASE, "sketches"),
        rewritten(full, steps=full.records[0].steps[:2], finished=False),
        changed(full, key, positions, values * np.inf),
        changed(full, TensorKey(1, Tap.LOGITS, 4), *values_of(full, TensorKey(2, Tap.LOGITS, 4))),
    ]
    check = jsonschema.Draft202012Validator(SCHEMA)
    for other in others:
        for floor in (None, floor_from(full, [("again", full)])):
            check.validate(plain_json(diff(full, other, floor=floor)))
    plain = plain_json(diff(full, full))
    # The control: the schema refuses what is missing and what it does not know.
    for broken in (plain | {"more": 1}, {n: v for n, v in plain.items() if n != "floor"}):
        assert not check.is_valid(broken)


# --- the command --------------------------------------------------------------------------------


def stored(path: Path, trace: MemoryTrace) -> Path:
    """A trace on disk."""
    record = trace.records[0]
    with TraceWriter(path) as writer:
        writer.begin([record.header], trace.level)
        for step in record.steps:
            keys = [key for key in trace.keys(0) if key.forward == step.forward]
            writer.step(0, step, {key: values_of(trace, key) for key in keys})
        if record.outcome is not None:
            writer.end([record.outcome])
    return path


def command(*arguments: object) -> int:
    code = diff_command.main([str(a) for a in arguments], standalone_mode=False)
    assert isinstance(code, int)
    return code


def test_the_command_tells_same_from_different(
    model: Model, full: MemoryTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = stored(tmp_path / "a", full)
    b = stored(tmp_path / "b", recorded(model, BASE.replace(skip=SKIP), "full"))
    assert command(a, a, "--floor", "estimate") == 0
    assert "first bit       none: equal bit for bit" in capsys.readouterr().out
    assert command(a, b, "--floor", "estimate") == 1
    out = capsys.readouterr().out
    assert "first decision  block" in out
    assert "first state     block" in out
    assert len(out.splitlines()) <= 20
    assert command(a, b, "--json") == 1
    captured = capsys.readouterr()
    # The random model cannot be loaded by its name, so the default falls back, and says so.
    assert "noise is not measured" in captured.err
    jsonschema.validate(json.loads(captured.out), SCHEMA)
    with pytest.raises(ConfigError, match="--floor estimate"):
        command(a, b, "--floor", "measure")


def test_long_settings_and_answers_are_folded_and_not_cut(
    model: Model,
    full: MemoryTrace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a = stored(tmp_path / "a", full)
    b = stored(tmp_path / "b", recorded(model, BASE.replace(skip=SKIP), "full"))
    monkeypatch.setenv("COLUMNS", "60")
    command(a, b, "--floor", "estimate")
    head = capsys.readouterr().out.partition("first decision")[0]
    record = recorded(model, BASE.replace(skip=SKIP)).records[0]
    assert f"skip={record.header.settings['skip']}" in re.sub(r"\n   ", "", head)
    assert record.outcome is not None
    assert "".join(record.outcome.text.split()) in "".join(head.split())
    assert "…" not in head
    own = [line for line in head.splitlines() if line.startswith("   ")]
    assert len(own) > 4
    assert max(map(len, own)) <= 60


def test_noise_is_measured_around_the_first_decision(
    model: Model,
    full: MemoryTrace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = list[int | None]()

    def measure(
        trace: Trace, sample: int = 0, *, model: Model | None = None, around: int | None = None
    ) -> Floor:
        asked.append(around)
        return floor_from(trace, [("again", trace)], sample)

    monkeypatch.setattr("skipstone.tracing.experiments.runner.noise_floor", measure)
    other = recorded(model, BASE.replace(skip=SKIP), "full")
    a, b = stored(tmp_path / "a", full), stored(tmp_path / "b", other)
    first = compare(full.records[0], other.records[0]).first
    assert first is not None
    assert command(a, b) == 1
    assert "measured over 1 self-runs" in capsys.readouterr().out
    assert command(a, a) == 0
    assert asked == [first.forward_a, None]
    # The control: nothing is measured where there are no tensors to hold against it.
    c = stored(tmp_path / "c", recorded(model, BASE))
    assert command(a, c) == 0
    assert len(asked) == 2


def test_text_of_a_trace_cannot_steer_the_terminal(
    full: MemoryTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = rewritten(full, finished=False)
    outcome = full.records[0].outcome
    assert outcome is not None
    hostile.end([dataclasses.replace(outcome, text="a\x1b[2Jb\u202ec[bold]")])
    path = stored(tmp_path / "a", hostile)
    command(path, path, "--floor", "estimate")
    out = capsys.readouterr().out
    assert r"a\x1b[2Jb\u202ec[bold]" in out
    assert "\x1b" not in out


def test_traces_are_compared_without_torch(model: Model, full: MemoryTrace, tmp_path: Path) -> None:
    a = stored(tmp_path / "a", full)
    b = stored(tmp_path / "b", recorded(model, BASE.replace(skip=SKIP), "full"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from skipstone.cli.diff import diff_command\n"
        f"print('code', diff_command.main([{str(a)!r}, {str(b)!r}], standalone_mode=False))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("code 1\n"), done.stderr
    assert "first state     block" in done.stdout
    assert "noise is not measured" in done.stderr


def test_tensors_without_a_row_in_common_are_no_crash() -> None:
    none = np.empty((0, 4), np.float32)
    assert states._bits_differ(none, none).tolist() == []
    rows = np.array([[1.0, 2.0], [0.0, 3.0]])
    assert states._bits_differ(rows, np.array([[1.0, 2.0], [-0.0, 3.0]])).tolist() == [False, True]
    assert states._bits_differ(rows, rows[:, :1]).tolist() == [True, True]
