"""Who decodes may be interrupted, forked or nested: nobody waits for ever, no token changes."""

from __future__ import annotations

import asyncio
import gc
import linecache
import os
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import ConfigError, Engine, PromptError, Settings, Threshold
from skipstone.canvas import StepContext
from skipstone.engine.loop import Loop
from skipstone.engine.request import Handle
from skipstone.testing.tiny import MASK
from skipstone.unmask import Scores
from tests.helpers.processes import ended
from tests.helpers.watching import prompt_of, uneven_model

MODEL = uneven_model(2)
BASE = Settings(gen_length=12, block_length=6, unmask=Threshold(0.4))
PROMPTS = [prompt_of(n, 5 + n) for n in range(4)]
TOKENS = [Engine(MODEL, BASE).generate(prompt).tokens for prompt in PROMPTS]


# --- interrupted at any line

Trace = Callable[[FrameType, str, object], Any]


@dataclass
class Interrupts:
    """Raises at a line of the engine; without one, notes the lines."""

    at: int = -1

    def __post_init__(self) -> None:
        self.lines = list[tuple[str, str, int]]()

    def __call__(self, frame: FrameType, event: str, arg: object) -> Trace | None:
        code = frame.f_code
        if Path(code.co_filename).parent.name != "engine" or code.co_name.startswith("<"):
            return None
        # Between the body of a with and its end, no signal is looked for; only a tracer may raise.
        text = linecache.getline(code.co_filename, frame.f_lineno).strip()
        if event == "line" and not text.startswith("with "):
            self.lines.append((Path(code.co_filename).name, code.co_name, frame.f_lineno))
            if len(self.lines) == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    def watch(self, call: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)


def decode_beside(engine: Engine, others: list[Handle], trace: Interrupts) -> None:
    """Decode in this thread, while another one submits at the first turn."""
    turn = engine._driver._turn

    def first() -> bool:
        patch.undo()
        thread = threading.Thread(target=lambda: others.append(engine.submit(PROMPTS[3])))
        thread.start()
        thread.join()
        return turn()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._driver, "_turn", first)
        trace.watch(lambda: engine.generate_batch(PROMPTS[:3], batch_size=2))


