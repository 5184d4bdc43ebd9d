"""The experiments of a case: asked for here, carried out elsewhere, refusals kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipstone.diagnosis.by_row import by_row
from skipstone.diagnosis.experiment import Experimenter, ExperimentRequest, Spent, Unavailable
from skipstone.record import Trace
from skipstone.sentence import Sentence


@dataclass(eq=False)
class Inquiry:
    """Asks for experiments, if somebody can carry them out."""

    experimenter: Experimenter | None = None
    by_row: bool = False
    """Whether logits are shown at the rows that computed them."""
    unavailable: list[Sentence] = field(default_factory=list)
    """Why experiments could not be made."""
    spent: bool = False
    """Whether time ran out."""

    def ask(self, experiment: ExperimentRequest) -> Trace | None:
        """The result of an experiment, or None if it cannot be made; the reason is kept."""
        if self.experimenter is None:
            return None
        try:
            found = self.experimenter.ask(experiment)
            return by_row(found) if self.by_row else found
        except Unavailable as reason:
            self.spent |= isinstance(reason, Spent)
            if reason.why not in self.unavailable:
                self.unavailable.append(reason.why)
            return None
