"""KLASS (Kim et al., arXiv 2511.05664): what is sure and has stopped moving is committed.

``stable_confident_decode`` in github.com/shkim0116/KLASS (commit ad87ecb). A distribution is stable
that has moved little from each forward to the next, for some of them. Where no mask is both sure
and stable, the schedule decides. The published code looks at every mask of the answer in each step,
so that a block may begin with distributions that are known; so does this one, as far as their rows
are computed. Its fallback may overwrite finished tokens where fewer masks are left than a step's
share; here a share ends with the masks.

It costs a distribution kept in float32 for every new position, 130 MB a request at 256 positions of
LLaDA-8B's vocabulary, and the head of the model for every mask that is computed, not those of the
block alone.

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
from skipstone.unmask.ranking import rank_BG, ranks, share_BG
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Geometry, StepContext
    from skipstone.unmask.scores import HostScores, Scores

Ready = Literal["all", "best"]


@dataclass(frozen=True)
class Klass(UnmaskPolicy):
    """Commit masks that are sure and whose distribution has stopped moving, else by schedule."""

    value: float = 0.9
    """Confidence that a mask must exceed, 0 to 1."""
    drift: float = 0.01
    """Divergence from the distribution before, in nats, that it must stay below; above 0."""
    history: int = 2
    """For how many steps of the block it must have done so, this one included; 1 or more."""
    ready: Ready = "all"
    """Which of the masks that are sure and stable are committed: all, or the most confident."""

    knob = Knob("value", (0.6, 0.75, 0.95))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        if not 0.0 <= self.value <= 1.0:
            raise ConfigError(f"klass value is {self.value}, must be between 0 and 1")
        if not 0.0 < self.drift < math.inf:
            raise ConfigError(f"klass drift is {self.drift}, must be positive and finite")
        if self.history < 1:
            raise ConfigError(f"klass history is {self.history}, must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """How far distributions move."""
        return frozenset({Need.DRIFT})

    @property
    def uses_steps(self) -> bool:
        """They decide how many are committed where none is ready."""
        return True

    def start(self, geometry: Geometry) -> _Stability:
        """For how long each offset has been stable."""
        return _Stability(geometry, self)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        allowed_C, confidence_C = scores.allowed_C, scores.confidence_C
        ready_C = allowed_C & (confidence_C > self.value)
        ready_C &= self._stable_for(scores) >= self.history
        if not ready_C.any():
            return (scores.rank_C * scores.steps_left < scores.masks_left) & allowed_C
        if self.ready == "best":
            ready_C &= ranks(np.where(ready_C, confidence_C, -np.inf)) == 0
        return ready_C

    def _stable_for(self, scores: HostScores) -> np.ndarray:
        """For how many steps of its block each candidate has been stable: int64 [C]."""
        for_C = np.zeros(scores.offset_C.shape, np.int64)
        mine = [one for one in scores.earlier if one.block == scores.block]
        for step in (*mine, scores):
            open_C = step.allowed_C
            _, at, theirs = np.intersect1d(
                scores.offset_C, step.offset_C[open_C], return_indices=True
            )
            stable = step.drift_C[open_C][theirs] < self.drift
            for_C[at] = np.where(stable, for_C[at] + 1, 0)
        return for_C


class _Stability:
    """For how many steps of its block each offset has been stable."""

    def __init__(self, geometry: Geometry, policy: Klass) -> None:
        import torch

        shape = (geometry.batch, geometry.gen_length)
        self._for_BG = torch.zeros(shape, dtype=torch.int64, device=geometry.device)
        self._policy = policy

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All that are ready, or the best of them; where none is, the share of this step."""
        policy, confidence_BG = self._policy, scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        before_BG = self._for_BG.where(context.step_B1 > 0, 0)
        stable_BG = scores.drift_BG < policy.drift
        for_BG = (before_BG + 1).where(stable_BG, 0).where(allowed_BG, before_BG)
        self._for_BG = for_BG.where(context.forward_B1 >= 0, self._for_BG)
        ready_BG = allowed_BG & (confidence_BG > policy.value) & (for_BG >= policy.history)
        none_B1 = ~ready_BG.any(-1, keepdim=True)
        if policy.ready == "best":
            ready_BG &= rank_BG(confidence_BG.where(ready_BG, -math.inf)) == 0
        return share_BG(confidence_BG, confidence_BG, context).where(none_B1, ready_BG)

    def forget(self, request: int) -> None:
        """Nothing was seen yet."""
        self._for_BG[request] = 0
