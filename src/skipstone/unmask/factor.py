"""The factor rule of Fast-dLLM (Wu et al., arXiv 2505.22618).

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.ranking import rank_BG

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Factor(UnmaskPolicy):
    """Commit the n most confident masks, n the largest with confidence >= 1 - value/(n+1).

    The more masks are committed together, the surer each must be. Always commits one.
    """

    value: float = 1.0
    """How much doubt is allowed in all; larger commits more."""
    last: bool = False
    """Commit the last mask of a block with the others where it alone is too unsure, as Fast-dLLM's
    code does."""

    knob = Knob("value", (0.5, 0.75, 1.5, 2.0))

    def __post_init__(self) -> None:
        """Refuse a value that commits nothing or that is not finite."""
        check_fields(self)
        if not 0.0 < self.value < float("inf"):
            raise ConfigError(f"factor value is {self.value}, must be positive and finite")

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The longest run of the ranking that keeps the doubt within bounds."""
        confidence_BG = scores.confidence_BG
        ranks_BG = rank_BG(confidence_BG)
        bound_BG = 1.0 - self.value / (ranks_BG.double() + 2.0)
        allowed_BG = confidence_BG != -math.inf
        enough_BG = ((confidence_BG >= bound_BG) | (ranks_BG == 0)) & allowed_BG
        if self.last:
            missing_B1 = allowed_BG.sum(-1, keepdim=True) - enough_BG.sum(-1, keepdim=True)
            enough_BG |= allowed_BG & (missing_B1 == 1)
        return enough_BG

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        enough_C = scores.confidence_C >= self.bound(scores)
        enough_C = (enough_C | (scores.rank_C == 0)) & scores.allowed_C
        alone = self.last and scores.allowed_C.sum() - enough_C.sum() == 1
        return scores.allowed_C if alone else enough_C

    def bound(self, scores: HostScores) -> np.ndarray:
        """1 - value/(n+1) for the n masks that are committed together with this rank.

        The bound rises with the rank while confidence falls, so what is committed has no holes.
        """
        return 1.0 - self.value / (scores.rank_C + 2.0)
