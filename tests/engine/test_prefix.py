"""Requests take over keys and values of prompts that begin alike: fewer rows, the same tokens."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch

from skipstone import Engine, Result, Settings
from skipstone.cache import (
    CacheNeed,
    CachePolicy,
    DelayedCache,
    DualCache,
    NoCache,
    PrefixCache,
    VicinityCache,
)
from skipstone.canvas import StepContext
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Follow
from skipstone.engine.batch import WORTH_WAITING
from skipstone.engine.engine import RunnerName
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.graph import GraphLayers
from skipstone.engine.observe import StepView, Taps
from skipstone.memory.prefixes import MOST_HELD, Prefix, Prefixes
from skipstone.memory.ranges import GRAIN, Range, rounded
from skipstone.memory.store import Admitted, KVStore, cell_bytes
from skipstone.models.load import Model
from skipstone.reach import FULL, Reach
from skipstone.record import MemoryTrace
from skipstone.rows import Rows
from skipstone.skip import CosineSkip
from skipstone.testing.tiny import MASK, tiny_model
from skipstone.tracing import Recorder
from skipstone.tracing.diagnose import diagnose
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import Editing, Fixed, Threshold, UnmaskPolicy
from tests.laws.test_laws import Shy
from tests.models.test_contracts import CONFIGS, model_of

CAUSAL = [name for name, config in CONFIGS.items() if config.reach.block_size]
CACHES = [
    DualCache(),
    PrefixCache(),
    DualCache(refresh_every=2),
    PrefixCache(refresh_every=1),
    VicinityCache(2, 3, warmup=1),
    DelayedCache(4),
]
BASE = Settings(gen_length=18, block_length=4, unmask=Threshold(0.3), eos_stop=False)
SYSTEM = [(7 * at + at // 5) % 61 for at in range(70)]


def prompts_of(seed: int, count: int, most: int = 80) -> list[list[int]]:
    """Random prompts, most of which begin as an earlier one does, up to any position."""
    dice, found = random.Random(seed), [SYSTEM]
    for _ in range(count):
        shared = dice.choice(found)[: dice.randint(0, most)]
        own = [dice.randrange(61) for _ in range(dice.randint(not shared, 14))]
        found.append((shared + own)[:most])
    return found[1:]


def alone(model: Model, settings: Settings, prompt: Sequence[int]) -> tuple[int, ...]:
    """What a request gives when every row is computed in every step."""
    naive = settings.replace(cache=NoCache(), reuse_prefix=False)
    return Engine(model, naive, runner="eager").generate(list(prompt)).tokens


def reused(results: Sequence[Result]) -> list[int]:
    return [result.stats.reused for result in results]


@contextmanager
def poisoned() -> Iterator[list[KVStore]]:
    """Every cell that a request does not take over is NaN when it comes; gives the stores."""
    admit, stores = KVStore.admit, list[KVStore]()

    def checked(store: KVStore, length: int, prefix: Prefix | None = None) -> Admitted | None:
        place = admit(store, length, prefix)
        if place is not None:
            whose = slice(place.base + place.reused, place.base + rounded(length))
            store.keys[:, whose] = store.values[:, whose] = torch.nan
        stores.append(store)
        return place

    with patch.object(KVStore, "admit", checked):
        yield stores


def assert_holds_what_it_says(model: Model, store: KVStore) -> None:
    """All that is held is what a forward over nothing but these tokens computes."""
    network = model.network
    for held in store.prefixes._held.values():
        count = held.prefix.ids.size
        own = KVStore(model.config, count, network.dtype, network.device)
        all_rows = Rows.spans([(0, 0, count)], network.device, reaches=[held.prefix.reach])
        x_ND = network.embed(torch.from_numpy(held.prefix.ids))
        list(EagerLayers(network, own).run(1, model.config.num_layers, x_ND, all_rows, every=True))
        for mine, right in ((store.keys, own.keys), (store.values, own.values)):
            found = mine[:, held.base : held.base + count]
            torch.testing.assert_close(found, right[:, :count])


# --- the same tokens


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("cache", CACHES, ids=repr)
def test_one_after_the_other_with_poisoned_memory(
    name: str, runner: RunnerName, cache: CachePolicy
) -> None:
    model, settings = model_of(name), BASE.replace(cache=cache)
    engine = Engine(model, settings, runner=runner)
    with poisoned() as stores:
        results = [engine.generate(prompt) for prompt in prompts_of(1, 8)]
    for prompt, result in zip(prompts_of(1, 8), results, strict=True):
        assert result.tokens == alone(model, settings, prompt)
        assert result.stats.reused % 4 == 0
        assert result.stats.reused <= len(prompt)
    assert sum(reused(results)) > 80
    assert_holds_what_it_says(model, stores[-1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_batches_of_any_prompts_in_little_memory(
    seed: int, dtype: torch.dtype, runner: RunnerName
) -> None:
    config = CONFIGS["block-causal"]
    model = tiny_model(config=config, sharpness=6.0, norm_noise=0.3, dtype=dtype)
    # Room for two or three at once: what is held is written over again and again.
    memory = f"{256 * cell_bytes(config, dtype)}b"
    engine = Engine(model, BASE, runner=runner, memory=memory)
    asked = prompts_of(seed, 14)
    with poisoned() as stores:
        results = engine.generate_batch(asked, batch_size=4)
        results += engine.generate_batch(asked[::-1], batch_size=3)
    assert [r.tokens for r in results] == [alone(model, BASE, p) for p in (*asked, *asked[::-1])]
    assert max(store.cells for store in stores) <= 256
    assert sum(reused(results)) > 100
    if dtype == torch.float64:
        assert_holds_what_it_says(model, stores[-1])


@pytest.mark.parametrize(
    "unmask",
    [Fixed(), Fixed("random"), Threshold(0.2), Threshold(0.9), Editing(0.3, 0.2)],
    ids=repr,
)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", CAUSAL)
def test_rules_and_random_numbers(name: str, unmask: UnmaskPolicy, temperature: float) -> None:
    model = model_of(name)
    settings = BASE.replace(unmask=unmask, temperature=temperature, seed=5)
    asked = prompts_of(7, 5)
    without = Engine(model, settings.replace(reuse_prefix=False)).generate_batch(asked)
    with poisoned():
        engine = Engine(model, settings)
        first, second = engine.generate_batch(asked, batch_size=2), engine.generate_batch(asked)
    for results in (first, second):
        assert [r.tokens for r in results] == [r.tokens for r in without]
    assert sum(reused(second)) > 50
    assert reused(without) == [0] * 5


def test_rows_that_skip() -> None:
    model, skip = model_of("block-causal"), CosineSkip(skip_layer_k=2, skip_threshold=0.8)
    settings = BASE.replace(skip=skip, unmask=Threshold(0.9))
    asked = prompts_of(3, 6)
    without = [Engine(model, settings, reuse_prefix=False).generate(p) for p in asked]
    assert any(result.stats.skip_share > 0 for result in without)
    engine = Engine(model, settings)
    with poisoned() as stores:
        results = [engine.generate(prompt) for prompt in asked]
    assert [r.tokens for r in results] == [r.tokens for r in without]
    assert sum(reused(results)) > 0
    assert_holds_what_it_says(model, stores[-1])


def test_a_canvas_with_masks_anywhere() -> None:
    model = model_of("block-causal")
    engine, canvas = Engine(model, BASE), [*SYSTEM, *[MASK] * 3, 7, 8, MASK, 9, 10, *[MASK] * 5]
    right = Engine(model, BASE, cache=NoCache(), reuse_prefix=False).edit(canvas)
    engine.generate([*SYSTEM, 5])
    for taken in (68, 68):
        with poisoned() as stores:
            found = engine.edit(canvas)
        assert (found.tokens, found.stats.reused) == (right.tokens, taken)
        assert_holds_what_it_says(model, stores[-1])


def test_an_empty_step_is_repeated_over_all_rows() -> None:
    model, settings = model_of("block-causal"), BASE.replace(unmask=Shy())
    engine = Engine(model, settings)
    engine.generate(SYSTEM)
    with poisoned() as stores:
        result = engine.generate([*SYSTEM, 5, 6])
    assert result.stats.reused == 68
    assert [step.rows for step in result.stats.steps[:2]] == [8, 76]
    assert result.tokens == alone(model, settings, [*SYSTEM, 5, 6])
    assert_holds_what_it_says(model, stores[-1])


def test_arrivals_at_any_time_from_many_threads_some_of_which_cancel() -> None:
    model, settings = model_of("block-causal"), BASE
    engine, asked = Engine(model, settings, slots=3), prompts_of(9, 24)
    right = [alone(model, settings, prompt) for prompt in asked]
    found, cancelled = dict[int, Result](), set[int]()

    def ask(first: int) -> None:
        for index in range(first, len(asked), 3):
            handle = engine.submit(asked[index])
            if index % 4 == 1:
                next(iter(handle), None)
                if handle.cancel():
                    cancelled.add(index)
                    continue
            found[index] = handle.result(60)

    with poisoned() as stores:
        threads = [threading.Thread(target=ask, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The engine's own thread still lets go of what was cancelled.
        for thread in threading.enumerate():
            if thread.name == "skipstone":
                thread.join(60)
    assert len(found) + len(cancelled) == len(asked)
    assert {index: result.tokens for index, result in found.items()} == {
        index: right[index] for index in found
    }
    assert_holds_what_it_says(model, stores[-1])


# --- what is reused


def test_a_system_prompt_is_computed_once_in_a_batch_and_never_again() -> None:
    engine = Engine(model_of("block-causal"), BASE)
    for first, own in ((0, 3), (68, 4)):
        results = engine.generate_batch([[*SYSTEM, own, at, at + 1] for at in range(16)])
        assert reused(results) == [first, *[68] * 15]
        # The prompt's tail, and the rest of its block.
        assert [r.stats.steps[0].rows for r in results] == [76 - first, *[8] * 15]
    longer = engine.generate([*SYSTEM, *range(6)])
    assert longer.stats.reused == 68
    assert "68 prompt tokens reused" in str(longer.stats)
    assert longer.as_json()["reused_tokens"] == 68


def test_a_request_waits_for_a_prefix_only_if_it_is_long() -> None:
    model = model_of("block-causal")
    for length, first_step in ((WORTH_WAITING, [1, 3]), (WORTH_WAITING - 4, [4])):
        shared = (SYSTEM * 2)[:length]
        watcher = Steps()
        results = Engine(model, BASE).generate_batch(
            [[*shared, i] for i in range(4)], observer=watcher
        )
        # Whoever waits begins in the next step.
        assert watcher.requests[: len(first_step)] == list(np.cumsum(first_step))
        assert reused(results) == ([0] + 3 * [length] if len(first_step) > 1 else [0] * 4)


def test_the_tail_of_a_prompt_is_never_shared() -> None:
    engine, shared = Engine(model_of("block-causal"), BASE), SYSTEM[:10]
    assert engine.generate(shared).stats.reused == 0
    # The third block of the first one holds what was decoded.
    assert engine.generate(shared).stats.reused == 8
    assert engine.generate([*SYSTEM[:7], 60, 60]).stats.reused == 4
    assert engine.generate(SYSTEM[:3]).stats.reused == 0
    assert engine.generate(SYSTEM[1:9]).stats.reused == 0


@pytest.mark.parametrize("unmask", [Threshold(0.3), Editing(0.3, 0.2)], ids=repr)
def test_an_answer_is_a_part_of_the_next_prompt(unmask: UnmaskPolicy) -> None:
    model = model_of("block-causal")
    settings = BASE.replace(unmask=unmask)
    engine, turn = Engine(model, settings), SYSTEM[:9]
    for _ in range(3):
        with poisoned() as stores:
            result = engine.generate(turn)
        before = len(turn)
        assert result.tokens == alone(model, settings, turn)
        assert_holds_what_it_says(model, stores[-1])
        turn = [*turn, *result.answer, 5, 6]
        again = engine.generate(turn)
        # All but its last two blocks, in which a stop may have filled up what nobody computed.
        assert again.stats.reused >= before + len(result.answer) - 11
        assert again.tokens == alone(model, settings, turn)


def test_an_answer_that_ended_early_is_not_taken_for_what_was_never_computed() -> None:
    model = tiny_model(config=CONFIGS["block-causal"], sharpness=6.0, norm_noise=0.3, eos_scale=3.0)
    settings = BASE.replace(eos_stop=True, gen_length=40, unmask=Threshold(0.2))
    ended = 0
    for prompt in prompts_of(11, 12, most=20):
        engine = Engine(model, settings)
        with poisoned() as stores:
            result = engine.generate(prompt)
            assert_holds_what_it_says(model, stores[-1])
            turn = [*prompt, *result.tokens, 4]
            assert engine.generate(turn).tokens == alone(model, settings, turn)
        ended += result.length < 30
    assert ended > 2


def test_blocks_of_another_length_are_not_the_same() -> None:
    model = model_of("block-causal")
    engine = Engine(model, BASE)
    with poisoned():
        for block_length in (4, 8, 4, 8):
            result = engine.submit(SYSTEM, block_length=block_length).result()
            settings = BASE.replace(block_length=block_length)
            assert result.tokens == alone(model, settings, SYSTEM)
            assert result.stats.reused == 0 or result.stats.reused % block_length == 0
        handles = [engine.submit([*SYSTEM, 1], block_length=n) for n in (4, 8, 4, 8)]
        results = [handle.result() for handle in handles]
    assert [r.tokens for r in results[:2]] == [r.tokens for r in results[2:]]
    reach = Reach(block_size=4)
    assert Prefix.of(SYSTEM, reach).shared_with(Prefix.of(SYSTEM, reach)) == 68
    assert Prefix.of(SYSTEM, reach).shared_with(Prefix.of(SYSTEM, reach.over(8))) == 0


def test_more_is_held_where_more_memory_is_given() -> None:
    model = model_of("block-causal")
    talks = [[talk] * 40 for talk in range(4)]
    each = cell_bytes(model.config, model.network.dtype)
    for memory, kept in ((None, 0), (f"{4096 * each}b", 40)):
        engine = Engine(model, BASE, memory=memory)
        for own in range(3):
            results = [engine.generate([*talk, 9, own, own]) for talk in talks]
            assert reused(results) == [kept if own else 0] * 4
        assert engine._arena._plain is not None
        cells = engine._arena._plain.store.cells
        assert cells == rounded(43 + 18) if memory is None else 4 * 61 <= cells <= 2 * 4096 / 3


# --- who has no part in it


def test_it_can_be_turned_off() -> None:
    engine = Engine(model_of("block-causal"), BASE, reuse_prefix=False)
    assert reused([engine.generate(SYSTEM) for _ in range(2)]) == [0, 0]
    assert engine._arena._plain is None
    on = Engine(model_of("block-causal"), BASE)
    on.generate(SYSTEM)
    # It does not take over, and nothing is taken over from it.
    off = on.submit([*SYSTEM, *SYSTEM[:20]], reuse_prefix=False).result()
    assert off.stats.reused == 0
    assert not any("reuse_prefix" in note for note in off.notes)
    assert on.submit([*SYSTEM, *SYSTEM[:20]]).result().stats.reused in (0, 68)


@dataclass(frozen=True)
class FromTheMiddle(DualCache):
    """A cache that needs what entered layers."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(["layer_inputs"])