def moments() -> list[int]:
    """Every line of who decodes, where it runs first and last, and some of all others."""
    seen, alone = Interrupts(), Engine(MODEL, BASE)
    decode_beside(alone, [], seen)
    last = {line: n for n, line in enumerate(seen.lines, 1)}
    first = {line: n for n, line in reversed([*enumerate(seen.lines, 1)])}
    ours = {"finish", "fail", "_ends", "_release", "_leave", "admit", "release", "_decode"}
    chosen = {
        n
        for line in last
        for n in (first[line], last[line])
        if line[0] == "driver.py" or line[1] in ours
    }
    return sorted(chosen | set(range(1, len(seen.lines), len(seen.lines) // 20)))


def test_an_interruption_at_any_line_leaves_nobody_waiting() -> None:
    for at in moments():
        engine, others, trace = Engine(MODEL, BASE, slots=2), list[Handle](), Interrupts(at)
        decode_beside(engine, others, trace)
        where = trace.lines[-1]
        for handle in others:
            assert handle.wait(20), where
            error = handle.exception()
            # Decoded, or ended together with the batch that was interrupted.
            assert isinstance(error, CancelledError) or handle.result().tokens == TOKENS[3], where
        again = [engine.submit(prompt) for prompt in PROMPTS[:2]]
        assert [handle.result(20).tokens for handle in again] == TOKENS[:2], where
        assert [one.tokens for one in engine.generate_batch(PROMPTS)] == TOKENS, where


# --- what ends the thread that decodes


@dataclass(frozen=True)
class Fatal(Threshold):
    """Ends the thread in prompts of five tokens."""

    error: type[BaseException] = SystemExit

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        if any(at.prompt_length == 5 for at in context.requests):
            raise self.error
        return super().select(scores, context)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_thread_ends_no_other_request(error: type[BaseException]) -> None:
    engine = Engine(MODEL, BASE.replace(unmask=Fatal(0.4, error)), slots=1)
    # It must not end the thread that waits, too.
    with pytest.raises(CancelledError, match=error.__name__):
        engine.submit(PROMPTS[0]).result(20)
    assert engine.submit(PROMPTS[1]).result(20).tokens == TOKENS[1]
    assert engine.generate(PROMPTS[2]).tokens == TOKENS[2]
    # Raised as it is, unless the background thread is still there and takes it along.
    with pytest.raises((error, CancelledError)):
        engine.generate(PROMPTS[0])
    assert engine.generate(PROMPTS[2]).tokens == TOKENS[2]


def test_a_batch_that_cannot_be_laid_out_ends_its_first_request_alone() -> None:
    engine = Engine(MODEL, BASE)
    begin = engine._layout.begin

    def refusing(*args: object) -> Loop:
        engine._driver._begin = begin
        raise SystemExit

    engine._driver._begin = refusing
    handles = [engine.submit(prompt) for prompt in PROMPTS[:2]]
    with pytest.raises(CancelledError, match="SystemExit"):
        handles[0].result(20)
    assert handles[1].result(20).tokens == TOKENS[1]


def test_where_no_thread_can_be_started_submit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = Engine(MODEL, BASE)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            engine.submit(PROMPTS[0])
    assert engine.submit(PROMPTS[1]).result(20).tokens == TOKENS[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_decodes_by_itself() -> None:
    code = (
        "import os, skipstone\n"
        "from concurrent.futures import CancelledError\n"
        "from tests.helpers.waiting import standing\n"
        "e = skipstone.Engine(skipstone.load('pebble'), unmask='fixed', gen_length=16)\n"
        "with standing(e, after=3) as turns:\n"
        "    handles = [e.submit('Who is Newton, physics?') for _ in range(3)]\n"
        "    turns.wait()\n"
        "    child = os.fork()\n"
        "try: handles[2].result(60)\n"
        "except CancelledError as error: assert 'before the fork' in str(error)\n"
        "else: assert child\n"
        "print(len(e.generate('Who is Newton, physics?').tokens), flush=True)\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert ended(code) == (0, "16\n16\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_waits_for_the_end_of_a_step() -> None:
    code = (
        "import os, threading, time, skipstone\n"
        "from skipstone.engine.observe import Taps\n"
        "lock, inside = threading.Lock(), threading.Event()\n"
        "def look(view):\n"
        "    with lock:\n"
        "        inside.set()\n"
        "        time.sleep(0.5)\n"
        "class Looking:\n"
        "    taps = Taps()\n"
        "    def on_start(self, *run): pass\n"
        "    def on_step(self, view): look(view)\n"
        "    def on_end(self, results): pass\n"
        "e = skipstone.Engine(skipstone.load('pebble'), unmask='fixed', gen_length=4)\n"
        "decode = lambda: e.generate('Who is Newton?', observer=Looking())\n"
        "threading.Thread(target=decode).start()\n"
        "inside.wait()\n"
        "child = os.fork()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
        "else:\n"
        "    print(lock.acquire(timeout=1), flush=True)\n"
        "    os._exit(0)\n"
    )
    assert ended(code) == (0, "True\n", "")


def test_whoever_decodes_while_the_process_ends_does_not_wait_for_ever() -> None:
    code = (
        "import atexit\n"
        "@atexit.register\n"
        "def last():\n"
        "    turns.going_on = True\n"
        "    for handle in (early, e.submit('Who is Newton, physics?')):\n"
        "        try: handle.result()\n"
        "        except BaseException as error: print(type(error).__name__, error)\n"
        "    print(len(e.generate('Who is Newton, physics?').tokens))\n"
        "import skipstone\n"
        "from tests.helpers.waiting import standing\n"
        "e = skipstone.Engine(skipstone.load('pebble'), unmask='fixed', gen_length=96)\n"
        "stands = standing(e, after=3)\n"
        "turns = stands.__enter__()\n"
        "early = e.submit('Who is Newton, physics?')\n"
        "turns.wait()\n"
    )
    ends = "CancelledError the process ends\n"
    assert ended(code) == (0, f"{ends}{ends}96\n", "")


# --- event loops


def gated(gate: threading.Event) -> Engine:
    """An engine that waits before its second step."""

    @dataclass(frozen=True)
    class Gated(Threshold):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            if any(at.forward for at in context.requests):
                gate.wait(30)
            return super().select(scores, context)

    return Engine(MODEL, BASE.replace(unmask=Gated(0.4)), slots=2)


def test_an_event_loop_that_was_closed_is_not_told_any_more() -> None:
    gate = threading.Event()
    engine = gated(gate)
    read, beside = engine.submit(PROMPTS[0]), engine.submit(PROMPTS[1])
    commits, loop = read.__aiter__(), asyncio.new_event_loop()
    loop.run_until_complete(anext(commits))
    loop.close()
    gate.set()
    assert [one.result(20).tokens for one in (read, beside)] == TOKENS[:2]


def test_a_task_that_is_cancelled_wakes_those_who_read_the_same_request() -> None:
    gate = threading.Event()
    handle = gated(gate).submit(PROMPTS[0])
    reader = threading.Thread(target=lambda: list(handle), daemon=True)
    reader.start()

    async def impatient() -> None:
        await asyncio.wait_for(handle, 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(impatient())
    reader.join(20)
    assert not reader.is_alive()
    assert handle.cancelled()
    gate.set()


# --- what is kept, and what is refused


def test_a_stream_that_nobody_begins_to_read_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, handles = threading.Event(), list[Handle]()
    engine = gated(gate)
    submit = engine._driver.submit

    def noted(handle: Handle) -> None:
        handles.append(handle)
        submit(handle)

    monkeypatch.setattr(engine._driver, "submit", noted)
    stream = engine.stream(PROMPTS[0])
    assert not handles[0].done()
    del stream
    gc.collect()
    assert handles[0].cancelled()
    gate.set()


def test_a_loop_that_never_rests_keeps_nothing_of_those_that_left() -> None:
    engine, fewest = Engine(MODEL, BASE, slots=2), 12
    driver = engine._driver
    driver._owner = threading.current_thread()
    handles = [weakref.ref(engine.submit(prompt_of(n, 5))) for n in range(12)]
    while driver._turn():
        if driver._loop is not None:
            fewest = min(fewest, sum(handle() is not None for handle in handles))
    # The last ones, in their slots.
    assert 1 <= fewest <= 2


class Leaving:
    """A request that gets its slot in the moment in which somebody looks at it."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    @property
    def watch(self) -> None:
        self._queue.popleft()


def test_requests_get_their_slots_while_another_one_is_submitted() -> None:
    driver = Engine(MODEL, BASE)._driver
    queue: Any = driver._queue
    queue.extend(Leaving(queue) for _ in range(3))
    newest: Any = SimpleNamespace(watch=None)
    driver._check_observer(newest)
    assert not queue


@pytest.mark.parametrize(
    "stop_ids", [5, "w1", [1.5], [True], [[1, 2]], None, torch.tensor([1.5]), {1: 2}], ids=repr
)
def test_stop_ids_that_are_none_are_refused(stop_ids: object) -> None:
    with pytest.raises(ConfigError, match="stop_ids"):
        Engine(MODEL, BASE).submit([1], stop_ids=stop_ids)  # pyrefly: ignore[bad-argument-type]


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, torch.tensor])
def test_stop_ids_may_be_given_as_a_prompt_is(kind: Callable[[list[int]], object]) -> None:
    engine = Engine(MODEL, BASE, eos_stop=False)
    stop, other = engine.generate(PROMPTS[0]).tokens[0], 3
    stops = kind([stop, other])
    handle = engine.submit(PROMPTS[0], stop_ids=stops)  # pyrefly: ignore[bad-argument-type]
    assert handle.result(20).length == 0


def test_a_canvas_that_is_longer_than_the_model_allows_is_refused() -> None:
    engine, most = Engine(MODEL, BASE), MODEL.config.max_length
    assert engine.edit([1, MASK] * (most // 2)).masks_left == 0
    for canvas in ([1, MASK] * most, [1] * most + [MASK]):
        with pytest.raises(PromptError, match=f"more than the model's {most} tokens"):
            engine.edit(canvas)
