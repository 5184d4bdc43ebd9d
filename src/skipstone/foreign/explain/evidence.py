"""What is known of one side once it was run, or read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from skipstone.engine import Engine
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.record import Event, Trace
from skipstone.tracing.record.recorder import Window


@dataclass(frozen=True)
class Cost:
    """Seconds that one side took."""

    plain: float
    """Without anything of ours."""
    recorded: float
    sanitized: float | None = None
    """None if its rows were not followed."""
    runs: int = 2
    """All runs of this side."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One side: its traces, and how it behaved."""

    traces: Sequence[Trace]
    """One for each run that the function made."""
    repeats: tuple[Sequence[Trace], ...] = ()
    """The same once more, from the same start."""
    events: tuple[Event, ...] = ()
    """What the sanitizer found, which ran apart."""
    source: str = ""
    """The line that calls the model."""
    error: str = ""
    """What it raised, and where."""
    notes: tuple[str, ...] = ()
    """What is odd about the way it ran."""
    cost: Cost | None = None
    """None if it was not run here."""
    engine: Engine | None = None

    def deeper(self, traces: Sequence[Trace]) -> Observation:
        """With traces that have tensors, if they are of as many runs; the others are repeats."""
        if len(traces) != len(self.traces) or self.cost is None:
            return self
        cost = replace(self.cost, runs=self.cost.runs + 1)
        return replace(self, traces=traces, repeats=(self.traces, *self.repeats), cost=cost)


@dataclass(frozen=True)
class Depth:
    """Which tensors are recorded."""

    level: AttachLevel
    window: Window | None = None


class RunSource(Protocol):
    """One of the two runs, or the means to make it."""

    def observed(self) -> Observation:
        """Run it, or read it."""
        ...

    def recorded_at(self, depth: Depth) -> Sequence[Trace]:
        """Run it once more with its tensors; nothing if that is not for us to do."""
        ...


@dataclass(frozen=True, eq=False)
class RecordedSide:
    """A run that somebody recorded."""

    traces: Sequence[Trace]
    source: str = ""

    def observed(self) -> Observation:
        """What was recorded."""
        return Observation(self.traces, source=self.source)

    def recorded_at(self, depth: Depth) -> Sequence[Trace]:
        """It cannot be run again."""
        return ()