@dataclass(frozen=True)
class Everything(CachePolicy):
    """Computes all rows, as policies of others may."""

    def rows(self, context: StepContext) -> Rows:
        return context.all_rows()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("tied", BASE, "the model attends in both directions"),
        ("block-causal", BASE.replace(cache=NoCache()), "cache=none computes every row"),
        ("block-causal", BASE.replace(cache=FromTheMiddle()), "rows from the middle of the layers"),
    ],
)
def test_where_it_has_no_effect_that_is_said(name: str, settings: Settings, said: str) -> None:
    engine = Engine(model_of(name), settings, reuse_prefix=True)
    for _ in range(2):
        result = engine.generate(SYSTEM)
        assert result.stats.reused == 0
        (note,) = (note for note in result.notes if "reuse_prefix" in note)
        assert note.startswith("reuse_prefix=true has no effect: ")
        assert said in note
    assert engine._arena._plain is None
    by_default = Engine(model_of(name), settings).generate(SYSTEM)
    assert not any("reuse_prefix" in note for note in by_default.notes)


def test_that_nothing_was_found_is_said_where_it_was_asked_for() -> None:
    settings = BASE.replace(unmask=Threshold(0.9), reuse_prefix=True)
    engine = Engine(model_of("block-causal"), settings)
    assert "begins with the same 4 tokens" in engine.generate(SYSTEM).notes[0]
    assert engine.generate(SYSTEM).notes == ()
    assert "the prompt of 3 tokens has no whole block of 4" in engine.generate(SYSTEM[:3]).notes[0]


