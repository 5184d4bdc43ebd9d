"""Requests beside each other: whatever comes, goes or breaks, each gives what it gives alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import (
    ConfigError,
    CosineSkip,
    DualCache,
    Engine,
    Factor,
    Fixed,
    NoCache,
    NotFiniteError,
    PrefixCache,
    PromptError,
    Result,
    Settings,
    StalledError,
    Threshold,
)
from skipstone.canvas import Geometry, StepContext
from skipstone.engine.commits import Commit
from skipstone.engine.load import EngineLoad
from skipstone.engine.observe import StepView
from skipstone.engine.request import Handle
from skipstone.engine.scheduler import Scheduler
from skipstone.errors import DeadlockError, PolicyError
from skipstone.models.load import Model
from skipstone.testing.tiny import EOS, MASK
from skipstone.tracing import Recorder
from skipstone.unmask import DreamThreshold, Scores, UnmaskPolicy, UnmaskSession
from tests.helpers.processes import ended
from tests.helpers.waiting import standing, wait_until
from tests.helpers.watching import Looking, ending_model, prompt_of, uneven_model

BASE = Settings(gen_length=12, block_length=6, unmask=Threshold(0.4))
MODELS = [ending_model(0), uneven_model(2)]


@pytest.fixture
def model() -> Model:
    return MODELS[1]


def assert_same(mine: Result, alone: Result) -> None:
    assert mine.tokens == alone.tokens
    assert mine.text == alone.text
    assert mine.stats.steps == alone.stats.steps
    assert mine.notes == alone.notes
    assert mine.settings == alone.settings


UNMASKS: list[UnmaskPolicy] = [
    Fixed(),
    Fixed("random"),
    Fixed("entropy", "time", first_alone=True),
    DreamThreshold(0.4),
    DreamThreshold(0.2, cached=False),
    Threshold(0.4),
    Factor(1.0),
]


@st.composite
def any_request(draw: st.DrawFn) -> tuple[list[int], Settings]:
    gen_length = draw(st.integers(2, 18))
    unmask = draw(st.sampled_from(UNMASKS))
    temperature = draw(st.sampled_from([0.0, 0.0, 0.7]))
    seeded = unmask.uses_seed or temperature > 0
    return draw(st.integers(0, 99).map(lambda s: prompt_of(s, 1 + s % 30))), Settings(
        gen_length=gen_length,
        block_length=draw(st.integers(2, 10)),
        cache=draw(st.sampled_from([NoCache(), PrefixCache(), DualCache(), DualCache(3)])),
        unmask=unmask,
        temperature=temperature,
        top_p=draw(st.sampled_from([None, None, 0.6])),
        top_k=draw(st.sampled_from([None, None, 4])),
        seed=draw(st.integers(0, 9)) if seeded else None,
        eos_stop=draw(st.booleans()),
        budget=draw(st.sampled_from(["finish", "stop"])),
    )


def any_arrivals() -> st.SearchStrategy[list[tuple[tuple[list[int], Settings], int, bool]]]:
    one = st.tuples(any_request(), st.integers(0, 6), st.sampled_from([False, False, False, True]))
    return st.lists(one, min_size=1, max_size=7)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.sampled_from(MODELS), any_arrivals(), st.sampled_from([16, 40, 2048]))
def test_a_request_gives_what_it_gives_alone(
    model: Model, arrivals: list[tuple[tuple[list[int], Settings], int, bool]], budget: int
) -> None:
    """Random arrivals, lengths, settings and cancellations, under a small budget of rows, too."""
    engine = Engine(model, BASE, slots=3)
    # Turned by hand, so that arrivals happen at the steps that were drawn.
    driver, handles, taken = engine._driver, list[Handle](), 0
    driver._owner = threading.current_thread()
    for (prompt, chosen), pause, _ in arrivals:
        request = engine._requests.of_prompt(prompt, "the prompt", chosen)
        handles.append(engine._handle(request, joined=True))
        driver.submit(handles[-1])
        for _ in range(pause):
            taken += driver._turn()
            if driver._loop is not None:
                driver._loop.scheduler.budget = budget
    for handle, (_, _, cancelled) in zip(handles, arrivals, strict=True):
        if cancelled:
            handle.cancel()
    while driver._turn():
        pass
    for handle, ((prompt, chosen), _, cancelled) in zip(handles, arrivals, strict=True):
        if cancelled and handle.cancelled():
            continue
        assert_same(handle.result(0), Engine(model, chosen).generate(prompt))


def test_requests_with_other_settings_are_decoded_in_one_step(model: Model) -> None:
    engine, seen = Engine(model, BASE, slots=4), set[int]()
    driver = engine._driver
    driver._owner = threading.current_thread()
    chosen = [
        BASE,
        BASE.replace(unmask="fixed", steps=4, gen_length=8),
        BASE.replace(unmask="threshold:0.9", temperature=0.8, seed=3),
        BASE.replace(cache="prefix", block_length=3, eos_stop=False),
    ]
    handles = list[Handle]()
    for n, one in enumerate(chosen):
        request = engine._requests.of_prompt(prompt_of(n, 5 + 3 * n), "the prompt", one)
        handles.append(engine._handle(request, joined=True))
        driver.submit(handles[-1])
    while driver._turn():
        if driver._loop is not None:
            seen.add(len(driver._loop.batch.states))
    assert 4 in seen
    for n, (handle, one) in enumerate(zip(handles, chosen, strict=True)):
        assert_same(handle.result(0), Engine(model, one).generate(prompt_of(n, 5 + 3 * n)))


def test_a_longer_prompt_and_a_longer_answer_are_fine(model: Model) -> None:
    engine = Engine(model, BASE, slots=2)
    short, long = engine.submit([1, 2]), engine.submit(prompt_of(3, 60), gen_length=30)
    assert_same(short.result(60), Engine(model, BASE).generate([1, 2]))
    twin = Engine(model, BASE, gen_length=30).generate(prompt_of(3, 60))
    assert_same(long.result(60), twin)


def test_another_skip_policy_waits_for_its_turn(model: Model) -> None:
    engine = Engine(model, BASE)
    skip = CosineSkip(3, 0.8, 0.5)
    handles = [engine.submit(prompt_of(n, 9), skip=skip if n % 2 else "none") for n in range(4)]
    for n, handle in enumerate(handles):
        alone = Engine(model, BASE, skip=skip if n % 2 else "none")
        assert_same(handle.result(60), alone.generate(prompt_of(n, 9)))


def test_many_threads_on_one_engine_get_what_each_gets_alone(model: Model) -> None:
    engine, found = Engine(model, BASE, slots=3), dict[int, Result]()

    def decode(n: int) -> None:
        prompt = prompt_of(n, 3 + 4 * n)
        found[n] = engine.submit(prompt).result(120) if n % 2 else engine.generate(prompt)

    threads = [threading.Thread(target=decode, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, result in found.items():
        assert_same(result, Engine(model, BASE).generate(prompt_of(n, 3 + 4 * n)))
    assert len(found) == 8
    # The last result is there some moments before the thread that decoded it has left.
    wait_until(lambda: engine._driver._owner is None)


# --- what a handle can do


def slow_engine(model: Model, gate: threading.Event) -> Engine:
    """An engine whose second step waits until the gate is open."""

    @dataclass(frozen=True)
    class Gated(Threshold):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            if any(at.forward for at in context.requests):
                gate.wait(30)
            return super().select(scores, context)

    return Engine(model, BASE.replace(unmask=Gated(0.4)), slots=2)


def test_a_timeout_leaves_the_request_alone_and_cancel_ends_it(model: Model) -> None:
    gate = threading.Event()
    engine = slow_engine(model, gate)
    first, second, third = (engine.submit(prompt_of(n, 4)) for n in range(3))
    with pytest.raises(TimeoutError):
        first.result(0.01)
    assert not first.done()
    assert "being decoded" in repr(first)
    # One that is being decoded, and one that waits for a slot.
    assert second.cancel()
    assert third.cancel()
    gate.set()
    assert_tokens(first.result(60), model)
    for handle in (second, third):
        assert handle.cancelled()
        with pytest.raises(CancelledError):
            handle.result()
    assert not first.cancel()
    # The slots are free again.
    assert_tokens(engine.submit(prompt_of(0, 4)).result(60), model)


def assert_tokens(result: Result, model: Model) -> None:
    assert result.tokens == Engine(model, BASE).generate(prompt_of(0, 4)).tokens


def read(commits: Iterator[Commit]) -> dict[int, int]:
    found = dict[int, int]()
    for commit in commits:
        assert commit.position not in found
        found[commit.position] = commit.token
    return found


def test_a_stream_gives_every_commit_once_and_the_text_as_it_becomes_final(model: Model) -> None:
    engine = Engine(model, BASE, eos_stop=False)
    whole = engine.generate(prompt_of(1, 7))
    commits = list(engine.stream(prompt_of(1, 7)))
    assert read(iter(commits)) == dict(enumerate(whole.tokens))
    texts = [commit.text for commit in commits]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == whole.text
    assert len(set(texts)) > 1


def test_whoever_stops_reading_a_stream_cancels_it(model: Model) -> None:
    gate = threading.Event()
    engine = slow_engine(model, gate)
    stream = engine.stream(prompt_of(0, 4))
    next(stream)
    stream.close()  # pyrefly: ignore[missing-attribute]
    gate.set()
    assert_tokens(engine.generate(prompt_of(0, 4)), model)


def test_a_handle_is_awaited_and_read_in_an_event_loop(model: Model) -> None:
    engine = Engine(model, BASE, eos_stop=False)

    async def both() -> tuple[Result, list[Commit]]:
        waited, streamed = engine.submit(prompt_of(1, 7)), engine.submit(prompt_of(1, 7))
        return await waited, [commit async for commit in streamed]

    result, commits = asyncio.run(both())
    assert result.tokens == engine.generate(prompt_of(1, 7)).tokens
    assert read(iter(commits)) == dict(enumerate(result.tokens))


def test_a_request_that_is_done_returns_at_once(model: Model) -> None:
    gate = threading.Event()

    @dataclass(frozen=True)
    class Late(Threshold):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            if any(at.block.index for at in context.requests):
                gate.wait(30)
            return super().select(scores, context)

    engine = Engine(model, BASE.replace(unmask=Late(0.4)), slots=2)
    short, long = engine.submit([1, 2], gen_length=6), engine.submit([3, 4], gen_length=12)
    assert len(short.result(60).tokens) == 6
    assert not long.done()
    gate.set()
    assert len(long.result(60).tokens) == 12


# --- what goes wrong


@dataclass(frozen=True)
class NeverBeyond(Threshold):
    """Commits nothing in prompts of five tokens."""

    def start(self, geometry: Geometry) -> NeverBeyond:
        return self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        chosen_BG = super().select(scores, context)
        for at in context.requests:
            if at.prompt_length == 5:
                chosen_BG[at.slot] = False
        return chosen_BG


def test_a_request_that_stalls_ends_alone(model: Model) -> None:
    engine = Engine(model, BASE.replace(unmask=NeverBeyond(0.4)), slots=3)
    handles = [engine.submit(prompt_of(n, 4 + n)) for n in range(3)]
    with pytest.raises(StalledError, match="chooses no mask"):
        handles[1].result(60)
    for n in (0, 2):
        twin = Engine(model, BASE).generate(prompt_of(n, 4 + n))
        assert handles[n].result(60).tokens == twin.tokens
    # Waited for together, the others are decoded all the same.
    with pytest.raises(StalledError):
        engine.generate_batch([prompt_of(n, 4 + n) for n in range(3)])


def test_a_number_that_is_not_finite_ends_its_request_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt_of(n, 4 + n) for n in range(4)]
    twins = [Engine(model, BASE).generate(prompt) for prompt in prompts]
    embed = type(model.network).embed
    evil = max(prompts[2])

    def poisoned(self: object, ids_N: Tensor) -> Tensor:
        x_ND = embed(self, ids_N)  # pyrefly: ignore[bad-argument-type]
        return torch.where((ids_N == evil)[:, None], torch.nan, x_ND)

    for n in (0, 1, 3):
        assert evil not in (*prompts[n], *twins[n].tokens)
    monkeypatch.setattr(type(model.network), "embed", poisoned)
    with pytest.raises(NotFiniteError, match=r"prompt 2.*embedding.*3 of 4") as caught:
        Engine(model, BASE).generate_batch(prompts)
    assert sorted(caught.value.finished) == [0, 1, 3]
    for n, result in caught.value.finished.items():
        assert result.tokens == twins[n].tokens
        assert result.stats.steps == twins[n].stats.steps


class Raising(Recorder):
    """Raises in its third step."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error, self._seen = error, 0

    def on_step(self, view: object) -> None:
        self._seen += 1
        if self._seen == 3:
            raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the disk is full")], ids=repr)
