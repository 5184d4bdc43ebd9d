"""Credit decoding: a token that was the best before needs less evidence now.

``CreditThresholdParallelDecoder`` of dInfer (github.com/inclusionAI/dInfer, commit fce4e32). Each
time a mask is scored, its best token earns credit, and what was earned before fades. The logarithm
of the credit is added to the logits, so that it also changes which token is the best.

The published code keeps a number for each position of a block and each id of the vocabulary. Only
tokens that were the best have any; those alone are kept here: 8 B for each pair of new positions of
a request, 0.5 MB at 256. The logits of a step are copied in float32.

Shape letters: B requests, G generation length, N masks, V vocabulary, K tokens of one position,
C candidates of one request.
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
from skipstone.unmask.scores import Need
from skipstone.unmask.threshold import reached, reached_BG

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Geometry, StepContext
    from skipstone.unmask.scores import HostScores, MaskLogits, Scores


@dataclass(frozen=True)
class Credit(UnmaskPolicy):
    """Commit masks whose confidence, raised for tokens that were the best before, reaches a value.

    Always commits the most confident one.
    """

    value: float = 0.9
    """Confidence that a mask must reach, credit included; 0 to 1."""
    alpha: float = 0.7
    """Weight of the logarithm of the credit among the logits, 0 or more; 0: the plain threshold."""
    gamma: float = 0.2
    """The best token earns its probability to this power, 0 or more: the smaller, the more do
    unsure ones."""
    beta: float = 0.8
    """What is left of a credit when the mask is scored again, 0 to 1."""

    knob = Knob("value", (0.7, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        for name in ("value", "beta"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"credit {name} is {getattr(self, name)}, must be between 0 and 1"
                )
        for name in ("alpha", "gamma"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"credit {name} is {getattr(self, name)}, must be 0 or more, and finite"
                )

    @property
    def needs(self) -> frozenset[Need]:
        """The logits, to raise those of tokens with credit."""
        return frozenset({Need.LOGITS})

    def start(self, geometry: Geometry) -> _Credits:
        """Credit of the tokens of every position: none yet."""
        return _Credits(geometry, self)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same: recorded confidences have the credit in them."""
        return reached(scores, self.value)

    def bound(self, scores: HostScores) -> np.ndarray:
        """The value, whatever the rank."""
        return np.full(scores.confidence_C.shape, self.value)


class _Credits:
    """The tokens that were the best of their position, and what they have earned."""

    def __init__(self, geometry: Geometry, policy: Credit) -> None:
        import torch

        # A block has no more steps than masks, so no position ever has more best tokens.
        shape = (geometry.batch, geometry.gen_length, geometry.gen_length)
        self._token_BGK = torch.zeros(shape, dtype=torch.int32, device=geometry.device)
        self._credit_BGK = torch.zeros(shape, device=geometry.device)
        self._policy = policy

    def weigh(self, masks: MaskLogits, context: StepContext) -> Tensor:
        """Logits with the credit added, float32; the best tokens earn theirs before."""
        best_N, probability_N = masks.best()
        best_N1 = best_N[:, None].int()
        token_NK, credit_NK = masks.at(self._token_BGK), masks.at(self._credit_BGK)
        credit_NK = credit_NK * self._policy.beta
        own_NK = (token_NK == best_N1) & (credit_NK > 0)
        # Where the token has no credit yet, an entry without any is the least.
        entry_N1 = (-credit_NK).where(~own_NK, 1.0).argmax(-1, keepdim=True)
        had_N1 = credit_NK.where(own_NK, 0.0).sum(-1, keepdim=True)
        earned_N1 = probability_N[:, None].float() ** self._policy.gamma
        credit_NK = credit_NK.scatter(1, entry_N1, had_N1 + earned_N1)
        token_NK = token_NK.scatter(1, entry_N1, best_N1)
        masks.keep(self._token_BGK, token_NK)
        masks.keep(self._credit_BGK, credit_NK)
        raised_NK = self._policy.alpha * credit_NK.log1p()
        return masks.logits_NV.float().scatter_add(1, token_NK.long(), raised_NK)

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All that reach the value, and the best."""
        return reached_BG(scores, self._policy.value)

    def forget(self, request: int) -> None:
        """Nothing was earned yet."""
        self._credit_BGK[request].zero_()
