"""LocalLeap: around a mask that is very sure, less is asked of its neighbours.

``generate.py`` of its authors (arXiv 2510.07081), as third parties mirror it: their own repository
could not be read. A mask that reaches the threshold is an anchor; within a radius of one, a lower
threshold holds.

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

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class LocalLeap(UnmaskPolicy):
    """Commit masks that reach a value, their neighbours that reach a lower one, and the best."""

    value: float = 0.9
    """Confidence that a mask must reach; one that does is an anchor in this step; 0 to 1."""
    relaxed: float = 0.75
    """Confidence that a mask near an anchor must reach, 0 to 1."""
    radius: int = 4
    """How many positions from an anchor still are near it, 0 or more."""

    knob = Knob("relaxed", (0.6, 0.85))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        for name in ("value", "relaxed"):
            asked = getattr(self, name)
            if not 0.0 <= asked <= 1.0:
                raise ConfigError(f"local_leap {name} is {asked}, must be between 0 and 1")
        if self.radius < 0:
            raise ConfigError(f"local_leap radius is {self.radius}, must be 0 or more")

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def idle(self) -> tuple[str, ...]:
        """A lower threshold that is none."""
        if self.relaxed < self.value and self.radius > 0:
            return ()
        why = "it is not below value" if self.radius else "within radius=0 of an anchor is no other"
        return (f"relaxed={self.relaxed} has no effect: {why}",)

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All anchors, all near one that reach the lower value, and the best."""
        confidence_BG = scores.confidence_BG
        anchor_BG = confidence_BG >= self.value
        leaps_BG = self._near_BG(anchor_BG) & (confidence_BG >= self.relaxed)
        best_BG = rank_BG(confidence_BG) == 0
        return (anchor_BG | leaps_BG | best_BG) & (confidence_BG != -math.inf)

    def _near_BG(self, anchor_BG: Tensor) -> Tensor:
        """Bool: offsets with an anchor within the radius."""
        import torch  # the settings are read without torch

        # Anchors up to the far end of the radius, minus those left of its near end.
        gen_length = anchor_BG.shape[-1]
        reach = min(self.radius, gen_length)
        count_BG = anchor_BG.long().cumsum(-1)
        none_BR = count_BG.new_zeros(*count_BG.shape[:-1], reach + 1)
        all_BR = count_BG[:, -1:].expand(-1, reach)
        count_BG = torch.cat([none_BR, count_BG, all_BR], dim=-1)
        return count_BG[:, 2 * reach + 1 :] > count_BG[:, :gen_length]

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        confidence_C = scores.confidence_C
        anchor_C = confidence_C >= self.value
        apart_CC = np.abs(scores.offset_C[:, None] - scores.offset_C)
        near_C = ((apart_CC <= self.radius) & anchor_C).any(1)
        leaps_C = near_C & (confidence_C >= self.relaxed)
        return (anchor_C | leaps_C | (scores.rank_C == 0)) & scores.allowed_C
