"""What B should have done, and where it first does something else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.deviation import Deviation, decision_deviations
from skipstone.diagnosis.experiment import Follow
from skipstone.diagnosis.paired import PairedTrace
from skipstone.record import Trace
from skipstone.sentence import NOTHING, Sentence

# Noise was measured on our own code; that of others takes its sums in another order.
CLEARLY = 4.0


@dataclass(eq=False)
class Expected:
    """B's steps as its settings give them, and how B departs from them."""

    runs: Runs
    inquiry: Inquiry
    divergence: Parting
    noise: Noise

    @cached_property
    def trace(self) -> Trace | None:
        """B's canvases under its own settings, as the reference engine decides on them.

        For foreign code whose settings nobody states, and where there is no model: as A did.
        """
        return self.paired if self.led is None and self.runs.foreign else self.led

    @cached_property
    def led(self) -> Trace | None:
        """What the reference engine decides on B's canvases; None if it cannot run on them."""
        if not self.runs.stated:
            return None
        window = (0, self.divergence.horizon)
        return self.inquiry.ask(Follow("b", self.runs.settings, window, tensors=False))

    @cached_property
    def paired(self) -> Trace:
        """A's own steps, where B started from the same canvas."""
        steps = *self.runs.record_b.steps, *self.runs.writes.values()
        pairs = ((self.divergence.same_step(step), step) for step in steps)
        known = [(a, b) for a, b in pairs if a is not None]
        return PairedTrace.of(self.runs.a, self.runs.sample_a, known)

    @cached_property
    def deviations(self) -> tuple[Deviation, ...]:
        """What B decided or scored otherwise than its settings say, in order; up to the horizon."""
        if self.trace is None:
            return ()
        right = self.trace.records[0]
        found = decision_deviations(self.runs.record_b, right, self.noise.floor)
        return tuple(d for d in found if d.step.forward <= self.divergence.horizon)

    @cached_property
    def first(self) -> Deviation | None:
        """The first deviation; None if B does what it says."""
        return min(self.deviations, key=lambda d: d.step.forward, default=None)

    @cached_property
    def departs(self) -> bool:
        """Whether B departs by clearly more than noise: other code can be a little beyond it."""
        return any(not d.size <= CLEARLY * d.floor for d in self.deviations)

    @property
    def conforms(self) -> bool:
        """Whether it is known that B does what its settings say."""
        return self.trace is not None and not self.deviations

    def first_of(self, *kinds: str) -> Deviation | None:
        """The first deviation of some kinds in the step of the first deviation."""
        first = self.first
        if first is None:
            return None
        same = (d for d in self.deviations if d.step.forward == first.step.forward)
        return next((d for d in same if d.kind in kinds), None)

    @cached_property
    def forced(self) -> Sentence:
        """Teacher forcing, in words: how often B's settings decide otherwise on A's canvases.

        Every step starts from A's canvas, so errors cannot add up over decisions.
        """
        steps = self.runs.record_a.steps
        trace = self.inquiry.ask(Follow("a", "b", (0, steps[-1].forward), tensors=False))
        if trace is None:
            return NOTHING
        wanted = {s.forward: s for s in trace.records[0].steps}
        other = sum(not wanted.get(s.forward, s).decides_as(s) for s in steps)
        return Sentence(
            "on A's canvases B's settings decide otherwise in {other} of {steps} steps",
            other=other,
            steps=len(wanted),
        )