def test_a_policy_that_computes_all_the_same_has_reused_nothing() -> None:
    engine = Engine(model_of("block-causal"), BASE, cache=Everything())
    assert reused([engine.generate(SYSTEM) for _ in range(2)]) == [0, 0]


# --- failures


@dataclass(frozen=True)
class Broken(DualCache):
    """Fails in a later step."""

    def rows(self, context: StepContext) -> Rows:
        if any(at.forward > 2 for at in context.requests):
            raise ValueError("broken")
        return super().rows(context)


def test_nothing_is_taken_over_from_a_request_that_failed() -> None:
    engine = Engine(model_of("block-causal"), BASE)
    failing = engine.submit(SYSTEM, cache=Broken())
    assert isinstance(failing.exception() if failing.wait() else None, Exception)
    assert engine.generate([*SYSTEM, 1]).stats.reused == 0


@dataclass
class Steps:
    """Counts the requests that are being decoded, and may fail."""

    fails_at: int = -1
    requests: list[int] = field(default_factory=list[int])
    taps: Taps = field(default_factory=Taps)

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        pass

    def on_step(self, view: StepView) -> None:
        self.requests.append(len(view.context.requests))
        if len(self.requests) - 1 == self.fails_at:
            raise RuntimeError("observer")

    def on_end(self, results: Sequence[Result]) -> None:
        pass


