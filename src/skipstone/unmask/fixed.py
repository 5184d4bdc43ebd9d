"""Schedules: every step commits its share of a block, in some order.

The even one is LLaDA's (Nie et al., arXiv 2502.09992), the one by time Dream's (Ye et al., arXiv
2508.15487), and so are its orders: ``maskgit_plus`` is the confidence, ``topk_margin`` the margin.

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
from skipstone.unmask.schedule import Schedule, first, first_BG, share_by_time, share_by_time_B1
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.unmask.base import UnmaskSession
    from skipstone.unmask.scores import HostScores, Scores

Order = Literal["confidence", "margin", "entropy", "most_entropy", "left_to_right", "random"]

# Keeps the draws of the order apart from the draws of the tokens, which use the bare seed.
_ORDER_STREAM = 0x5EED


@dataclass(frozen=True)
class Fixed(UnmaskPolicy):
    """Spread the masks of a block over its steps; each step commits its share."""

    order: Order = "confidence"
    """Most confident first, largest margin first, least entropy first, leftmost first, or random
    places. Most entropy first is a fault of KLASS's code for its ``entropy``, for comparison."""
    schedule: Schedule = "even"
    """Equal shares, or Dream's shares by time."""
    eps: float = 0.001
    """Where the time of Dream's schedule ends."""
    first_alone: bool = False
    """A block's first step commits its first mask alone, as Fast-dLLM's cached Dream does."""

    knob = Knob("order", ("margin", "entropy", "left_to_right"))

    def __post_init__(self) -> None:
        """Refuse an unknown order, and an end of time that is none."""
        check_fields(self)
        if not 0.0 < self.eps < 1.0:
            raise ConfigError(f"fixed eps is {self.eps}, must be above 0 and below 1")

    @property
    def needs(self) -> frozenset[Need]:
        """What gives the order."""
        entropies = {"entropy": Need.ENTROPY, "most_entropy": Need.ENTROPY}
        asked = {"margin": Need.MARGIN, **entropies}
        return frozenset({asked[self.order]} if self.order in asked else ())

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
        return self.order != "random"

    @property
    def keeps_to_schedule(self) -> bool:
        """The share of the last step is all that is left, if earlier steps do not take it.

        They may by time; and a last step that is also the first may commit one mask alone.
        """
        return self.schedule == "even" and not self.first_alone

    @property
    def paced_by_time(self) -> bool:
        """By time, shares are none in steps that are many."""
        return self.schedule == "time"

    @property
    def opens_alone(self) -> bool:
        """As it is set."""
        return self.first_alone

    def idle(self) -> tuple[str, ...]:
        """The end of a time that is not used."""
        if self.schedule == "time" or self.eps == Fixed.eps:
            return ()
        return (f"eps={self.eps} has no effect: schedule=even knows no time; schedule=time does",)

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Generators for a random order, one for each request."""
        return _RandomOrder(geometry, self) if self.order == "random" else self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The share of this step, the best first."""
        return self.take(self._key_BG(scores), scores, context)

    def _key_BG(self, scores: Scores) -> Tensor:
        if self.order == "left_to_right":
            # Equal keys: lowest position first.
            return scores.confidence_BG.new_zeros(scores.confidence_BG.shape)
        if self.order == "margin":
            return scores.margin_BG
        if self.order == "most_entropy":
            return scores.entropy_BG
        return -scores.entropy_BG if self.order == "entropy" else scores.confidence_BG

    def _key_C(self, scores: HostScores) -> np.ndarray:
        if self.order == "left_to_right":
            return np.zeros_like(scores.confidence_C)
        if self.order == "margin":
            return scores.margin_C
        if self.order == "most_entropy":
            return scores.entropy_C
        return -scores.entropy_C if self.order == "entropy" else scores.confidence_C

    def take(self, key_BG: Tensor, scores: Scores, context: StepContext) -> Tensor:
        """The share of this step, the largest keys first."""
        confidence_BG = scores.confidence_BG
        allowed_BG = confidence_BG != -math.inf
        if self.first_alone:
            allowed_BG = first_BG(allowed_BG, context)
        if self.first_alone or self.order != "confidence":
            key_BG = key_BG.where(allowed_BG, -math.inf)
        if self.schedule == "even":
            return share_BG(key_BG, confidence_BG, context) & allowed_BG
        share_B1 = share_by_time_B1(context, self.eps, first_alone=self.first_alone)
        return (rank_BG(key_BG) < share_B1) & allowed_BG

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same; evenly and in whole numbers, rank < ceil(masks / steps)."""
        allowed_C = first(scores) if self.first_alone else scores.allowed_C
        rank_C = ranks(np.where(allowed_C, self._key_C(scores), -np.inf))
        if self.schedule == "even":
            return (rank_C * scores.steps_left < scores.masks_left) & allowed_C
        share = share_by_time(scores, self.eps, first_alone=self.first_alone)
        return (rank_C < share) & allowed_C


class _RandomOrder:
    """A schedule whose places are drawn by one generator for each request."""

    def __init__(self, geometry: Geometry, policy: Fixed) -> None:
        self._device, self._policy = geometry.device, policy
        self._generators: dict[int, torch.Generator] = {}

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The share of this step, at random places."""
        draw_BG = scores.confidence_BG.new_zeros(scores.confidence_BG.shape)
        # Only requests that take part draw, so that each draws what it would draw alone.
        for at in context.requests:
            own = context.canvas.gen_lengths[at.slot]
            draw_BG[at.slot, :own].uniform_(generator=self._generator(at))
        return self._policy.take(draw_BG, scores, context)

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
