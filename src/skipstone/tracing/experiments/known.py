"""What experiments on a baseline alone gave, for every diagnosis that holds a run against it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from skipstone.diagnosis.experiment import ExperimentRequest, Follow
from skipstone.record import Trace

MOST = 24
"""About as many as one diagnosis asks for, so that memory holds two of them at most."""


@dataclass(frozen=True)
class Answer:
    """What an experiment gave."""

    trace: Trace
    seconds: float
    """That it took when it was made."""


class KnownAnswers:
    """The newest answers about one side A and one reference; those not asked for give way."""

    def __init__(self, most: int = MOST) -> None:
        """Nothing is known; ``most`` answers are kept."""
        self._most = most
        self._answers = OrderedDict[ExperimentRequest, Answer]()

    def get(self, experiment: ExperimentRequest) -> Answer | None:
        """The answer, if it is known."""
        if experiment in self._answers:
            self._answers.move_to_end(experiment)
        return self._answers.get(experiment)

    def keep(self, experiment: ExperimentRequest, answer: Answer) -> None:
        """Note an answer for others, if the other side has no part in it."""
        if _about_a_alone(experiment):
            self._answers[experiment] = answer
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)


def _about_a_alone(experiment: ExperimentRequest) -> bool:
    """Whether nothing of it comes from side B; values of patches may, and have no identity."""
    if isinstance(experiment, Follow):
        return (experiment.along, experiment.settings) == ("a", "a") and not experiment.patches
    return experiment.side == "a"
