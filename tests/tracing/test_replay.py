"""A led run is the recorded one bit for bit, and patched values carry a fault there and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import DualCache, Factor, Fixed, NoCache, Settings, Threshold
from skipstone.cache import CachePolicy, D2Cache, ElasticCache, OnceCache, VicinityCache
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Choice, Experimenter, Follow, Patch, Unavailable
from skipstone.diagnosis.patching import DecidingPart, decisive
from skipstone.engine import Engine
from skipstone.memory.store import KeysAndValues
from skipstone.models.parts.decoder import Decoder
from skipstone.record import Candidates, Judgements, MemoryTrace, StepRecord, Tap, TensorKey, Trace
from skipstone.rows import Rows
from skipstone.skip import NoSkip, RatioSkip, SkipPolicy
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.tracing.replay.plan import ReplayPlan
from skipstone.tracing.replay.replay import replay
from tests.helpers.recorded import alone, case_of, record, trace_of
from tests.helpers.watching import BASE, CACHES, LOW, prompt_of, uneven_model
from tests.laws.test_laws import Shy

NOTHING_LED: frozenset[Choice] = frozenset()
BOTH_LED: frozenset[Choice] = frozenset(("rows", "skip"))
OTHER_SKIP = replace(LOW, reference="previous_step", keep_neighbours=False, keep_committed=False)
RATIO = RatioSkip(keep="0.6@0+0.3@0.3", full_every=5)
SKIPS = [NoSkip(), LOW, OTHER_SKIP, RATIO]
UNMASKS = [
    Settings(unmask=Fixed(), gen_length=18, block_length=6, eos_stop=False),
    Settings(unmask=Threshold(0.3), gen_length=18, block_length=7),
    Settings(unmask=Factor(1.0), gen_length=18, block_length=6, temperature=0.7, seed=3),
    Settings(unmask=Fixed("random"), gen_length=18, block_length=6, seed=5, steps=5, budget="stop"),
]


def runner_of(trace: MemoryTrace) -> Experimenter:
    runner = alone(trace).inquiry.experimenter
    assert runner is not None
    return runner


def same(a: object, b: object) -> bool:
    """Whether two parts of a record are equal bit for bit; times do not count."""
    if a is None or b is None:
        return a is b
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, StepRecord | Candidates | Judgements):
        names = [f.name for f in dataclasses.fields(a) if f.name != "seconds"]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    return a == b


def apart_fields(a: Trace, b: Trace, forward: int) -> list[str]:
    """Fields of a step that differ between two traces; times do not count."""
    x, y = a.records[0].at(forward), b.records[0].at(forward)
    names = [f.name for f in dataclasses.fields(x) if f.name != "seconds"]
    return [n for n in names if not same(getattr(x, n), getattr(y, n))]


def apart(a: Trace, b: Trace, forward: int) -> list[object]:
    """What differs between two traces in one forward: fields of the step, and tensors."""
    found: list[object] = [*apart_fields(a, b, forward)]
    keys = {key for trace in (a, b) for key in trace.keys(0) if key.forward == forward}
    assert keys
    for key in keys:
        mine, theirs = a.tensor(0, key), b.tensor(0, key)
        if (
            mine is None
            or theirs is None
            or not (same(mine.positions, theirs.positions) and same(mine.values, theirs.values))
        ):
            found.append(key)
    return found


# --- a led run


@pytest.mark.parametrize("token", [uneven_model(1).network.config.vocab_size, 2**31 - 1])
def test_a_canvas_that_the_model_cannot_read_is_refused(token: int) -> None:
    a = trace_of(BASE)
    steps = a.records[0].steps
    foreign = [replace(step, ids_before=np.full_like(step.ids_before, token)) for step in steps]
    trace = MemoryTrace()
    trace.begin([a.records[0].header], "decisions")
    for step in foreign:
        trace.step(0, step, {})
    with pytest.raises(Unavailable, match=f"holds the token id {token}, but the model has"):
        runner_of(trace).ask(Follow("a", "a", (0, 1)))


@pytest.mark.parametrize("rule", UNMASKS, ids=lambda settings: repr(settings.unmask))
@pytest.mark.parametrize(
    ("cache", "skip"),
    [
        *product([*CACHES, OnceCache(6), VicinityCache(warmup=2, published=True)], SKIPS),
        (ElasticCache(0.97), NoSkip()),
        (D2Cache(4, 3.0, 0.05), NoSkip()),
        (D2Cache(4, 3.0, 0.05, published=True), NoSkip()),
    ],
    ids=repr,
)
def test_a_led_run_is_the_recorded_one(
    cache: CachePolicy, skip: SkipPolicy, rule: Settings
) -> None:
    settings = rule.replace(cache=cache, skip=skip)
    a = trace_of(settings)
    runner, steps = runner_of(a), a.records[0].steps
    assert len({step.block for step in steps}) == 3
    whole = (0, steps[-1].forward)
    for led in (NOTHING_LED, BOTH_LED):
        again = runner.ask(Follow("a", "a", whole, led=led))
        assert [apart(a, again, step.forward) for step in steps] == [[] for _ in steps]
    # A single step is built up from the start of its block, or from the first random number.
    for forward in {steps[1].forward, steps[-2].forward, steps[-1].forward}:
        assert apart(a, runner.ask(Follow("a", "a", (forward, forward))), forward) == []


def test_a_led_run_under_another_setting_is_another() -> None:
    a = trace_of(BASE.replace(cache=NoCache(), unmask=Fixed()))
    runner, last = runner_of(a), a.records[0].steps[-1].forward
    for change, first in (
        (("cache", "dual"), "rows"),
        (("skip", "cosine:skip_layer_k=3,skip_threshold=0.5,skip_outlier=0"), "finished"),
        (("temperature", "0.5"), "candidates"),
    ):
        changes = (change, ("seed", "1")) if change[0] == "temperature" else (change,)
        other = runner.ask(Follow("a", "a", (0, last), changes=changes))
        found = [apart_fields(a, other, step.forward) for step in a.records[0].steps]
        assert any(first in fields for fields in found), change
        # It is led all the same: every step starts from A's canvas.
        assert not any("ids_before" in fields for fields in found)


def test_led_rows_and_skips_are_the_recorded_ones_under_another_setting() -> None:
    a = trace_of(BASE.replace(unmask=Fixed(), skip=LOW))
    runner, last = runner_of(a), a.records[0].steps[-1].forward
    changes = (("cache", "none"), ("skip", "none"))
    led = runner.ask(Follow("a", "a", (0, last), changes=changes, led=BOTH_LED))
    for step in a.records[0].steps:
        assert not {"rows", "finished"} & set(apart_fields(a, led, step.forward))
        other = led.records[0].at(step.forward)
        np.testing.assert_array_equal(other.candidates.confidence, step.candidates.confidence)


def test_repeated_steps_are_led_too() -> None:
    settings = BASE.replace(unmask=Shy(), skip=LOW)
    a, again, model = Recorder("full"), Recorder("full"), uneven_model(1)
    Engine(model, settings).generate(prompt_of(1, 5), observer=a)
    (run,) = a.records
    assert any(step.recovery for step in run.steps)
    replay(model, settings, run, ReplayPlan((0, run.steps[-1].forward)), again)
    assert [apart(a.trace, again.trace, step.forward) for step in run.steps] == [
        [] for _ in run.steps
    ]


# --- patches


def patches_of(trace: Trace, forward: int, *taps: Tap, layers: Sequence[int] = ()) -> list[Patch]:
    """A trace's own values of a forward."""
    found = list[Patch]()
    for key in trace.keys(0):
        if key.forward == forward and key.tap in taps and (not layers or key.layer in layers):
            rows = trace.tensor(0, key)
            assert rows is not None
            found.append(Patch(key.tap, forward, key.layer, rows.positions, rows.values))
    return found