def test_after_an_interruption_the_engine_gives_what_a_fresh_one_gives(
    model: Model, error: BaseException
) -> None:
    engine = Engine(model, BASE, unmask="fixed", skip=CosineSkip(3, 0.8, 0.5))
    prompts = [prompt_of(n, 5 + n) for n in range(5)]
    waiting = engine.submit(prompts[0])
    waiting.result(60)
    with pytest.raises(type(error)) as caught:
        engine.generate_batch(prompts, batch_size=2, observer=Raising(error))
    assert caught.value is error
    beside = engine.submit(prompts[4])
    fresh = Engine(model, engine.settings)
    for mine, theirs in zip(
        engine.generate_batch(prompts), fresh.generate_batch(prompts), strict=True
    ):
        assert_same(mine, theirs)
    assert_same(beside.result(60), fresh.generate(prompts[4]))


def test_an_observer_sees_its_own_requests_alone(model: Model) -> None:
    engine, recorder, alone = Engine(model, BASE), Recorder(), Recorder()
    others = [engine.submit(prompt_of(n, 9)) for n in range(3)]
    engine.generate(prompt_of(7, 9), observer=recorder)
    Engine(model, BASE).generate(prompt_of(7, 9), observer=alone)
    assert len(recorder.records) == 1
    for mine, theirs in zip(recorder.records[0].steps, alone.records[0].steps, strict=True):
        assert mine.committed == theirs.committed
        assert mine.forward == theirs.forward
    for handle in others:
        handle.result(60)


