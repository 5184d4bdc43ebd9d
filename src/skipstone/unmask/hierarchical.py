"""The best of each run of masks: what stands apart is committed together.

``HierarchyDecoder`` of dInfer (github.com/inclusionAI/dInfer, commit fce4e32). Masks with a decided
token between them depend less on each other than neighbours do, so each run of neighbouring masks
gives its most confident one in a step.

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
class Hierarchical(UnmaskPolicy):
    """Commit the best of each run of neighbouring masks, all above a value, and always the best."""

    value: float | None = 0.9
    """Commit all masks above this confidence; None: none for this reason."""
    low: float | None = 0.4
    """What the best of a run must be above; None: nothing is asked of it."""

    knob = Knob("value", (0.7, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse values that are no probabilities."""
        check_fields(self)
        for name in ("value", "low"):
            asked = getattr(self, name)
            if asked is not None and not 0.0 <= asked <= 1.0:
                raise ConfigError(f"hierarchical {name} is {asked}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The best of each run; equal ones together, as published."""
        confidence_BG = scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        follows_BG = allowed_BG.roll(1, -1)
        follows_BG[:, 0] = False
        run_BG = (allowed_BG & ~follows_BG).cumsum(-1)
        batch, offsets = confidence_BG.shape
        most_BR = confidence_BG.new_full((batch, offsets + 1), -math.inf)
        most_BR = most_BR.scatter_reduce(-1, run_BG, confidence_BG, "amax")
        leads_BG = confidence_BG == most_BR.gather(-1, run_BG)
        if self.low is not None:
            leads_BG &= confidence_BG > self.low
        if self.value is not None:
            leads_BG |= confidence_BG > self.value
        return (leads_BG | (rank_BG(confidence_BG) == 0)) & allowed_BG

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        confidence_C, allowed_C = scores.confidence_C, scores.allowed_C
        leads_C = np.zeros_like(allowed_C)
        at_M = np.flatnonzero(allowed_C)
        apart_M = np.flatnonzero(np.diff(scores.offset_C[at_M]) != 1) + 1
        for run in np.split(at_M, apart_M) if at_M.size else ():
            leads_C[run] = confidence_C[run] == confidence_C[run].max()
        if self.low is not None:
            leads_C &= confidence_C > self.low
        if self.value is not None:
            leads_C |= confidence_C > self.value
        return (leads_C | (scores.rank_C == 0)) & allowed_C
