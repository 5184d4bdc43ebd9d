"""The entropy bound of EB-Sampler (Ben-Hamu et al., arXiv 2505.24857).

Tokens that are committed together depend on each other at most by the sum of their entropies minus
the largest of them; the rule commits as many as keep this below ``gamma``. The code in d2Cache
(github.com/Kamichanw/d2Cache, commit 72feb60) leaves out the entropy of the last instead of the
largest, since it takes the running maximum along the wrong axis: that is ``free=last``. Engines for
SDAR (``entropy_bounded``) leave out none, and order by entropy: ``order=entropy,free=none``.

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.by_key import check_each
from skipstone.unmask.ranking import first, first_BG, in_order_BG, rank_BG, ranks
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores

Order = Literal["confidence", "margin", "entropy"]
Free = Literal["largest", "last", "none"]


@dataclass(frozen=True)
class EntropyBound(UnmaskPolicy):
    """Commit the first n masks in an order, n the largest whose entropies stay within a bound."""

    gamma: float = 0.001
    """What the entropies of all but one may come to, in nats."""
    order: Order = "confidence"
    """Most confident first, largest margin first, or least entropy first."""
    free: Free = "largest"
    """The one that does not count: the largest, as in the paper, or the last, as in d2Cache; or
    none, as in engines for SDAR."""
    each: int = 1
    """Masks that a step commits in any case."""

    knob = Knob("gamma", (0.01, 0.1, 0.5))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        check_each("entropy_bound", self.each)
        if not 0.0 <= self.gamma < math.inf:
            raise ConfigError(f"entropy_bound gamma is {self.gamma}, must be 0 or more, and finite")

    @property
    def needs(self) -> frozenset[Need]:
        """The entropy, and the margin if it gives the order."""
        return frozenset({Need.ENTROPY, *([Need.MARGIN] if self.order == "margin" else [])})

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The longest run in this order whose entropies stay within the bound."""
        allowed_BG = scores.confidence_BG != -math.inf
        key_BG = scores.confidence_BG
        if self.order != "confidence":
            key_BG = scores.margin_BG if self.order == "margin" else -scores.entropy_BG
        ranks_BG = rank_BG(key_BG.where(allowed_BG, -math.inf))
        entropy_BG = in_order_BG(scores.entropy_BG.where(allowed_BG, 0.0), ranks_BG)
        sum_BG = entropy_BG.cumsum(-1)
        if self.free != "none":
            sum_BG = sum_BG - (entropy_BG if self.free == "last" else entropy_BG.cummax(-1).values)
        enough_BG = sum_BG <= self.gamma
        return first_BG(ranks_BG, enough_BG, self.each) & allowed_BG

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        key_C = scores.confidence_C
        if self.order != "confidence":
            key_C = scores.margin_C if self.order == "margin" else -scores.entropy_C
        rank_C = ranks(np.where(scores.allowed_C, key_C, -np.inf))
        entropy_C = np.empty_like(scores.entropy_C)
        entropy_C[rank_C] = np.where(scores.allowed_C, scores.entropy_C, 0.0)
        sum_C = entropy_C.cumsum()
        if self.free != "none":
            sum_C -= entropy_C if self.free == "last" else np.maximum.accumulate(entropy_C)
        enough_C = sum_C <= self.gamma
        return first(rank_C, enough_C, self.each) & scores.allowed_C
