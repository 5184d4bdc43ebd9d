"""Top-margin order: the masks whose best token is furthest ahead of the second come first.

Kim et al., "Train for the Worst, Plan for the Best" (arXiv 2502.06768); ``topk_margin`` in
Dream and in d2Cache (github.com/Kamichanw/d2Cache, commit 72feb60).

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.by_key import best, best_BG, check_each, unused_each
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Margin(UnmaskPolicy):
    """Commit the masks whose best token is furthest ahead of the second: some each step, or all."""

    each: int = 1
    """Masks that a step commits, where no threshold is set."""
    threshold: float | None = None
    """Commit every mask whose margin reaches it, and always the one with the largest."""

    knob = Knob("threshold", (0.3, 0.6, 0.9))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        check_each("margin", self.each)
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"margin threshold is {self.threshold}, must be between 0 and 1")

    @property
    def needs(self) -> frozenset[Need]:
        """The margin."""
        return frozenset({Need.MARGIN})

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def idle(self) -> tuple[str, ...]:
        """A number beside a threshold."""
        return () if self.threshold is None else unused_each(self.each, "threshold")

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Those with the largest margins."""
        return best_BG(scores.margin_BG, scores, self.each, self.threshold)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        return best(scores.margin_C, scores, self.each, self.threshold)
