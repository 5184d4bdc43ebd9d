"""A policy as another package writes it, which remembers the tokens of the step before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipstone.unmask import HostScores, Need, Scores, UnmaskPolicy
from skipstone.unmask.ranking import rank_BG, ranks

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Geometry, StepContext


@dataclass(frozen=True)
class Steady(UnmaskPolicy):
    """Commit masks whose token has not changed and whose margin is wide, and the widest anyway."""

    margin: float = 0.2

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.MARGIN})

    def start(self, geometry: Geometry) -> SteadySession:
        import torch

        shape = (geometry.batch, geometry.gen_length)
        return SteadySession(self.margin, torch.full(shape, -1, device=geometry.device))

    def replay(self, scores: HostScores) -> np.ndarray:
        margin_C = np.where(scores.allowed_C, scores.margin_C, -np.inf)
        steady_C = (scores.token_C == scores.token_before_C) & (margin_C >= self.margin)
        return (steady_C | (ranks(margin_C) == 0)) & scores.allowed_C


@dataclass
class SteadySession:
    margin: float
    token_BG: Tensor

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        allowed_BG = ~scores.confidence_BG.isneginf()
        margin_BG = scores.margin_BG.where(allowed_BG, -np.inf)
        steady_BG = (scores.token_BG == self.token_BG) & (margin_BG >= self.margin)
        seen_BG = scores.token_BG.where(allowed_BG, -1)
        self.token_BG = seen_BG.where(context.forward_B1 >= 0, self.token_BG)
        return (steady_BG | (rank_BG(margin_BG) == 0)) & allowed_BG

    def forget(self, request: int) -> None:
        self.token_BG[request] = -1
