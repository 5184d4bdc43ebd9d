"""The threshold as dInfer applies it (inclusionAI/dInfer, commit fce4e32).

``ThresholdParallelDecoder`` in ``python/dinfer/decoding/parallel_strategy.py``. Where no mask
reaches the threshold, it takes not the best alone, but all that are hardly less confident. Beside
``threshold`` that matters where many masks are about as unsure, as in the first step of a block.

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

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class DinferThreshold(UnmaskPolicy):
    """Commit masks that reach a confidence; where none does, all about as good as the best."""

    value: float = 0.9
    """Confidence that a mask must reach, 0 to 1."""
    slack: float = 1e-5
    """Where none reaches it, all are committed that the most confident one exceeds by no more."""

    knob = Knob("value", (0.7, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        for name in ("value", "slack"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                asked = getattr(self, name)
                raise ConfigError(f"dinfer_threshold {name} is {asked}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All at or above the threshold, or the best and what is about as good."""
        confidence_BG = scores.confidence_BG
        bar_B1 = (confidence_BG.amax(-1, keepdim=True) - self.slack).clamp(max=self.value)
        return (confidence_BG >= bar_B1) & (confidence_BG != -math.inf)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        return (scores.confidence_C >= self.bound(scores)) & scores.allowed_C

    def bound(self, scores: HostScores) -> np.ndarray:
        """The threshold, or a little less than the best."""
        best = scores.confidence_C[scores.allowed_C].max(initial=-np.inf)
        return np.full(scores.confidence_C.shape, min(self.value, best - self.slack))
