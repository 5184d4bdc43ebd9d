"""Commits that may be edited: LLaDA2.1's own decoding.

``generate`` of ``LLaDA2MoeModelLM`` as the model cards of LLaDA2.1 have it
(github.com/ZHZisZZ/dllm, commit ca17675, ``modeling_llada21_moe.py``). One forward scores masks and
committed tokens of the block: masks that are sure enough are committed, and committed tokens are
replaced where the model is sure of another one. When no mask is left, further forwards may edit,
until one changes nothing. The authors' Q mode is ``threshold=0.7,edit=0.5``, their S mode
``threshold=0.5,edit=0``.

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
from skipstone.unmask.by_key import check_each
from skipstone.unmask.ranking import rank_BG
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Editing(UnmaskPolicy):
    """Commit all masks above ``threshold``, and replace tokens where another is above ``edit``."""

    threshold: float = 0.95
    """Commit the masks that have more confidence than this."""
    edit: float = 0.9
    """Replace a committed token of the block where another one has more probability than this; at 0
    wherever another one is the most probable."""
    each: int = 1
    """Where fewer masks are above the threshold, commit so many, the most confident ones."""
    post_steps: int = 16
    """Once no mask is left in a block, at most so many forwards may still edit it; it ends with the
    first one that changes nothing. 0: it ends with its last mask."""

    knob = Knob("threshold", (0.5, 0.7, 0.9))

    def __post_init__(self) -> None:
        """Refuse values that are no probabilities, and numbers below their least."""
        check_fields(self)
        for name in ("threshold", "edit"):
            asked = getattr(self, name)
            if not 0.0 <= asked <= 1.0:
                raise ConfigError(f"editing {name} is {asked}, must be between 0 and 1")
        check_each("editing", self.each)
        if self.post_steps < 0:
            raise ConfigError(f"editing post_steps is {self.post_steps}, must be 0 or more")

    @property
    def needs(self) -> frozenset[Need]:
        """What is committed is scored too."""
        return frozenset((Need.COMMITTED,))

    @property
    def post_steps_of_block(self) -> int:
        """As set."""
        return self.post_steps

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All masks above the threshold if they are enough, else the best; and the edits."""
        confidence_BG = scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        sure_BG = (confidence_BG > self.threshold) & allowed_BG
        best_BG = (rank_BG(confidence_BG) < self.each) & allowed_BG
        commit_BG = sure_BG.where(sure_BG.sum(-1, keepdim=True) >= self.each, best_BG)
        other_BG = scores.token_BG != context.canvas.written_BG()
        return commit_BG | ((scores.revisable_BG > self.edit) & other_BG)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        sure_C = (scores.confidence_C > self.threshold) & scores.allowed_C
        best_C = (scores.rank_C < self.each) & scores.allowed_C
        commit_C = sure_C if sure_C.sum() >= self.each else best_C
        return commit_C | ((scores.revisable_C > self.edit) & (scores.token_C != scores.held_C))