def test_what_cannot_be_decoded_is_refused_when_it_is_submitted(model: Model) -> None:
    engine = Engine(model, BASE)
    with pytest.raises(PromptError, match="empty"):
        engine.submit([])
    with pytest.raises(ConfigError, match="gen_length"):
        engine.submit([1], gen_lenght=3)  # pyrefly: ignore[unexpected-keyword]
    with pytest.raises(ConfigError, match="beyond the"):
        engine.submit([1], skip="cosine:skip_layer_k=99")
    with pytest.raises(ConfigError, match="slots is 0"):
        Engine(model, slots=0)


def test_a_stop_id_ends_an_answer_as_eos_does(model: Model) -> None:
    engine = Engine(model, BASE, eos_stop=False, gen_length=24)
    whole = engine.generate(prompt_of(1, 7))
    stop = whole.tokens[4]
    first = whole.tokens.index(stop)
    stopped = engine.submit(prompt_of(1, 7), stop_ids=[stop, 3]).result(60)
    assert stopped.length == first
    assert stopped.answer == whole.tokens[:first]
    assert stopped.stats.num_forwards < whole.stats.num_forwards
    assert list(engine.stream(prompt_of(1, 7), stop_ids=[stop]))[-1].text == stopped.text
    # Beside it, another request goes on.
    both = engine.submit(prompt_of(1, 7)), engine.submit(prompt_of(1, 7), stop_ids=[stop])
    assert [one.result(60).length for one in both] == [24, first]
    with pytest.raises(ConfigError, match="at most 8"):
        engine.submit([1], stop_ids=list(range(9)))
    with pytest.raises(PromptError, match="stop_ids holds id 9999"):
        engine.submit([1], stop_ids=[9999])


