"""Certainty prior: masks that are confident and stand near what is decided come first.

d2Cache (Jiang et al., arXiv 2509.23094; ``sigma`` of ``vanilla_generate`` in
github.com/Kamichanw/d2Cache, commit 72feb60). Confidence is weighed by how much of what is near a
mask is decided: a narrow Gaussian decodes from left to right, a wide one by confidence alone. It
is made for one block over all that is decoded, beside ``cache=d2cache``; it needs neither.

Of masks whose rows a cache did not compute, published code means to commit none, but the write that
says so goes into a copy: they take part with logits of 0. Here they never do.

Shape letters: B requests, G generation length, C candidates of one request, K distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipstone.checks import check_fields
from skipstone.density import certainty_density, full_weight, weights_by_distance
from skipstone.errors import ConfigError
from skipstone.host_canvas import Status
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.by_key import best, best_BG, check_each, unused_each

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Canvas, StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Certainty(UnmaskPolicy):
    """Commit the masks with the most confidence x certainty density: some a step, or all above."""

    each: int = 1
    """Masks that a step commits, where no threshold is set."""
    sigma: float = 10.0
    """How far a decided token makes masks near it more certain, in positions: the width of a
    Gaussian; above 0. The smaller, the more is decoded from left to right."""
    threshold: float | None = None
    """Commit every mask whose confidence x density reaches it, and always the best. Beside a
    decided left and a right without end that is not, the density is a half."""

    knob = Knob("threshold", (0.2, 0.4))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        check_each("certainty", self.each)
        if not 0.0 < self.sigma < float("inf"):
            raise ConfigError(f"certainty sigma is {self.sigma}, must be above 0, and finite")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"certainty threshold is {self.threshold}, must be between 0 and 1")

    @property
    def pure(self) -> bool:
        """Nothing but the scores and the masks of the canvas decides."""
        return True

    def idle(self) -> tuple[str, ...]:
        """A number beside a threshold."""
        return () if self.threshold is None else unused_each(self.each, "threshold")

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Those with the largest products."""
        key_BG = scores.confidence_BG * density_BG(context.canvas, self.sigma)
        return best_BG(key_BG, scores, self.each, self.threshold)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        density_G = certainty_density(~scores.masked_G, self.sigma)
        confidence_C = np.where(scores.allowed_C, scores.confidence_C, 0.0)
        key_C = confidence_C * scores.at_candidates(density_G)
        return best(key_C, scores, self.each, self.threshold)


def density_BG(canvas: Canvas, sigma: float) -> Tensor:
    """As ``certainty_density``, of each request: float64 [B, G]."""
    import torch  # the settings are read without torch

    from skipstone.rows import to_device

    gen_length = canvas.gen_length
    weights_K = weights_by_distance(sigma, 2 * gen_length + 1)
    upto_K = np.concatenate([[0.0], np.cumsum(weights_K)[:-1]])
    weights_K, upto_K = to_device(np.stack([weights_K, upto_K]), canvas.device)
    status_BG = canvas.region(canvas.status_BL)
    length_B1 = (status_BG != Status.PAD).sum(-1, keepdim=True)
    decided_BG = (status_BG != Status.PAD) & (status_BG != Status.MASK)
    offset_G = torch.arange(gen_length, device=canvas.device)
    near_GG = weights_K[(offset_G[:, None] - offset_G).abs()]

    def weight_of(first_BG: Tensor) -> Tensor:
        """Of as many positions as are decoded, the nearest of them so far away."""
        nearer_BG, all_BG = first_BG.clamp(min=0), (first_BG + length_B1).clamp(min=0)
        return upto_K[all_BG] - upto_K[nearer_BG]

    left_BG = weight_of(offset_G + 1)
    right_BG = weight_of(length_B1 - offset_G)
    last_B1 = decided_BG.gather(1, (length_B1 - 1).clamp(min=0))
    sum_BG = decided_BG.double() @ near_GG + left_BG + last_B1.double() * right_BG
    return sum_BG / full_weight(sigma)
