"""What is replayed, and what is changed in it.

A replay starts each step from the canvas that was recorded; the K/V store, the references of the
skip and the scores live on from step to step as in any run. Single choices (rows, skipped rows) may
be taken from the record too, and single values may be replaced.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipstone.diagnosis.experiment import STRAIGHT, Choice, Hidden, Horizon, Patch, Turn, Variation
from skipstone.engine import Settings
from skipstone.record import RunRecord, StepRecord

# A companion that is longer than the sample changes its padding and every kernel's shape.
_COMPANION_EXTRA = 7


@dataclass(frozen=True)
class ReplayPlan:
    """What is taken from a record, and what is changed."""

    forwards: tuple[int, int]
    """First and last recorded forward that matter."""
    led: frozenset[Choice] = frozenset()
    """Choices that are taken from the record."""
    patches: tuple[Patch, ...] = ()
    variation: Variation = ""
    hidden: Hidden = ""
    seen: tuple[int, int] | None = None
    """The first key that rows see, and one past the last; None for all."""
    turn: Turn = STRAIGHT
    unskip: tuple[int, ...] = ()
    """Forwards in which no row skips."""
    others: tuple[tuple[int, ...], ...] = ()
    """Prompts that were decoded beside this one."""
    free: int = -1
    """A forward in which nothing is taken from the record: the settings choose."""

    @property
    def padding_seen(self) -> bool:
        """Whether rows see the padding of their request."""
        return self.horizon == "padding seen"

    @property
    def horizon(self) -> Horizon | None:
        """How far rows see; None for as far as the model has it."""
        return next((far for far in get_args(Horizon) if far == self.hidden), None)

    def prompts(self, record: RunRecord) -> list[list[int]]:
        """What is decoded: the recorded prompt first, and what stands beside it."""
        prompt = list(record.header.prompt_ids)
        if self.padding_seen:
            return [prompt, *map(list, self.others)]
        if self.variation == "batch":
            return [prompt, prompt]
        if self.variation == "padding":
            return [prompt, prompt[:1] * _COMPANION_EXTRA + prompt]
        return [prompt]

    def steps(self, record: RunRecord, settings: Settings) -> list[StepRecord]:
        """The recorded steps to take, from where nothing older is needed.

        A refresh at a block's start renews K/V, references and scores of all that may still be
        read; random numbers must be drawn from the beginning, and what a policy remembers may be
        as old.
        """
        first, last = self.forwards
        starts = [
            s.forward
            for s in record.steps
            if s.forward <= first and s.step == 0 and s.rows.size == record.length
        ]
        policies = (settings.cache, settings.unmask, settings.skip)
        remembers = settings.temperature > 0 or not all(policy.pure for policy in policies)
        origin = record.steps[0].forward if remembers or not starts else max(starts)
        return [s for s in record.steps if origin <= s.forward <= last]


@contextmanager
def varied(variation: Variation) -> Generator[None, None, None]:
    """Change what should not matter about this process."""
    threads = torch.get_num_threads()
    try:
        if variation == "threads":
            torch.set_num_threads(2 if threads == 1 else 1)
        if variation == "backend":
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(threads)