# --- masks anywhere


def test_edit_fills_the_masks_and_leaves_the_rest(model: Model) -> None:
    canvas = [1, 2, MASK, 4, MASK, MASK, 7, 8, MASK, EOS]
    result = Engine(model, BASE, block_length=4).edit(canvas)
    whole = [*canvas[:2], *result.tokens]
    assert all(a == b for a, b in zip(canvas, whole, strict=True) if a != MASK)
    assert MASK not in whole
    assert result.prompt_tokens == 2
    assert sum(one.committed for one in result.stats.steps) == 4


def test_edit_of_a_prompt_and_its_masks_is_generate(model: Model) -> None:
    prompt = prompt_of(2, 6)
    engine = Engine(model, BASE, eos_stop=False)
    edited = engine.edit(torch.tensor([[*prompt, *[MASK] * BASE.gen_length]]))
    assert edited.tokens == engine.generate(prompt).tokens


def test_what_stands_right_of_a_mask_is_seen(model: Model) -> None:
    engine = Engine(model, BASE)
    found = {engine.edit([1, 2, MASK, MASK, MASK, right, right]).tokens[:3] for right in range(20)}
    assert len(found) > 1


def test_masks_in_a_prompt_and_a_mask_as_a_stop_id_are_said(model: Model) -> None:
    mask = model.config.mask_id
    engine = Engine(model, gen_length=8, block_length=8, eos_stop=False)
    (note,) = [n for n in engine.generate([5, mask, 7]).notes if "prompt" in n]
    assert f"1 id of the prompt is the mask ({mask}) and stayed" in note
    assert "Engine.edit" in note
    assert not [n for n in engine.edit([5, mask, 7]).notes if "prompt" in n]
    stopped = engine.submit([5, 6], stop_ids=[mask]).result(60)
    assert f"stop id {mask} has no effect: it is the mask, which is never decided" in stopped.notes


