"""The two runs of a case, as they were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from skipstone.diagnosis.experiment import SideName
from skipstone.diff.writes import steps_of_both
from skipstone.record import RunRecord, StepRecord, Trace


@dataclass(eq=False)
class Runs:
    """Two traces, one request of each."""

    a: Trace
    """The baseline."""
    b: Trace
    """The run to explain."""
    sample_a: int = 0
    sample_b: int = 0

    @cached_property
    def record_a(self) -> RunRecord:
        """The baseline's record: those of its steps that can be compared."""
        return self._steps[0]

    @cached_property
    def record_b(self) -> RunRecord:
        """The record to explain, likewise."""
        return self._steps[1]

    @property
    def every_a(self) -> Sequence[StepRecord]:
        """All forwards of A, also those that only write."""
        return self.a.records[self.sample_a].steps

    @property
    def every_b(self) -> Sequence[StepRecord]:
        """All forwards of B, likewise."""
        return self.b.records[self.sample_b].steps

    @cached_property
    def _steps(self) -> tuple[RunRecord, RunRecord]:
        return steps_of_both(self.a.records[self.sample_a], self.b.records[self.sample_b])

    @cached_property
    def writes(self) -> dict[int, StepRecord]:
        """Forwards of B, by number, that only write keys and values and that A does not make.

        None of its steps is held against them; what reads them is.
        """
        steps = {step.forward for step in self.record_b.steps}
        return {step.forward: step for step in self.every_b if step.forward not in steps}

    def up_to(self, forward: int) -> list[StepRecord]:
        """B's steps up to a forward, and this forward itself even if it only writes."""
        steps = [step for step in self.record_b.steps if step.forward <= forward]
        return [*steps, self.writes[forward]] if forward in self.writes else steps

    @cached_property
    def foreign(self) -> bool:
        """Whether B was made by other code, whose settings are not ours to read."""
        return self.record_b.header.source != "skipstone"

    @property
    def settings(self) -> SideName:
        """Whose settings say what B should do: its own, if it states any that we can read."""
        return "a" if self.foreign else "b"

    @property
    def stated(self) -> bool:
        """Whether these settings are known: foreign code does not state its own."""
        return not self.foreign or self.record_a.header.source == "skipstone"

    @cached_property
    def settings_differ(self) -> dict[str, tuple[str, str]]:
        """Settings by name that are not the same on both sides."""
        a, b = self.record_a.header.settings, self.record_b.header.settings
        if self.foreign or self.record_a.header.source != "skipstone":
            return {}
        return {name: (a[name], b[name]) for name in a if name in b and a[name] != b[name]}

    def step_b(self, forward: int) -> StepRecord | None:
        """A forward of B."""
        return next((s for s in self.every_b if s.forward == forward), None)