def test_a_run_that_was_interrupted_leaves_nothing_to_take_over() -> None:
    engine = Engine(model_of("block-causal"), BASE)
    for fails_at in (0, 3):
        with pytest.raises(RuntimeError, match="observer"):
            engine.generate_batch([SYSTEM, [*SYSTEM, 1]], observer=Steps(fails_at))
    with poisoned():
        result = engine.generate(SYSTEM)
    assert result.stats.reused == 0
    assert result.tokens == alone(engine.model, BASE, SYSTEM)


# --- records


@pytest.mark.parametrize("cache", CACHES, ids=repr)
def test_a_recorded_run_that_took_over_is_replayed(cache: CachePolicy) -> None:
    model, settings = model_of("block-causal"), BASE.replace(cache=cache)
    engine, recorder = Engine(model, settings), Recorder("full")
    first = engine.generate(SYSTEM, observer=recorder)
    before = recorder.trace
    recorder = Recorder("full")
    result = engine.generate([*SYSTEM, 3, 4], observer=recorder)
    trace, (record,) = recorder.trace, recorder.records
    assert (first.stats.reused, result.stats.reused) == (0, 68)
    step = record.steps[0]
    assert step.rows.tolist() == list(range(68, 76))
    assert (step.entered_age[:68] == -1).all()
    assert before.records[0].steps[0].rows.tolist() == list(range(72))
    runner = ExperimentRunner(Side(trace), Side(trace), model)
    case = Case(trace, trace, runner)
    for led in (frozenset[str](), frozenset(["rows", "skip"])):
        again = runner.ask(Follow("a", "a", (0, record.steps[-1].forward), led=led))  # type: ignore[arg-type]
        for mine, theirs in zip(record.steps, again.records[0].steps, strict=True):
            assert np.array_equal(mine.rows, theirs.rows)
            assert np.array_equal(mine.entered_age, theirs.entered_age)
            assert mine.committed == theirs.committed
            keys = {key for key in trace.keys(0) if key.forward == mine.forward}
            assert keys
            for key in keys:
                a, b = trace.tensor(0, key), again.tensor(0, key)
                assert a is not None
                assert b is not None
                np.testing.assert_allclose(a.values, b.values, rtol=1e-9, atol=1e-9)
    assert case.expected.first_of("rows") is None


