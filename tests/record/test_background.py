"""Steps that are written in the background: the same as those written at once, and none is lost."""

from __future__ import annotations

import dataclasses
import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from skipstone.engine import Engine
from skipstone.engine.observe import Observers, StepView
from skipstone.errors import TraceError
from skipstone.models.load import Model
from skipstone.record import TraceWriter, open_trace
from skipstone.record.background import Background
from skipstone.record.trace import Taken
from skipstone.tracing import Recorder
from skipstone.tracing.record.decisions import Decisions
from skipstone.unmask import Factor, Threshold
from tests.helpers import synthetic_trace as made_up
from tests.helpers.waiting import wait_until
from tests.helpers.watching import BASE, LOW, Looking, prompt_of
from tests.record.test_store import child, damage, same

PROMPTS = [prompt_of(1, 5), prompt_of(2, 9)]


def taken(forward: int) -> Taken:
    return 0, made_up.step(forward), {}


# --- the thread


def test_pieces_are_done_in_order_and_all_of_them() -> None:
    background, done = Background(), list[int]()
    for i in range(100):
        background.add(lambda i=i: done.append(i))
        assert i - len(done) <= 1
    background.finish()
    assert done == list(range(100))
    background.add(lambda: done.append(-1))
    background.finish()
    assert done[-1] == -1


def test_nobody_waits_for_a_piece() -> None:
    background, gate = Background(), threading.Event()
    background.add(lambda: _true(gate.wait(60)))
    assert not gate.is_set()
    gate.set()
    background.finish()


def _true(value: bool) -> None:
    assert value


def fail() -> None:
    raise ValueError("torn")


CALLS_OF_BACKGROUND: dict[str, Callable[[Background], None]] = {
    "add": lambda background: background.add(lambda: _true(False)),
    "wait": Background.wait,
    "finish": Background.finish,
}


@pytest.mark.parametrize("then", CALLS_OF_BACKGROUND)
def test_a_failure_is_told_once_and_what_is_handed_over_then_is_not_taken(then: str) -> None:
    background = Background()
    background.add(fail)
    with pytest.raises(ValueError, match="torn"):
        CALLS_OF_BACKGROUND[then](background)
    background.wait()
    background.finish()


def test_a_thread_ends_with_its_owner_even_if_its_own_work_held_it() -> None:
    # Threads that other tests began may end meanwhile.
    before = set(threading.enumerate())
    background = Background()
    background.add(lambda held=background: _true(held is not None))
    (mine,) = set(threading.enumerate()) - before
    del background

    def ended() -> bool:
        gc.collect()
        return not mine.is_alive()

    wait_until(ended)


# --- a writer that is killed, forgotten or stopped


def test_a_killed_writer_leaves_steps_that_are_right_and_without_holes(tmp_path: Path) -> None:
    last_taken: dict[str, int] = json.loads(child("kill-later", str(tmp_path), "50"))
    assert len(last_taken) == 50
    lost = list[int]()
    for name, last in last_taken.items():
        with open_trace(tmp_path / name) as trace:
            assert not trace.closed
            steps = trace.records[0].steps
            assert all(same(step, made_up.step(f)) for f, step in enumerate(steps))
            # One more may have been taken, and not yet said so.
            lost.append(last + 1 - len(steps))
            assert -1 <= lost[-1] <= 1
    # Control: the writers were killed at work.
    assert len(set(last_taken.values())) > 10


def test_a_writer_that_nobody_closes_writes_what_it_took(tmp_path: Path) -> None:
    child("forget", str(tmp_path / "run.trace"), "20")
    with open_trace(tmp_path / "run.trace") as trace:
        assert not trace.closed
        assert same(trace.records[0].steps, tuple(made_up.step(f) for f in range(20)))


def test_a_full_disk_stops_the_run_and_keeps_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    number, message = json.loads(child("fill-later", str(path), "500000"))
    assert "cannot be written" in message
    with open_trace(path) as trace:
        assert not trace.closed
        steps = trace.records[0].steps
        assert 10 < len(steps) < number <= len(steps) + 2
        assert all(same(step, made_up.step(f)) for f, step in enumerate(steps))


def broken_writer(path: Path) -> TraceWriter:
    """One whose disk refuses the third step."""
    sink = TraceWriter(path)
    sink.begin([made_up.header()], "decisions")
    sink.later([taken(0), taken(1)])
    sink.event(0, made_up.event())  # everything is on the disk now
    damage(path, "DROP TABLE steps")
    sink.later([taken(2)])
    wait_until(lambda: sink._database is None)
    return sink


CALLS: dict[str, Callable[[TraceWriter], None]] = {
    "later": lambda sink: sink.later([taken(3)]),
    "step": lambda sink: sink.step(*taken(3)),
    "event": lambda sink: sink.event(0, made_up.event()),
    "end": lambda sink: sink.end([made_up.outcome()]),
    "close": TraceWriter.close,
}


@pytest.mark.parametrize("then", CALLS)
def test_what_went_wrong_behind_is_told_by_the_next_call(tmp_path: Path, then: str) -> None:
    sink = broken_writer(tmp_path / "run.trace")
    with pytest.raises(TraceError, match=r"cannot be written \(no such table: steps\)"):
        CALLS[then](sink)
    with pytest.raises(TraceError, match="takes no more"):
        sink.later([taken(4)])
    sink.close()  # it has been told


def test_steps_events_and_steps_again_stand_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "full")
        for forward in range(6):
            if forward % 3:
                sink.later([taken(forward)])
            else:
                sink.step(0, made_up.step(forward), made_up.tensors(forward))
                with open_trace(path) as trace:  # what stands is not lost
                    assert len(trace.records[0].steps) == forward + 1
    with open_trace(path) as trace:
        assert same(trace.records[0].steps, tuple(made_up.step(f) for f in range(6)))


# --- the recorder


class Stopped(Exception):
    """Somebody stops a run in the middle."""


def test_a_run_that_is_stopped_loses_no_step(tmp_path: Path, model: Model) -> None:
    memory, path = Recorder(), tmp_path / "run.trace"

    def stop(view: StepView) -> None:
        if view.context.only.forward == 7:
            raise Stopped

    with TraceWriter(path) as sink:
        observer = Observers((memory, Recorder(sink=sink), Looking(stop)))
        with pytest.raises(Stopped):
            Engine(model, BASE).generate(PROMPTS[0], observer=observer)
    with open_trace(path) as trace:
        assert [step.forward for step in trace.records[0].steps] == list(range(8))
        assert [step.canvas for step in trace.records[0].steps] == [
            step.canvas for step in memory.records[0].steps
        ]


@pytest.mark.parametrize("unmask", [Threshold(0.9), Factor(0.3)])
def test_what_is_put_into_records_late_is_what_was_seen(
    model: Model, unmask: Threshold | Factor
) -> None:
    """Records made after the whole run, when every tensor of the view has been overwritten."""
    settings = BASE.replace(skip=LOW, unmask=unmask)
    late = list[Decisions]()
    recorder = Recorder()
    looking = Looking(lambda view: late.append(Decisions.copy(view)))
    Engine(model, settings).generate_batch(PROMPTS, observer=Observers((recorder, looking)))
    found = [(sample, step) for one in late for sample, step in one.records(0.0)]
    for sample, record in enumerate(recorder.records):
        steps = tuple(dataclasses.replace(step, seconds=0.0) for step in record.steps)
        assert same(tuple(step for owner, step in found if owner == sample), steps)
        assert any(step.judgements is not None and step.skipped for step in steps)
        assert len({step.candidates.confidence.tobytes() for step in steps}) > 5
