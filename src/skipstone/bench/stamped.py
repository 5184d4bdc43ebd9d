"""A schedule that notes when each step chooses: from one choice to the next is a whole step.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from skipstone.canvas import StepContext
from skipstone.unmask import Fixed, Need, Scores, UnmaskPolicy


@dataclass(frozen=True, eq=False)
class Stamps:
    """Moments on the device's own clock; nobody waits for it until they are read."""

    device: torch.device
    _events: list[torch.cuda.Event] = field(default_factory=list)
    _seconds: list[float] = field(default_factory=list)

    def note(self) -> None:
        """Now, as the device gets there."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._seconds.append(time.perf_counter())

    def take(self) -> list[float]:
        """Seconds between the moments noted since the last call, which are forgotten."""
        if self._events:
            self._events[-1].synchronize()
        spent = [a.elapsed_time(b) / 1e3 for a, b in pairwise(self._events)]
        spent += [b - a for a, b in pairwise(self._seconds)]
        self._events.clear()
        self._seconds.clear()
        return spent


@dataclass(frozen=True, eq=False)
class StampedFixed(UnmaskPolicy):
    """The fixed schedule, noted step by step. It is its own session."""

    stamps: Stamps
    inner: Fixed = field(default_factory=Fixed)

    @property
    def needs(self) -> frozenset[Need]:
        """As the schedule does."""
        return self.inner.needs

    @property
    def uses_steps(self) -> bool:
        """As the schedule does."""
        return self.inner.uses_steps

    @property
    def pure(self) -> bool:
        """As the schedule is."""
        return self.inner.pure

    @property
    def opens_alone(self) -> bool:
        """As the schedule does."""
        return self.inner.opens_alone

    @property
    def keeps_to_schedule(self) -> bool:
        """As the schedule does."""
        return self.inner.keeps_to_schedule

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """What the schedule chooses."""
        self.stamps.note()
        return self.inner.select(scores, context)