@pytest.mark.parametrize("level", ["decisions", "full"])
def test_no_diagnosis_blames_what_was_taken_over(level: Literal["decisions", "full"]) -> None:
    model, prompt = model_of("block-causal"), [*SYSTEM, 3, 4]
    traces = list[MemoryTrace]()
    for unmask, before in ((0.3, False), (0.3, True), (0.6, True)):
        engine, recorder = Engine(model, BASE, unmask=Threshold(unmask)), Recorder(level)
        if before:
            engine.generate(SYSTEM)
        result = engine.generate(prompt, observer=recorder)
        assert result.stats.reused == 68 * before
        traces.append(recorder.trace)
    without, taken, other = traces
    assert diagnose(without, taken, model=model).findings == ()
    for a in (without, taken):
        cause = diagnose(a, other, model=model).cause
        assert cause is not None
        assert cause.rule == "commit-rule"


def test_an_observer_changes_nothing() -> None:
    watched, unwatched = (Engine(model_of("block-causal"), BASE) for _ in range(2))
    asked = prompts_of(5, 6)
    for size in (3, 2):
        seen = watched.generate_batch(asked, batch_size=size, observer=Recorder())
        unseen = unwatched.generate_batch(asked, batch_size=size)
        assert [r.tokens for r in seen] == [r.tokens for r in unseen]
        assert reused(seen) == reused(unseen)


