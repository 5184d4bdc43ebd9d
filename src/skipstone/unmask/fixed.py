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

    from skipstone.canvas import Geometry, Moment, Place
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

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Generators for a random order, one for each request."""
        return _RandomOrder(geometry) if self.order == "random" else self

    def select(self, scores: Scores, moment: Moment) -> Tensor:
        """The share of this step, most confident first."""
        return share_BG(scores.confidence_BG, scores.confidence_BG, moment)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same; in whole numbers, rank < ceil(masks / steps)."""
        return (scores.rank_C * scores.steps_left < scores.masks_left) & scores.allowed_C


class _RandomOrder:
    """A fixed schedule whose places are drawn by one generator for each request."""

    def __init__(self, geometry: Geometry) -> None:
        self._device = geometry.device
        self._generators: dict[int, torch.Generator] = {}

    def select(self, scores: Scores, moment: Moment) -> Tensor:
        """The share of this step, at random places."""
        confidence_BG = scores.confidence_BG
        draw_BG = confidence_BG.new_zeros(confidence_BG.shape)
        # Only requests that take part draw, so that each draws what it would draw alone.
        for place in moment.places:
            own = moment.canvas.gen_lengths[place.request]
            draw_BG[place.request, :own].uniform_(generator=self._generator(place))
        key_BG = confidence_BG.where(confidence_BG.isneginf(), draw_BG)
        return share_BG(key_BG, confidence_BG, moment)

    def forget(self, request: int) -> None:
        """Draw from the beginning again."""
        self._generators.pop(request, None)

    def _generator(self, place: Place) -> torch.Generator:
        """The one of a request."""
        import torch

        if place.request not in self._generators:
            generator = torch.Generator(self._device).manual_seed(place.seed ^ _ORDER_STREAM)
            self._generators[place.request] = generator
        return self._generators[place.request]
