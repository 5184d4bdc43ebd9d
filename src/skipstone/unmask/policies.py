"""Unmask rules: fixed schedule, confidence threshold, factor.

Threshold and factor follow Fast-dLLM (Wu et al., arXiv 2505.22618); the schedule is LLaDA's.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from skipstone.checks import check_fields
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.unmask.base import Scores, UnmaskSession

Order = Literal["confidence", "random"]

# Keeps the draws of the order apart from the draws of the tokens, which use the bare seed.
_ORDER_STREAM = 0x5EED


def rank_BG(confidence_BG: Tensor) -> Tensor:
    """Rank of each offset, 0 for the most confident; equal confidence: lowest position first."""
    from skipstone.ops.decide import dispatch as ops  # the settings are read without torch

    return ops.rank(confidence_BG)


@dataclass(frozen=True)
class Fixed:
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
        return _RandomFixed(geometry) if self.order == "random" else self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The share of this step, most confident first."""
        return _share(scores.confidence_BG, scores.confidence_BG, context)

    def bound(self, rank_C: np.ndarray, at: RequestStep) -> None:
        """The schedule decides how many, not a bound."""

    def forget(self, request: int) -> None:
        """Nothing was remembered."""


class _RandomFixed:
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
        return _share(key_BG, confidence_BG, context)

    def bound(self, rank_C: np.ndarray, at: RequestStep) -> None:
        """The schedule decides how many, not a bound."""

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


def _share(key_BG: Tensor, confidence_BG: Tensor, context: StepContext) -> Tensor:
    """The best by ``key_BG``: masks left in the block over steps left, rounded up.

    Counting from what is left gives LLaDA's schedule when every step commits its share, and cannot
    drift when one does not.
    """
    from skipstone.ops.decide import dispatch as ops

    return ops.scheduled(rank_BG(key_BG), confidence_BG, context)


@dataclass(frozen=True)
class Threshold:
    """Commit every mask whose confidence reaches ``value``, and always the most confident one."""

    value: float = 0.9
    """Confidence that a mask must reach."""

    def __post_init__(self) -> None:
        """Refuse a value that is no probability."""
        check_fields(self)
        if not 0.0 <= self.value <= 1.0:
            raise ConfigError(f"threshold value is {self.value}, must be between 0 and 1")

    @property
    def uses_steps(self) -> bool:
        """Confidence decides, not the number of steps."""
        return False

    @property
    def uses_seed(self) -> bool:
        """Nothing is drawn."""
        return False

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Nothing to remember."""
        return self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All at or above the threshold, and the best."""
        confidence_BG = scores.confidence_BG
        best_BG = rank_BG(confidence_BG) == 0
        return ((confidence_BG >= self.value) | best_BG) & (confidence_BG != -math.inf)

    def bound(self, rank_C: np.ndarray, at: RequestStep) -> np.ndarray:
        """The threshold, whatever the rank."""
        return np.full(rank_C.shape, self.value)

    def forget(self, request: int) -> None:
        """Nothing was remembered."""


@dataclass(frozen=True)
class Factor:
    """Commit the n most confident masks, n the largest with confidence >= 1 - value/(n+1).

    The more masks are committed together, the surer each must be. Always commits one.
    """

    value: float = 1.0
    """How much doubt is allowed in all; larger commits more."""

    def __post_init__(self) -> None:
        """Refuse a value that commits nothing or that is not finite."""
        check_fields(self)
        if not 0.0 < self.value < float("inf"):
            raise ConfigError(f"factor value is {self.value}, must be positive and finite")

    @property
    def uses_steps(self) -> bool:
        """Confidence decides, not the number of steps."""
        return False

    @property
    def uses_seed(self) -> bool:
        """Nothing is drawn."""
        return False

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Nothing to remember."""
        return self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """The longest run of the ranking that keeps the doubt within bounds."""
        confidence_BG = scores.confidence_BG
        ranks_BG = rank_BG(confidence_BG)
        bound_BG = 1.0 - self.value / (ranks_BG.double() + 2.0)
        enough_BG = (confidence_BG >= bound_BG) | (ranks_BG == 0)
        return enough_BG & (confidence_BG != -math.inf)

    def bound(self, rank_C: np.ndarray, at: RequestStep) -> np.ndarray:
        """1 - value/(n+1) for the n masks that are committed together with this rank.

        The bound rises with the rank while confidence falls, so what is committed has no holes.
        """
        return 1.0 - self.value / (rank_C + 2.0)

    def forget(self, request: int) -> None:
        """Nothing was remembered."""
