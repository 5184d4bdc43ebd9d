"""The threshold as Fast-dLLM's code for Dream applies it (github.com/NVlabs/Fast-dLLM, 24cc59e7).

It is not the rule of the paper, which is ``threshold``. Without a cache (``generation_utils.py``)
the threshold only holds back an even schedule: a step looks at no more masks than the schedule has
due, so that it is never faster than the steps that are planned, and may be slower. With a cache
(``generation_utils_block.py``) the first step of a block commits its first mask whatever its
confidence, since no later forward of the block scores that one.

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
from skipstone.unmask.ranking import rank_BG, ranks
from skipstone.unmask.schedule import due_evenly, due_evenly_B1, first, first_BG

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class DreamThreshold(UnmaskPolicy):
    """The threshold as Fast-dLLM's Dream has it: a block's first mask alone, or held by a schedule.

    Like ``threshold``, it commits every mask whose confidence reaches ``value``, and the best one.
    """

    value: float = 0.9
    """Confidence that a mask must reach."""
    cached: bool = True
    """As with a cache: a block's first step commits its first mask alone. Else as without one: a
    step commits no more than an even schedule of the steps would have by then."""

    knob = Knob("value", (0.7, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse a value that is no probability."""
        check_fields(self)
        if not 0.0 <= self.value <= 1.0:
            raise ConfigError(f"dream_threshold value is {self.value}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores and the schedule decides."""
        return True

    @property
    def uses_steps(self) -> bool:
        """Without a cache, they give the schedule."""
        return not self.cached

    @property
    def opens_alone(self) -> bool:
        """With a cache, a block is begun by its first mask."""
        return self.cached

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All at or above the threshold and the best, among those that are looked at."""
        confidence_BG = scores.confidence_BG
        seen_BG = confidence_BG != -math.inf
        if self.cached:
            seen_BG = first_BG(seen_BG, context)
        ranks_BG = rank_BG(confidence_BG.where(seen_BG, -math.inf))
        if not self.cached:
            seen_BG = seen_BG & (ranks_BG < due_evenly_B1(context))
        return ((confidence_BG >= self.value) | (ranks_BG == 0)) & seen_BG

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        confidence_C = scores.confidence_C
        seen_C = first(scores) if self.cached else scores.allowed_C
        rank_C = ranks(np.where(seen_C, confidence_C, -np.inf))
        if not self.cached:
            seen_C = seen_C & (rank_C < due_evenly(scores))
        return ((confidence_C >= self.value) | (rank_C == 0)) & seen_C