@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=["no skip", "skip"])
@pytest.mark.parametrize("tap", [Tap.STATE, Tap.KEY, Tap.VALUE, Tap.LOGITS])
def test_own_values_change_nothing(tap: Tap, skip: NoSkip) -> None:
    a = trace_of(BASE.replace(unmask=Fixed(), skip=skip))
    # A step in which every mask skips has no logits.
    steps = [step for step in a.records[0].steps if patches_of(a, step.forward, tap)]
    runner = runner_of(a)
    for step in (steps[0], steps[3], steps[-1]):
        own = patches_of(a, step.forward, tap)
        window = (step.forward, step.forward)
        again = runner.ask(Follow("a", "a", window, patches=tuple(own), patch_name="A's own"))
        assert apart(a, again, step.forward) == []
        # Control: the same patches with other values do change the step.
        far = tuple(replace(p, values=-p.values) for p in own)
        other = runner.ask(Follow("a", "a", window, patches=far, patch_name="negated"))
        assert apart(a, other, step.forward) != []


@contextmanager
def wrong_state(layer: int, position: int) -> Generator[None, None, None]:
    """After one layer, counted from 1, the state of one position is reversed."""
    right = Decoder.layer

    def wrong(
        self: Decoder,
        index: int,
        x_ND: Tensor,
        angles_2NE: Tensor,
        rows: Rows,
        store: KeysAndValues,
    ) -> Tensor:
        out_ND = right(self, index, x_ND, angles_2NE, rows, store)
        here_N1 = torch.from_numpy(rows.position == position)[:, None]
        return torch.where(here_N1, out_ND.flip(-1), out_ND) if index + 1 == layer else out_ND

    with patch.object(Decoder, "layer", wrong):
        yield


