"""The confidence threshold of Fast-dLLM (Wu et al., arXiv 2505.22618).

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.ranking import rank_BG

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Threshold(UnmaskPolicy):
    """Commit every mask whose confidence reaches ``value``, and always the most confident one."""

    value: float = 0.9
    """Confidence that a mask must reach."""

    knob = Knob("value", (0.5, 0.7, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse a value that is no probability."""
        check_fields(self)
        if not 0.0 <= self.value <= 1.0:
            raise ConfigError(f"threshold value is {self.value}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All at or above the threshold, and the best."""
        return reached_BG(scores, self.value)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        return reached(scores, self.value)

    def bound(self, scores: HostScores) -> np.ndarray:
        """The threshold, whatever the rank."""
        return np.full(scores.confidence_C.shape, self.value)


def reached_BG(scores: Scores, value: float) -> Tensor:
    """All offsets at or above a confidence, and the best: bool [B, G]."""
    confidence_BG = scores.confidence_BG
    best_BG = rank_BG(confidence_BG) == 0
    return ((confidence_BG >= value) | best_BG) & (confidence_BG != -math.inf)


def reached(scores: HostScores, value: float) -> np.ndarray:
    """All candidates at or above a confidence, and the best: bool [C]."""
    enough_C = scores.confidence_C >= value
    return (enough_C | (scores.rank_C == 0)) & scores.allowed_C
