"""WINO, "wide in, narrow out" (Hong et al., arXiv 2507.18578): commit much, and take back doubts.

``decoding_wino`` in github.com/Feng-Hong/WINO-DLLM (commit 9549a1d, ``LLaDA/decoding.py``). Beside
its masks, a block's committed tokens are scored by a shadow: masks at all positions of the block,
which see everything but the token at their own place. Where that token is not probable there, it
becomes a mask again, and is decoded anew with what was committed meanwhile.

Each step takes back fewer tokens than the step before it has committed, and none if it commits but
one: so with each step at least one mask more is decided, and a block ends after as many steps as it
has masks, at most.

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
from skipstone.unmask.ranking import rank_BG, ranks
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores

# As published: a step may commit so many even of few masks, and no more of many.
_LEAST, _MOST = 5, 20


@dataclass(frozen=True)
class Wino(UnmaskPolicy):
    """Commit all masks above ``value``, and take back tokens that are below ``back`` unseen."""

    value: float = 0.6
    """Commit the masks that have more confidence than this, 0 to 1; else the best one. At most 7 in
    10 of the masks, rounded down, but not fewer than 5 or more than 20: the most confident ones."""
    back: float = 0.9
    """A committed token of the block becomes a mask again where it has less probability than this,
    0 to 1, as long as it is not seen. None does if the step commits but one, and always fewer than
    the step before has committed: the least probable ones."""

    knob = Knob("value", (0.7, 0.8))

    def __post_init__(self) -> None:
        """Refuse values that are no probabilities."""
        check_fields(self)
        for name in ("value", "back"):
            if not 0.0 <= (asked := getattr(self, name)) <= 1.0:
                raise ConfigError(f"wino {name} is {asked}, must be between 0 and 1")

    @property
    def needs(self) -> frozenset[Need]:
        """How probable committed tokens are where they are not seen."""
        return frozenset((Need.UNSEEN,))

    def idle(self) -> tuple[str, ...]:
        """Without a bar, nothing is taken back."""
        if self.back > 0.0:
            return ()
        return ("wino back=0.0 takes nothing back: no probability is below it",)

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The masks that are committed, and the tokens that become masks again."""
        import torch

        confidence_BG = scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        most_B1 = (allowed_BG.sum(-1, keepdim=True) * 7 // 10).clamp(_LEAST, _MOST)
        first_BG = rank_BG(confidence_BG)
        sure_B1 = (allowed_BG & (confidence_BG > self.value)).sum(-1, keepdim=True)
        count_B1 = sure_B1.minimum(most_B1).clamp(min=1)
        commit_BG = allowed_BG & (first_BG < count_B1)
        # What it wrote in its last step, and is no mask: what it committed.
        before_BG = context.canvas.region(context.committed_BL) & ~context.canvas.masked_BG()
        fewer_B1 = (before_BG & context.block_BG).sum(-1, keepdim=True)
        unseen_BG = scores.revisable_BG
        doubted_BG = (unseen_BG != -math.inf) & (unseen_BG < self.back)
        order_BG = rank_BG(torch.where(doubted_BG, -unseen_BG, -math.inf))
        back_BG = doubted_BG & (order_BG < fewer_B1 - 1)
        return commit_BG | (back_BG & (commit_BG.sum(-1, keepdim=True) > 1))

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        confidence_C, unseen_C = scores.confidence_C, scores.revisable_C
        sure = int((scores.allowed_C & (confidence_C > self.value)).sum())
        most = min(max(int(scores.allowed_C.sum()) * 7 // 10, _LEAST), _MOST)
        commit_C = scores.allowed_C & (scores.rank_C < max(1, min(sure, most)))
        doubted_C = ~np.isneginf(unseen_C) & (unseen_C < self.back)
        order_C = ranks(np.where(doubted_C, -unseen_C, -np.inf))
        if commit_C.sum() < 2:
            return commit_C
        return commit_C | (doubted_C & (order_C < _committed_before(scores) - 1))


def _committed_before(scores: HostScores) -> int:
    """How many masks of the block the step before has committed."""
    count = 0
    for last in scores.earlier[-1:] if scores.step else ():
        masks = last.offset_C[last.held_C < 0]
        count = int(np.isin(scores.offset_C[scores.held_C >= 0], masks).sum())
    return count