def one_state(trace: Trace, forward: int, layer: int, position: int) -> tuple[Patch, ...]:
    """The state of one position after one layer."""
    rows = trace.tensor(0, TensorKey(forward, Tap.STATE, layer))
    assert rows is not None
    where = np.array([position], np.int32)
    return (Patch(Tap.STATE, forward, layer, where, rows.at(where)),)


# Seed, layer and position of the fault; the layer of the last one is the network's last.
FAULTS = [(1, 2, 2), (1, 2, 7), (3, 2, 10), (1, 3, 17), (1, 4, 7)]


@pytest.mark.parametrize(("seed", "layer", "position"), FAULTS)
def test_a_wrong_state_is_sufficient_and_necessary(seed: int, layer: int, position: int) -> None:
    settings = BASE.replace(cache=NoCache(), unmask=Fixed())
    a, model = trace_of(settings, seed), uneven_model(seed)
    with wrong_state(layer, position):
        b = record(settings, seed)
    case = Case(a, b, ExperimentRunner(Side(a), Side(b), model))
    forward = case.divergence.forward
    assert forward is not None
    window = (forward, forward)
    by_a, by_b = (t.records[0].at(forward) for t in (a, b))

    def into_a(name: str, patches: tuple[Patch, ...]) -> Trace:
        trace = case.ask(Follow("a", "a", window, patches=patches, patch_name=name))
        assert trace is not None
        return trace

    def given(trace: Trace) -> tuple[list[int], list[float]]:
        candidates = trace.records[0].at(forward).candidates
        return candidates.token.tolist(), candidates.confidence.tolist()

    # Sufficient: B's state at the place, and nothing else, gives B's scores and commits.
    found = into_a("B's wrong state", one_state(b, forward, layer, position))
    assert given(found) == given(b)
    assert found.records[0].at(forward).committed == by_b.committed
    # Control: B's states elsewhere carry nothing, or too little.
    beside = position + 1
    for name, where in (("layer before", (layer - 1, position)), ("beside", (layer, beside))):
        assert apart(a, into_a(name, one_state(b, forward, *where)), forward) == []
    if layer < model.config.num_layers:
        after = into_a("layer after", one_state(b, forward, layer + 1, position))
        assert given(after) != given(b)
    # Necessary: with A's state at the place, the faulty code decides as A.
    with wrong_state(layer, position):
        right = one_state(a, forward, layer, position)
        mended = case.ask(Follow("b", "b", window, patches=right, patch_name="A's right state"))
        faulty = case.ask(Follow("b", "b", window))
        assert mended is not None
        assert faulty is not None
        assert given(mended) == given(a)
        assert mended.records[0].at(forward).committed == by_a.committed
        # Control: without it, and with A's state elsewhere, it does not.
        assert given(faulty) == given(b)
        right = one_state(a, forward, layer, beside)
        other = case.ask(Follow("b", "b", window, patches=right, patch_name="A's state beside"))
        assert other is not None
        assert given(other) == given(b)


def test_the_cached_rows_that_decide_are_narrowed_down() -> None:
    a = BASE.replace(cache=NoCache(), unmask=Fixed())
    case = case_of(a, a.replace(cache=DualCache()))
    step = case.step_b(case.divergence.forward or 0)
    assert step is not None
    spot = decisive(case, step)
    assert isinstance(spot, DecidingPart)
    assert spot.layer is not None
    assert 0 < len(spot.positions) < step.entered_age.size - step.rows.size
    assert not set(spot.positions) & set(step.rows.tolist())
    # Fresh K/V of these rows alone, put in by hand, restore A's decision.
    window, cached = (step.forward, step.forward), np.array(spot.positions, np.int32)
    fresh = case.ask(Follow("b", "b", window, (("cache", "none"),)))
    assert fresh is not None
    deep = range(spot.layer, 5)
    everywhere = patches_of(fresh, step.forward, Tap.KEY, Tap.VALUE, layers=deep)

    def decision(name: str, where: np.ndarray) -> tuple[int, ...]:
        patches = tuple(
            replace(p, positions=where, values=p.values[np.isin(p.positions, where)])
            for p in everywhere
        )
        trace = case.ask(Follow("b", "b", window, patches=patches, patch_name=name))
        assert trace is not None
        return trace.records[0].at(step.forward).committed

    first = case.divergence.first
    assert first is not None
    assert decision("these", cached) == first.committed_a
    # Control: stale rows decide as B.
    assert decision("none", cached[:0]) == first.committed_b


def test_rows_that_do_not_decide_are_not_named() -> None:
    """Where the cached rows are as fresh as can be, nothing is narrowed down."""
    settings = BASE.replace(cache=DualCache(), unmask=Fixed())
    case = case_of(settings, settings.replace(unmask=Threshold(0.3)))
    step = case.step_b(case.divergence.forward or 0)
    assert step is not None
    assert decisive(case, step) is None