# --- the book of what is held


def test_prefixes_are_cut_where_they_are_written_over_and_the_oldest_goes_first() -> None:
    reach, ids = Reach(block_size=4), list(range(40))
    prefixes = Prefixes()
    prefixes.hold(0, Prefix.of(ids, reach))
    prefixes.hold(48, Prefix.of([*ids[:20], 1], reach))
    assert prefixes.longest(Prefix.of(ids, reach)) == (0, 40)
    assert prefixes.longest(Prefix.of(ids[:20], reach)) == (48, 20)
    gaps = [Range(0, 80)]
    # Nothing is held from 80 on; then what was used longest ago, then where it takes over from.
    assert prefixes.place([Range(0, 128)], 32, 0) == 80
    assert prefixes.place(gaps, 32, 48) == 0
    prefixes.touch(0)
    assert prefixes.place(gaps, 32, 0) == 48
    assert prefixes.place(gaps, 64, 0) == 0
    prefixes.overwrite(Range(30, 48))
    assert prefixes.longest(Prefix.of(ids, reach)) == (0, 28)
    prefixes.overwrite(Range(0, 16))
    assert prefixes.longest(Prefix.of(ids, reach)) == (48, 20)
    assert prefixes.fill([Range(48, 96)], 48)
    assert not prefixes.fill([Range(48, 112)], 32)
    prefixes.forget(48)
    assert not prefixes.fill([Range(48, 64)], 16)
    assert prefixes.longest(Prefix.of(ids, reach)).count == 0
    assert Prefix.of(ids, FULL).ids.size == 0
    for base in range(MOST_HELD + 9):
        prefixes.hold(base * GRAIN, Prefix.of([base % 60] * 8, reach))
    assert len(prefixes._held) == MOST_HELD
    assert min(prefixes._held) == 9 * GRAIN


def test_what_loads_kernels_writes_over_what_is_held() -> None:
    model, reach = model_of("block-causal"), Reach(block_size=4)
    store = KVStore(model.config, 4096, torch.float64, torch.device("cpu"))
    for base in (0, 4000):
        store.prefixes.hold(base, Prefix.of(range(base, base + 40), reach))
    store.keys.fill_(1.0)
    GraphLayers(model.network, store)._load_many()
    assert not store.keys[0, :40].any()
    assert store.keys[0, 4000:].all()
    assert store.prefixes.longest(Prefix.of(range(40), reach)).count == 0
    assert store.prefixes.longest(Prefix.of(range(4000, 4040), reach)) == (4000, 40)


def test_a_store_copies_over_itself() -> None:
    reach = Reach(block_size=4)
    shape = CONFIGS["block-causal"]
    store = KVStore(shape, 64, torch.float32, torch.device("cpu"))
    assert store.admit(16) == (0, 0)
    assert store.admit(32) == (16, 0)
    marks_C = torch.arange(64.0)[None, :, None, None]
    store.keys.copy_(marks_C.expand_as(store.keys))
    store.values.copy_(marks_C.expand_as(store.values))
    store.prefixes.hold(16, Prefix.of(range(28), reach))
    store.release(0)
    store.release(16)
    # Only one place is long enough, and it lies across.
    assert store.admit(64, Prefix.of(range(60), reach)) == (0, 28)
    for cells in (store.keys, store.values):
        assert (cells[:, :28] == marks_C[:, 16:44]).all()
