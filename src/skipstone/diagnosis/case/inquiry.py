"""The experiments of a case: asked for here, carried out elsewhere, refusals kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipstone.diagnosis.experiment import Experiment, Lab, Spent, Unavailable
from skipstone.record import Trace
from skipstone.sentence import Sentence


@dataclass(eq=False)
class Inquiry:
    """Asks a laboratory, if there is one."""

    lab: Lab | None = None
    unavailable: list[Sentence] = field(default_factory=list)
    """Why experiments could not be made."""
    spent: bool = False
    """Whether time ran out."""

    def ask(self, experiment: Experiment) -> Trace | None:
        """The result of an experiment, or None if it cannot be made; the reason is kept."""
        if self.lab is None:
            return None
        try:
            return self.lab.ask(experiment)
        except Unavailable as reason:
            self.spent |= isinstance(reason, Spent)
            if reason.why not in self.unavailable:
                self.unavailable.append(reason.why)
            return None
