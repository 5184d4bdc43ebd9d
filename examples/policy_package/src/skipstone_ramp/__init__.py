"""An unmask policy whose threshold falls during a block: careful at first, quick at the end.

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipstone import ConfigError
from skipstone.unmask import HostScores, Scores, UnmaskPolicy
from skipstone.unmask.ranking import rank_BG

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext


@dataclass(frozen=True)
class Ramp(UnmaskPolicy):
    """Commit what reaches a threshold that falls from ``first`` to ``last`` over some steps."""

    first: float = 0.99
    """Confidence that a mask must reach in the first step of a block."""
    last: float = 0.7
    """Confidence that it must reach from step ``over`` on."""
    over: int = 8
    """Steps that the fall takes."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 0 <= self.last <= self.first <= 1:
            raise ConfigError(
                f"first is {self.first} and last is {self.last}, must be 1 >= first >= last >= 0"
            )
        if self.over < 1:
            raise ConfigError(f"over is {self.over}, must be at least 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores and the step decides, and the best mask always goes."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Masks that reach the threshold of their step, and always the most confident one."""
        # Every request is at a step of its own.
        fall_B1 = (context.step_B1.double() / self.over).clamp(max=1.0)
        threshold_B1 = self.first - fall_B1 * (self.first - self.last)
        confidence_BG = scores.confidence_BG
        best_BG = rank_BG(confidence_BG) == 0
        return (best_BG | (confidence_BG >= threshold_B1)) & ~confidence_BG.isneginf()

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same for one recorded step: a decision that differs from it is told as a fault."""
        enough_C = scores.confidence_C >= self.bound(scores)
        return (enough_C | (scores.rank_C == 0)) & scores.allowed_C

    def bound(self, scores: HostScores) -> np.ndarray:
        """The threshold that is held against every mask; traces and reports show it."""
        fall = min(1.0, scores.step / self.over)
        return np.full(scores.confidence_C.shape, self.first - fall * (self.first - self.last))
