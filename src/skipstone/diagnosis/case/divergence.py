"""Where the decisions of two runs part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skipstone.diagnosis.case.runs import Runs
from skipstone.diff import Comparison, Divergence, compare
from skipstone.diff.align import seen_canvas
from skipstone.record import StepRecord


@dataclass(eq=False)
class Parting:
    """Decisions of A and B, step by step."""

    runs: Runs

    @cached_property
    def comparison(self) -> Comparison:
        """Decision by decision."""
        return compare(self.runs.record_a, self.runs.record_b)

    @property
    def first(self) -> Divergence | None:
        """The first decision that differs; None if none does."""
        return self.comparison.first

    @cached_property
    def forward(self) -> int | None:
        """The forward of B in which the decisions part; None if they never do."""
        if self.first is None:
            return None
        if self.first.forward_b >= 0:
            return self.first.forward_b
        steps = self.runs.record_b.steps
        for step in steps:
            if (step.block, step.step) == (self.first.block, self.first.step):
                return step.forward
        return steps[-1].forward if steps else None

    @cached_property
    def horizon(self) -> int:
        """The last forward of B that can hold the cause: later ones only inherit."""
        last = self.runs.record_b.steps[-1].forward
        return last if self.forward is None else min(self.forward, last)

    @property
    def until(self) -> int | None:
        """How far runs have to be repeated: up to where A and B part, if they do."""
        # One more, so that a step that has to be repeated is seen with its repetition.
        first = self.first
        return None if first is None else max(first.forward_a, first.forward_b) + 1

    def earlier(self, other: Divergence | None) -> Divergence | None:
        """A divergence, unless it comes after the one between A and B."""
        first = self.first
        if first is None or other is None:
            return other
        return None if (other.block, other.step) > (first.block, first.step) else other

    def same_step(self, step: StepRecord) -> StepRecord | None:
        """The step of A that started from the same canvas at the same place as a step of B.

        Of what B only writes, and A does not: the first forward of A that writes the same as well.
        """
        if step.forward in self.runs.writes:
            return next((s for s in self.runs.every_a if _writes(s, step)), None)
        for other in self.runs.record_a.steps:
            same_step = other.step == step.step
            if same_step and seen_canvas(other) == seen_canvas(step):
                return other
        return None


def _writes(step: StepRecord, wanted: StepRecord) -> bool:
    """Whether a forward computes the rows of another one, from the same ids up to the last."""
    new = slice(0, max(0, int(wanted.rows.max(initial=-1)) + 1 - wanted.prompt_length))
    same = np.array_equal(step.ids_before[new], wanted.ids_before[new])
    return same and bool(np.isin(wanted.rows, step.rows).all())
