"""A case: two runs of one prompt, and everything that rules want to know about them.

What is expensive is worked out once, when a rule first asks. ``None`` means that it cannot be known
here: a tensor was not recorded, a model is not at hand, the time is spent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from skipstone.diagnosis.by_row import by_row, unlike
from skipstone.diagnosis.case.attending import Attending
from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.expected import Expected
from skipstone.diagnosis.case.held import Held, held
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.joining import JoinedElsewhere, joined_elsewhere
from skipstone.diagnosis.case.keeping import KeptWrong, kept_wrong
from skipstone.diagnosis.case.layer_choice import LayerChoice, layer_choice
from skipstone.diagnosis.case.loops import Loops
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.proof import Proving
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.case.skip_slip import StageSlip, stage_slip
from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.diagnosis.experiment import Experimenter, ExperimentRequest
from skipstone.record import Event, RunRecord, StepRecord, Trace
from skipstone.sentence import Sentence

_NUMBER = re.compile(r"\d+")


class Case:
    """Two traces, the means to experiment on them, and what is known of them in seven parts."""

    def __init__(
        self,
        a: Trace,
        b: Trace,
        experimenter: Experimenter | None = None,
        sample_a: int = 0,
        sample_b: int = 0,
    ) -> None:
        """Open a case.

        Args:
            a: the baseline.
            b: the run to explain.
            experimenter: carries out experiments; without it only the traces can be read.
            sample_a: which request of A.
            sample_b: which request of B.
        """
        apart = unlike(a.records[sample_a], b.records[sample_b])
        if apart:
            a, b = by_row(a, sample_a), by_row(b, sample_b)
        self.runs = Runs(a, b, sample_a, sample_b)
        self.inquiry = Inquiry(experimenter, apart)
        self.divergence = Parting(self.runs)
        self.noise = Noise(self.runs, self.inquiry, self.divergence)
        self.loops = Loops(self.runs, self.divergence, self.noise)
        self.expected = Expected(self.runs, self.inquiry, self.divergence, self.noise)
        self.tensors = ComparedTensors(
            self.runs, self.inquiry, self.divergence, self.noise, self.expected
        )
        self.attention = Attending(self.runs, self.divergence, self.noise, self.tensors)
        self.proof = Proving(
            self.runs, self.inquiry, self.divergence, self.noise, self.expected, self.tensors
        )

    @property
    def record_a(self) -> RunRecord:
        """The baseline's record."""
        return self.runs.record_a

    @property
    def record_b(self) -> RunRecord:
        """The record to explain."""
        return self.runs.record_b

    @property
    def foreign(self) -> bool:
        """Whether B was made by other code, whose settings are not ours to read."""
        return self.runs.foreign

    @property
    def events(self) -> tuple[Event, ...]:
        """What was seen in passing in B."""
        return self.record_b.events

    def event(self, *kinds: str) -> Event | None:
        """The first event of some kinds, unless B went wrong before it.

        What was seen in A, too, makes no difference between them.
        """
        first = self.expected.first
        both = {_what(event) for event in self.record_a.events}
        for event in self.events:
            early = first is None or event.forward <= first.step.forward
            if event.kind in kinds and early and _what(event) not in both:
                return event
        return None

    @cached_property
    def held(self) -> Held | None:
        """What wrong keys and values hold; None if none are wrong, or nothing explains them.

        Rows that attention itself changed are nobody else's, even if they look like it.
        """
        if self.attention.cause is not None:
            return None
        return held(self.tensors)

    @cached_property
    def stage_slip(self) -> StageSlip | None:
        """What explains the rows that left, by a rule that ranks rows; None if nothing does."""
        return stage_slip(self.runs, self.inquiry, self.expected)

    @cached_property
    def layer_choice(self) -> LayerChoice | None:
        """Rows that a layer should not have chosen, from the same values; None if all are right."""
        return layer_choice(self.runs, self.inquiry, self.expected, self.tensors)

    @cached_property
    def joined_elsewhere(self) -> JoinedElsewhere | None:
        """Rows that did not join where the cache policy says; None if all did."""
        return joined_elsewhere(self.runs, self.inquiry, self.expected, self.tensors)

    @cached_property
    def kept_wrong(self) -> KeptWrong | None:
        """Rows to which layers add what they should not have kept; None if all of it is right."""
        return kept_wrong(self.tensors)

    def step_b(self, forward: int) -> StepRecord | None:
        """A step of B."""
        return self.runs.step_b(forward)

    def ask(self, experiment: ExperimentRequest) -> Trace | None:
        """The result of an experiment, or None if it cannot be made; the reason is kept."""
        return self.inquiry.ask(experiment)

    @property
    def unavailable(self) -> Sequence[Sentence]:
        """Why experiments could not be made."""
        return self.inquiry.unavailable

    @property
    def spent(self) -> bool:
        """Whether time ran out."""
        return self.inquiry.spent


def _what(event: Event) -> tuple[str, str]:
    """What an event says, whatever its numbers are."""
    return event.kind, _NUMBER.sub("", event.message)