def test_canvases_are_filled_beside_other_requests_as_alone(model: Model) -> None:
    engine = Engine(model, BASE, block_length=4, slots=3)
    canvases = [[1, 2, MASK, 4, MASK, MASK, 7, 8, MASK, EOS], [3, MASK, 5, MASK, *range(9, 20)]]
    alone = [engine.edit(canvas).tokens for canvas in canvases]
    prompt = prompt_of(2, 6)
    handles = [
        engine.submit_canvas(canvases[0]),
        engine.submit(prompt),
        engine.submit_canvas(canvases[1], unmask="fixed"),
        engine.submit_canvas(canvases[1]),
    ]
    results = [handle.result(60) for handle in handles]
    assert [results[0].tokens, results[3].tokens] == alone
    assert results[1].tokens == engine.generate(prompt).tokens
    told = {c.position: c.token for c in engine.submit_canvas(canvases[0])}
    assert told == {at: alone[0][at] for at in (0, 2, 3, 6)}


def test_edit_refuses_what_has_no_masks(model: Model) -> None:
    engine = Engine(model, BASE)
    with pytest.raises(PromptError, match="no mask"):
        engine.edit([1, 2, 3])
    with pytest.raises(ConfigError, match="leave gen_length out"):
        engine.edit([1, MASK], gen_length=3)


def test_the_budget_of_rows_is_the_schedulers() -> None:
    assert Scheduler().budget == 896


def test_a_process_that_ends_while_others_are_decoded_ends_well() -> None:
    code = (
        "import skipstone\n"
        "from tests.helpers.waiting import standing\n"
        "e = skipstone.Engine(skipstone.load('pebble'), unmask='fixed', eos_stop=False)\n"
        "with standing(e, after=3) as turns:\n"
        "    first, *_ = [e.submit('Who is Newton, physics?') for _ in range(3)]\n"
        "    turns.wait()\n"
        "    print(first.done())\n"
    )
    assert ended(code) == (0, "False\n", "")


