"""A trace: samples, their tensors, and what experiments on them found; in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from skipstone.record.background import Background
from skipstone.record.schema import Event, Header, Outcome, RunRecord, StepRecord
from skipstone.record.tensors import TensorKey, TensorRows, with_provenance

Tensors = Mapping[TensorKey, tuple[np.ndarray, np.ndarray]]
"""Positions [N] and values [N, W] of each tapped tensor of one step."""

Taken = tuple[int, StepRecord, Tensors]
"""A sample, what was decided in one of its steps, and the tensors of that step."""


@runtime_checkable
class Trace(Protocol):
    """What can be asked of a recorded run, in memory or on disk."""

    @property
    def records(self) -> Sequence[RunRecord]:
        """One record for each sample."""
        ...

    def keys(self, sample: int) -> Sequence[TensorKey]:
        """Tensors of a sample that were recorded, in order of forward, tap and layer."""
        ...

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor; None if it was not recorded."""
        ...


class Sink(Protocol):
    """Takes down a run as it happens."""

    def begin(self, headers: Sequence[Header], level: str) -> None:
        """A run begins."""
        ...

    def step(self, sample: int, record: StepRecord, tensors: Tensors) -> None:
        """A step is done; when this returns, it will not be lost."""
        ...

    def later(self, steps: Iterable[Taken]) -> None:
        """Steps are done, but still to be put into records, which happens as ``steps`` is drawn.

        A sink may do that on another thread while the run goes on. It is done before any other
        method goes to work, and that method raises what went wrong.
        """
        ...

    def event(self, sample: int, event: Event) -> None:
        """Something else was seen."""
        ...

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """The run ended by itself."""
        ...


class MemoryTrace:
    """A trace that is kept in memory; both sink and trace."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.level = "decisions"
        self._headers = list[Header]()
        self._steps = list[list[StepRecord]]()
        self._events = list[list[Event]]()
        self._outcomes: Sequence[Outcome | None] = ()
        self._tensors = dict[tuple[int, TensorKey], tuple[np.ndarray, np.ndarray]]()
        # Made again only after the run went on: readers ask for a record with every tensor.
        self._made: list[RunRecord] | None = None
        self._background = Background()

    def __getstate__(self) -> dict[str, object]:
        """For another process: all that is kept, without the thread that keeps it."""
        self._settle()
        return {name: value for name, value in vars(self).items() if name != "_background"}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        vars(self).update(state, _background=Background())

    def __repr__(self) -> str:
        self._settle()
        steps = sum(map(len, self._steps))
        return f"<MemoryTrace of {len(self._headers)} samples, {steps} steps, level {self.level}>"

    @property
    def records(self) -> list[RunRecord]:
        """One record for each sample, as far as the run has come."""
        self._settle()
        if self._made is None:
            parts = zip(self._headers, self._steps, self._outcomes, self._events, strict=True)
            self._made = [RunRecord(h, tuple(s), o, tuple(e)) for h, s, o, e in parts]
        return self._made

    def keys(self, sample: int) -> list[TensorKey]:
        """Tensors of a sample, in order of forward, tap and layer."""
        self._settle()
        return sorted(key for owner, key in self._tensors if owner == sample)

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor; None if it was not recorded."""
        self._settle()
        found = self._tensors.get((sample, key))
        return None if found is None else with_provenance(self.records[sample], key, *found)

    def begin(self, headers: Sequence[Header], level: str) -> None:
        """Forget the run before."""
        with suppress(Exception):
            # What went wrong in the run before is no matter of this one.
            self._background.finish()
        self.level, self._made = level, None
        self._headers = list(headers)
        self._steps = [[] for _ in headers]
        self._events = [[] for _ in headers]
        self._outcomes = [None for _ in headers]
        self._tensors.clear()

    def step(self, sample: int, record: StepRecord, tensors: Tensors) -> None:
        """Keep a step."""
        self._settle()
        self._keep([(sample, record, tensors)])

    def later(self, steps: Iterable[Taken]) -> None:
        """Keep steps that a thread puts into records now, while the run goes on."""
        self._background.add(partial(self._keep, steps))

    def _keep(self, steps: Iterable[Taken]) -> None:
        for sample, record, tensors in steps:
            self._made = None
            self._steps[sample].append(record)
            for key, rows in tensors.items():
                self._tensors[sample, key] = rows

    def _settle(self) -> None:
        """Wait until all that was handed over is kept."""
        self._background.wait()

    def lengthen(self, headers: Sequence[Header], steps: Sequence[tuple[int, StepRecord]]) -> None:
        """The canvas of the run grew: keep headers and steps anew; tensors stay."""
        self._settle()
        self._made = None
        self._headers = list(headers)
        self._steps = [[r for owner, r in steps if owner == i] for i in range(len(headers))]

    def event(self, sample: int, event: Event) -> None:
        """Keep an event."""
        self._settle()
        self._made = None
        self._events[sample].append(event)

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """Close the records."""
        self._background.finish()
        self._made = None
        self._outcomes = list(outcomes)
