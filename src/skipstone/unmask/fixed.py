"""LLaDA's schedule (Nie et al., arXiv 2502.09992): every step commits its share of a block.

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skipstone.checks import check_fields
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.ranking import share_BG

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.unmask.base import UnmaskSession
    from skipstone.unmask.scores import HostScores, Scores

Order = Literal["confidence", "random"]

# Keeps the draws of the order apart from the draws of the tokens, which use the bare seed.
_ORDER_STREAM = 0x5EED


@dataclass(frozen=True)
class Fixed(UnmaskPolicy):
    """Spread the masks of a block evenly over its steps; each step commits its share."""

    order: Order = "confidence"
    """Commit the most confident masks, or masks at random places."""

    def __post_init__(self) -> None:
        """Refuse an unknown order."""
        check_fields(self)

    @property
    def uses_steps(self) -> bool:
        """The steps decide the share of each."""
        return True

    @property
    def uses_seed(self) -> bool:
        """Only a random order draws numbers."""
        return self.order == "random"

    @property
    def pure(self) -> bool:
        """Nothing but the scores and the schedule decides, unless the order is drawn."""
        return self.order == "confidence"

    @property
    def keeps_to_schedule(self) -> bool:
        """The share of the last step is all that is left."""
        return True

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Generators for a random order, one for each request."""
        return _RandomOrder(geometry) if self.order == "random" else self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The share of this step, most confident first."""
        return share_BG(scores.confidence_BG, scores.confidence_BG, context)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same; in whole numbers, rank < ceil(masks / steps)."""
        return (scores.rank_C * scores.steps_left < scores.masks_left) & scores.allowed_C


class _RandomOrder:
    """A fixed schedule whose places are drawn by one generator for each request."""

    def __init__(self, geometry: Geometry) -> None:
        self._device = geometry.device
        self._generators: dict[int, torch.Generator] = {}

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The share of this step, at random places."""
        confidence_BG = scores.confidence_BG
        draw_BG = confidence_BG.new_zeros(confidence_BG.shape)
        # Only requests that take part draw, so that each draws what it would draw alone.
        for at in context.requests:
            own = context.canvas.gen_lengths[at.slot]
            draw_BG[at.slot, :own].uniform_(generator=self._generator(at))
        key_BG = confidence_BG.where(confidence_BG.isneginf(), draw_BG)
        return share_BG(key_BG, confidence_BG, context)

    def forget(self, request: int) -> None:
        """Draw from the beginning again."""
        self._generators.pop(request, None)

    def _generator(self, at: RequestStep) -> torch.Generator:
        """The one of a request."""
        import torch

        if at.slot not in self._generators:
            generator = torch.Generator(self._device).manual_seed(at.seed ^ _ORDER_STREAM)
            self._generators[at.slot] = generator
        return self._generators[at.slot]