def test_an_observer_may_ask_the_engine_that_it_watches(model: Model) -> None:
    engine = Engine(model, BASE)
    twins = [Engine(model, BASE).generate(prompt_of(n, 6)).tokens for n in range(3)]

    class Asking(Recorder):
        submitted: Handle | None = None
        asked: Result | None = None

        def on_step(self, view: StepView) -> None:
            super().on_step(view)
            if self.submitted is None:
                self.submitted = engine.submit(prompt_of(1, 6))
                self.asked = engine.generate(prompt_of(2, 6))
            # It waits for its turn in the loop that is in the middle of this step.
            assert self.submitted in engine._driver._queue

    asking = Asking()
    assert engine.generate(prompt_of(0, 6), observer=asking).tokens == twins[0]
    assert asking.submitted is not None
    assert asking.asked is not None
    assert asking.submitted.result(60).tokens == twins[1]
    assert asking.asked.tokens == twins[2]


WAITS: dict[str, Callable[[Handle], object]] = {
    "result": lambda handle: handle.result(),
    "result with a time limit": lambda handle: handle.result(0.01),
    "wait": lambda handle: handle.wait(60),
    "iteration": list,
}


@pytest.mark.parametrize("wait", list(WAITS))
@pytest.mark.parametrize("background", [False, True])
def test_what_would_wait_for_itself_is_refused(model: Model, wait: str, background: bool) -> None:
    submitted = list[Handle]()

    @dataclass(frozen=True)
    class Waiting(Threshold):
        """A policy that asks for another request and waits for it, once."""

        def select(self, scores: Scores, context: StepContext) -> Tensor:
            if not submitted:
                submitted.append(engine.submit(prompt_of(1, 6), unmask=Threshold(0.4)))
                WAITS[wait](submitted[0])
            return super().select(scores, context)

    engine = Engine(model, BASE, unmask=Waiting(0.4))

    def ask() -> Result:
        prompt = prompt_of(0, 6)
        return engine.submit(prompt).result(60) if background else engine.generate(prompt)

    with pytest.raises(DeadlockError, match="goes on only when it returns"):
        ask()
    # The other one is decoded all the same, and so is whoever comes later.
    alone = Engine(model, BASE, unmask=Threshold(0.4))
    assert submitted[0].result(60).tokens == alone.generate(prompt_of(1, 6)).tokens
    assert engine.generate(prompt_of(0, 6)).tokens == alone.generate(prompt_of(0, 6)).tokens


def test_what_is_done_may_be_taken_in_the_middle_of_a_step(model: Model) -> None:
    engine, early = Engine(model, BASE), list[Result]()
    handle = engine.submit(prompt_of(1, 6))
    handle.wait(60)

    class Taking(Recorder):
        def on_step(self, view: StepView) -> None:
            early.append(handle.result())

    engine.generate(prompt_of(0, 6), observer=Taking())
    assert {one.tokens for one in early} == {handle.result().tokens}


@pytest.mark.parametrize(
    "chosen",
    [
        BASE.replace(unmask=Fixed("random"), seed=3, eos_stop=False),
        BASE.replace(skip=CosineSkip(2, 0.3, -1.0), unmask="fixed", eos_stop=False),
        BASE.replace(temperature=1.0, seed=5, eos_stop=False),
    ],
    ids=["random order", "skip", "temperature"],
)
def test_a_slot_that_is_taken_again_speaks_of_nobody_before(model: Model, chosen: Settings) -> None:
    """While another request keeps the policies' memory alive."""
    engine = Engine(model, chosen, slots=2)
    long = engine.submit(prompt_of(9, 5), gen_length=30, block_length=2)
    short = [engine.submit(prompt_of(n, 9), gen_length=6) for n in range(4)]
    twin = Engine(model, chosen, gen_length=30, block_length=2).generate(prompt_of(9, 5))
    assert_same(long.result(60), twin)
    for n, handle in enumerate(short):
        alone = Engine(model, chosen, gen_length=6).generate(prompt_of(n, 9))
        assert_same(handle.result(60), alone)


def test_no_more_are_decoded_at_once_than_there_are_slots(model: Model) -> None:
    engine, most = Engine(model, BASE, slots=2), list[int]()
    gate = threading.Event()

    @dataclass(frozen=True)
    class Counting(Threshold):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            gate.wait(30)
            most.append(scores.confidence_BG.shape[0])
            return super().select(scores, context)

    handles = [engine.submit(prompt_of(n, 5), unmask=Counting(0.4)) for n in range(9)]
    gate.set()
    assert len({handle.result(60).tokens for handle in handles}) > 1
    assert max(most) == 2


