"""Quotas: a number of masks for each step of a block, or all above a threshold if they are more.

SDAR (arXiv 2510.06303; ``generate.py`` in github.com/JetAstra/SDAR, commit c2041a8) shares the
positions of a whole block out among its denoising steps: its ``low_confidence_static``, its
``low_confidence_dynamic`` (with a threshold) and its ``sequential`` (by position). LLaDA2.0
(``generate`` of ``LLaDA2MoeModelLM``) has the dynamic one; Stable-DiffCoder shares out the masks
that a block begins with. SDAR's code takes a whole quota even where fewer masks are left, and then
overwrites tokens and the prompt; here a quota ends with the masks.

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
from skipstone.unmask.ranking import rank_BG, ranks

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import RequestStep, StepContext
    from skipstone.unmask.scores import HostScores, Scores

Order = Literal["confidence", "left_to_right"]
Over = Literal["block", "masks"]


@dataclass(frozen=True)
class Quota(UnmaskPolicy):
    """Commit a step's quota of the best masks, or all above a threshold if they are as many."""

    steps: int | None = None
    """Of each block, which have its quotas: earlier steps the larger ones. None: a quota is 1."""
    threshold: float | None = None
    """Where at least a quota of masks have more confidence than this, commit all that have."""
    order: Order = "confidence"
    """Which masks make up the quota: the most confident, or those furthest left."""
    over: Over = "block"
    """What the steps share out: a whole block, also where the prompt is in it, or its masks."""

    knob = Knob("steps", (4, 8, 16))

    def __post_init__(self) -> None:
        """Refuse steps that are none, and a threshold that is no probability."""
        check_fields(self)
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"quota steps is {self.steps}, must be at least 1")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"quota threshold is {self.threshold}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores and the step within the block decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All above the threshold if they fill the quota, else the quota's first."""
        confidence_BG = scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        quota_B1 = context.each(1, self._quota_of)
        ranks_BG = rank_BG(confidence_BG)
        if self.order == "left_to_right":
            ranks_BG = allowed_BG.cumsum(-1) - 1
        best_BG = (ranks_BG < quota_B1) & allowed_BG
        if self.threshold is None:
            return best_BG
        sure_BG = (confidence_BG > self.threshold) & allowed_BG
        return sure_BG.where(sure_BG.sum(-1, keepdim=True) >= quota_B1, best_BG)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        allowed_C = scores.allowed_C
        quota = self._quota(
            scores.block_stop - scores.block_start, scores.block_length, scores.step
        )
        key_C = scores.confidence_C
        if self.order == "left_to_right":
            key_C = np.where(allowed_C, -scores.offset_C, -np.inf)
        best_C = (ranks(key_C) < quota) & allowed_C
        if self.threshold is None:
            return best_C
        sure_C = (scores.confidence_C > self.threshold) & allowed_C
        return sure_C if sure_C.sum() >= quota else best_C

    def _quota_of(self, at: RequestStep) -> tuple[int]:
        return (self._quota(at.block.length, at.block_length or at.block.length, at.step),)

    def _quota(self, own: int, whole: int, step: int) -> int:
        """How many masks a step commits; the steps of a block share them out, remainder first.

        Args:
            own: positions of the block that are decoded.
            whole: of a block that is not cut short.
            step: within the block.
        """
        shared = whole if self.over == "block" else own
        steps = min(self.steps or shared, shared)
        return max(1, shared // steps + (step < shared % steps))
