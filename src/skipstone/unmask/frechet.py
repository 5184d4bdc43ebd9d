"""The Fréchet rule of Fast-dLLM++ (github.com/Ringo-Star/FastdLLM_plusplus, commit 29fd034).

Fréchet's lower bound of the probability that the n most confident masks are all right is their sum
minus (n - 1). The rule commits the largest n for which it exceeds the doubt about the n-th by a
margin. The bound never rises with n, so that these are the first n.

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
from skipstone.unmask.ranking import first, first_BG, in_order_BG, rank_BG

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Frechet(UnmaskPolicy):
    """Commit the n most confident masks, n the largest whose joint probability is bounded so.

    The sum of their confidences minus (n - 1) is a lower bound of the probability that all are
    right; it must exceed the doubt about the last, 1 - c_n, by more than ``margin``. Always commits
    one.
    """

    margin: float = 0.25
    """By how much the bound must exceed the doubt; below 0 it may fall short. README: 0.25."""

    knob = Knob("margin", (0.02, 0.1, 0.3, 0.5))

    def __post_init__(self) -> None:
        """Refuse what is no margin."""
        check_fields(self)
        if not math.isfinite(self.margin) or self.margin >= 1:
            raise ConfigError(f"frechet margin is {self.margin}, must be finite and below 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The longest run of the ranking that keeps the bound above the doubt."""
        confidence_BG = scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        ranks_BG = rank_BG(confidence_BG)
        sure_BG = in_order_BG(confidence_BG.where(allowed_BG, 0.0), ranks_BG)
        # sum - (n - 1) - (1 - c_n) = sum + c_n - n
        count_G = ranks_BG.new_ones(ranks_BG.shape[-1]).cumsum(0)
        enough_BG = sure_BG.cumsum(-1) + sure_BG - count_G > self.margin
        return first_BG(ranks_BG, enough_BG, 1) & allowed_BG

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        sure_C = np.sort(np.where(scores.allowed_C, scores.confidence_C, 0.0))[::-1]
        enough_C = sure_C.cumsum() + sure_C - np.arange(1, sure_C.size + 1) > self.margin
        return first(scores.rank_C, enough_C, 1) & scores.allowed_C