@dataclass(frozen=True)
class FailingChoice(Threshold):
    """Fails from its second step on, in one way or another."""

    how: str = "raise"

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        chosen_BG = super().select(scores, context)
        if all(at.forward == 0 for at in context.requests):
            return chosen_BG
        if self.how == "raise":
            raise LookupError("no such offset")
        return chosen_BG[:, :-1] if self.how == "shape" else chosen_BG.float()


@dataclass(frozen=True)
class NeverStarts(Threshold):
    """Has no memory to give."""

    def start(self, geometry: Geometry) -> UnmaskSession:
        raise ZeroDivisionError


@pytest.mark.parametrize("first", [True, False], ids=["asked first", "asked last"])
@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (
            FailingChoice(0.4),
            r"FailingChoice.*LookupError: no such offset \(test_requests.py:\d+\)",
        ),
        (
            FailingChoice(0.4, "shape"),
            r"selects bool \[3, 11\] on cpu, must be bool \[3, 12\] on cpu",
        ),
        (
            FailingChoice(0.4, "dtype"),
            r"selects float32 \[3, 12\] on cpu, must be bool \[3, 12\] on cpu",
        ),
        (NeverStarts(0.4), r"NeverStarts.*ZeroDivisionError \(test_requests.py:\d+\)"),
    ],
    ids=["raises", "shape", "dtype", "start"],
)
def test_an_error_of_a_policy_ends_the_requests_that_share_it_alone(
    model: Model, policy: Threshold, told: str, *, first: bool
) -> None:
    engine = Engine(model, BASE, slots=3)
    # The first of a queue lays out the batch; a policy that fails must not be that of all.
    unmasks = [policy, Threshold(0.4), policy] if first else [Threshold(0.4), policy, policy]
    handles = [engine.submit(prompt_of(n, 4 + n), unmask=one) for n, one in enumerate(unmasks)]
    for n, (handle, unmask) in enumerate(zip(handles, unmasks, strict=True)):
        if unmask == policy:
            with pytest.raises(PolicyError, match=told):
                handle.result(60)
        else:
            twin = Engine(model, BASE, unmask=unmask).generate(prompt_of(n, 4 + n))
            assert handle.result(60).tokens == twin.tokens
    # Control: the engine goes on.
    assert_tokens(engine.generate(prompt_of(0, 4)), model)


def test_an_engine_says_what_it_has_to_do(model: Model) -> None:
    engine, seen = Engine(model, BASE, slots=2, memory="1MB"), list[EngineLoad]()
    before = engine.load
    assert before[:4] == (0, 0, 2, 0)
    assert before.most_positions * before.position_bytes <= 1_000_000
    assert (before.most_positions + 16) * before.position_bytes > 1_000_000
    looking = Looking(lambda view: seen.append(engine.load))
    with standing(engine):
        handles = [
            engine.submit(prompt_of(n, 9), observer=observer, gen_length=40, unmask=Fixed())
            for n, observer in enumerate((looking, None, None, None))
        ]
    for handle in handles:
        handle.result(60)
    # Prompt and answer of each, rounded up.
    busy = before._replace(waiting=2, running=2, positions=2 * 64, waiting_positions=2 * 64)
    assert busy in seen
    # A result is there some moments before its slot is free.
    wait_until(lambda: engine.load == before)


def test_a_handle_says_when_its_request_was_admitted_and_when_it_began_to_answer(
    model: Model,
) -> None:
    engine = Engine(model, BASE, slots=1)
    with standing(engine, after=3) as turns:
        first, late = (engine.submit(prompt_of(n, 9), gen_length=40) for n in range(2))
        both = time.perf_counter()
        turns.wait()
        assert late.seconds_to_first is None
        waits = time.perf_counter() - both
    late.result(60)
    for handle in (first, late):
        waited, began = handle.seconds_waited, handle.seconds_to_first
        assert waited is not None
        assert began is not None
        assert 0 <= waited < began < handle.seconds
    assert late.seconds_waited is not None
    assert late.seconds_waited >= waits
