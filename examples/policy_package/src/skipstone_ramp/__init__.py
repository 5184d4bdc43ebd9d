"""An unmask policy whose threshold falls during a block: careful at first, quick at the end.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone import ConfigError
from skipstone.canvas import Geometry, RequestStep, StepContext
from skipstone.unmask import Scores


@dataclass(frozen=True)
class Ramp:
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
    def uses_steps(self) -> bool:
        """A block takes as many steps as its masks need."""
        return False

    @property
    def uses_seed(self) -> bool:
        """Nothing is drawn."""
        return False

    def start(self, geometry: Geometry) -> Ramp:
        """Memory for one run: there is none to keep, so the policy is its own session."""
        return self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Masks that reach the threshold of their step, and always the most confident one."""
        # Every request is at a step of its own.
        fall_B1 = (context.step_B1 / self.over).clamp(max=1.0)
        threshold_B1 = self.first - fall_B1 * (self.first - self.last)
        confidence_BG = scores.confidence_BG
        best_B1 = confidence_BG.argmax(-1, keepdim=True)
        is_best_BG = torch.zeros_like(confidence_BG, dtype=torch.bool).scatter_(1, best_B1, True)
        return (is_best_BG | (confidence_BG >= threshold_B1)) & ~confidence_BG.isneginf()

    def bound(self, rank_C: np.ndarray, at: RequestStep) -> np.ndarray:
        """The threshold that was held against every mask; traces and reports show it."""
        fall = min(1.0, at.step / self.over)
        return np.full(rank_C.shape, self.first - fall * (self.first - self.last))

    def forget(self, request: int) -> None:
        """Nothing was remembered."""
