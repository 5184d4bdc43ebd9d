"""The threshold of Streaming-dLLM (arXiv 2601.17917), which falls as masks are filled.

``context_aware_threshold`` and ``generate_with_prefix_cache`` of ``LLaDA-1.5/generate.py`` in
github.com/xiaoshideta/Streaming-dLLM. The share of masks is counted from the start of the block to
the end of what a step computes: with a window right of the block, it falls further than without.

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
from skipstone.unmask.threshold import reached

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class FallingThreshold(UnmaskPolicy):
    """Commit every mask that reaches a threshold which falls with the masks, and the best one.

    The threshold is ``value * (1 - alpha * (1 - share))``; ``share`` is that of masks among the
    positions of the block and of what is right of it in the step (see ``suffix_window``).
    """

    value: float = 0.9
    """Threshold while all of these positions are masks, 0 to 1."""
    alpha: float = 0.3
    """The part of it that is gone once none is left, 0 to 1; published: 0.3, 0.4 and 0.6."""

    knob = Knob("alpha", (0.4, 0.6))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        for name in ("value", "alpha"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                asked = getattr(self, name)
                raise ConfigError(f"falling_threshold {name} is {asked}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores and the masks of the canvas decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All at or above the threshold of this step, and the best."""
        confidence_BG = scores.confidence_BG
        least_B1 = self.value * (1.0 - self.alpha * (1.0 - context.masked_share_B1))
        enough_BG = (confidence_BG >= least_B1) | (rank_BG(confidence_BG) == 0)
        return enough_BG & (confidence_BG != -math.inf)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        return reached(scores, self._least(scores))

    def bound(self, scores: HostScores) -> np.ndarray:
        """The threshold of the step, whatever the rank."""
        return np.full(scores.confidence_C.shape, self._least(scores))

    def _least(self, scores: HostScores) -> float:
        return self.value * (1.0 - self.alpha * (1.0 - scores.masked_share))
