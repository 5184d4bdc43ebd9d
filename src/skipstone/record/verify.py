"""Is a trace still what was recorded? Reads all of it, and collects what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from skipstone.errors import TraceError
from skipstone.record.reader import StoredTrace

TracePart = Literal["steps", "tensors", "events", "experiments"]

MOST = 100
"""Faults after which nothing more is looked at."""


@dataclass(frozen=True)
class Verification:
    """What was read of a trace, and what is wrong with it."""

    steps: int
    tensors: int
    events: int
    experiments: int
    faults: tuple[str, ...]
    """One line each, up to ``MOST``; empty if everything is as it was recorded."""


def verify(trace: StoredTrace) -> Verification:
    """Read everything that is in a trace; nothing is raised for what is damaged."""
    sound, faults = Counter[TracePart](), dict[str, None]()
    samples = range(len(trace.headers))
    for part, read in chain(*(_of_sample(trace, s, faults) for s in samples), _kept(trace)):
        try:
            sound[part] += read()
        except TraceError as error:
            faults[str(error)] = None
        if len(faults) >= MOST:
            break
    return Verification(
        steps=sound["steps"],
        tensors=sound["tensors"],
        events=sound["events"],
        experiments=sound["experiments"],
        faults=tuple(faults)[:MOST],
    )


def _of_sample(
    trace: StoredTrace, sample: int, faults: dict[str, None]
) -> Iterator[tuple[TracePart, Callable[[], int]]]:
    """Everything to be read of a sample: each returns how many there were."""
    try:
        for hole in trace.holes(sample):
            faults[f"of sample {sample}, {hole}"] = None
        forwards, keys = trace.forwards(sample), trace.keys(sample)
    except TraceError as error:
        faults[str(error)] = None
        return
    yield "events", lambda: len(trace.events(sample))
    for forward in forwards:
        yield "steps", partial(_one, trace.step, sample, forward)
    for key in keys:
        yield "tensors", partial(_one, trace.values, sample, key)


def _kept(trace: StoredTrace) -> Iterator[tuple[TracePart, Callable[[], int]]]:
    yield "experiments", lambda: len(trace.experiments)


def _one(read: Callable[..., object], *arguments: object) -> int:
    read(*arguments)
    return 1
