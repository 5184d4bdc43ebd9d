"""Full traces of tiny random models, and cases made of two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from skipstone import Engine, Settings
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Choice
from skipstone.record import MemoryTrace, StepRecord, TraceWriter, open_trace
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.tracing.replay.plan import ReplayPlan
from skipstone.tracing.replay.replay import replay
from tests.helpers.watching import prompt_of, uneven_model


@cache
def trace_of(settings: Settings, seed: int = 1) -> MemoryTrace:
    """A run with all tensors; the same for all tests, which must not change it."""
    return record(settings, seed)


def record(settings: Settings, seed: int = 1) -> MemoryTrace:
    """A run with all tensors, recorded now."""
    recorder = Recorder("full")
    Engine(uneven_model(seed), settings).generate(prompt_of(1, 5), observer=recorder)
    return recorder.trace


def steps_of(settings: Settings) -> tuple[StepRecord, ...]:
    return trace_of(settings).records[0].steps


def case_of(a: Settings, b: Settings, seed: int = 1) -> Case:
    """Two runs that can be run again."""
    model = uneven_model(seed)
    ours, theirs = (Side(trace_of(s, seed), 0, Engine(model, s)) for s in (a, b))
    return Case(ours.trace, theirs.trace, ExperimentRunner(ours, theirs, model))


def alone(b: MemoryTrace) -> Case:
    """A run held against itself, without its code."""
    return Case(b, b, ExperimentRunner(Side(b), Side(b), uneven_model(1)))


def replayed(
    engine: Engine, prompt: Sequence[int], forced: frozenset[Choice], folder: Path
) -> Iterator[tuple[StepRecord, StepRecord, StepRecord]]:
    """Each step as recorded, as replayed, and as read from disk; commits and tensors are equal."""
    recorder, again = Recorder("full"), Recorder("full")
    engine.generate(prompt, observer=recorder)
    with TraceWriter(folder) as writer:
        engine.generate(prompt, observer=Recorder("full", sink=writer))
    written, record = open_trace(folder), recorder.trace.records[0]
    plan = ReplayPlan((0, len(record.steps) - 1), forced)
    replay(engine.model, engine.settings, record, plan, again)
    for key in recorder.trace.keys(0):
        mine, theirs = (found.trace.tensor(0, key) for found in (recorder, again))
        assert mine is not None
        assert theirs is not None
        assert (mine.values == theirs.values).all()
    steps = zip(record.steps, again.trace.records[0].steps, written.records[0].steps, strict=True)
    for one, other, read in steps:
        assert one.committed == other.committed == read.committed
        assert (one.finished == read.finished).all()
        yield one, other, read
