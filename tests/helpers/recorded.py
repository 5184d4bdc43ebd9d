"""Full traces of tiny random models, and cases made of two of them."""

from __future__ import annotations

from functools import cache

from skipstone import Engine, Settings
from skipstone.diagnosis.case import Case
from skipstone.record import MemoryTrace, StepRecord
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
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
