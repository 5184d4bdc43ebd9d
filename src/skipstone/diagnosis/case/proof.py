"""Experiments that prove: a fault taken away, or B's values brought into another run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.expected import Expected
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.diagnosis.deviation import Deviation, DeviationKind, decision_deviations
from skipstone.diagnosis.experiment import Choice, Follow
from skipstone.record import RunRecord, StepRecord, Trace

_LED: frozenset[Choice] = frozenset(("rows", "skip"))
# What only a commit rule can say.
_RULED: frozenset[DeviationKind] = frozenset(("commit", "end"))


@dataclass(eq=False)
class Proving:
    """Led runs, held against what was recorded."""

    runs: Runs
    inquiry: Inquiry
    divergence: Parting
    noise: Noise
    expected: Expected
    tensors: ComparedTensors

    @cached_property
    def fault_removed(self) -> bool | None:
        """Whether the reference engine, on B's canvases, decides and scores as A did.

        That is what taking the fault away gives: the last step before the runs part is compared.
        """
        if not self.runs.stated:
            return self._reference_scores_as_a
        if self.expected.led is None:
            return None
        steps = {s.forward: s for s in self.expected.led.records[0].steps}
        for step in reversed(self.runs.record_b.steps):
            other, right = self.divergence.same_step(step), steps.get(step.forward)
            if other is not None and right is not None and step.forward <= self.divergence.horizon:
                return right.decides_as(other)
        return None

    @cached_property
    def _reference_scores_as_a(self) -> bool | None:
        """Whether the reference engine, given only A's rows, scores the focus as A."""
        step = self.tensors.step
        other = None if step is None else self.divergence.same_step(step)
        if other is None:
            return None
        window = (other.forward, other.forward)
        trace = self.inquiry.ask(Follow("a", "a", window, led=_LED, tensors=False))
        return None if trace is None else self._same(self.runs.record_a, other, trace)

    @cached_property
    def rows_reproduce(self) -> bool | None:
        """Whether the reference engine, given only the rows to compute, scores as B did.

        Similarities decide nothing if the rows that skip are given.
        """
        window = (self.tensors.focus, self.tensors.focus)
        led = Follow("b", self.runs.settings, window, led=_LED, tensors=False)
        return self.reproduces(self.inquiry.ask(led), besides=("similarity",))

    def only(self, *kinds: str) -> bool:
        """Whether the focus deviates in nothing but these: leading its canvas is then their patch.

        The reference run takes everything else of the step as B did.
        """
        focus = self.tensors.focus
        found = {d.kind for d in self.expected.deviations if d.step.forward == focus}
        return found <= set(kinds)

    def with_only(self, deviations: Sequence[Deviation], name: str) -> bool | None:
        """Whether these tensors of B alone, brought into the reference run, score as B did."""
        patches = self.tensors.patches(deviations)
        if not patches:
            return None
        window = (self.tensors.focus, self.tensors.focus)
        settings = self.runs.settings
        keys = self.tensors.keys
        led = Follow("b", settings, window, led=_LED, patches=patches, patch_name=name, keys=keys)
        return self.reproduces(self.inquiry.ask(led))

    def reproduces(
        self, trace: Trace | None, besides: Collection[DeviationKind] = ()
    ) -> bool | None:
        """Whether a teacher-forced run scores the focus as B did, within noise; None if not known.

        A focus that only writes has no scores: its tensors are compared.

        Args:
            trace: of the teacher-forced run.
            besides: kinds of deviations that are none here.
        """
        step = self.tensors.step
        if trace is None or step is None:
            return None
        if step.forward in self.runs.writes:
            return self.tensors.written_as(trace)
        return self._same(self.runs.record_b, step, trace, besides)

    def _same(
        self,
        record: RunRecord,
        step: StepRecord,
        trace: Trace,
        besides: Collection[DeviationKind] = (),
    ) -> bool | None:
        """Whether a forced run gives a recorded step, with its commits if their rule is known."""
        other = next((s for s in trace.records[0].steps if s.forward == step.forward), None)
        if other is None:
            return None
        mine, theirs = _only(record, step), _only(trace.records[0], other)
        found = decision_deviations(mine, theirs, self.noise.floor)
        allowed = {*besides, *(() if self.runs.stated else _RULED)}
        return all(d.kind in allowed for d in found)


def _only(record: RunRecord, step: StepRecord) -> RunRecord:
    return replace(record, steps=(step,))
