"""Certainty prior: masks that are confident and stand near what is decided come first.

d2Cache (Jiang et al., arXiv 2509.23094; ``sigma`` of ``vanilla_generate`` in
github.com/Kamichanw/d2Cache, commit 72feb60). Confidence is weighed by how much of what is near a
mask is decided: a narrow Gaussian decodes from left to right, a wide one by confidence alone. It
is made for one block over all that is decoded, beside ``cache=d2cache``; it needs neither.

Of masks whose rows a cache did not compute, published code means to commit none, but the write that
says so goes into a copy: they take part with logits of 0. Here they never do.

Shape letters: B requests, G generation length, C candidates of one request, X tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipstone.checks import check_fields
from skipstone.density import around, certainty_density, full_weight, sides
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
    from skipstone.rows import to_device  # the settings are read without torch

    new, lengths = canvas.gen_length, canvas.gen_lengths
    tables = [around(sigma, new), *(sides(sigma, length, new).ravel() for length in lengths)]
    around_X, sides_X = to_device(np.concatenate(tables), canvas.device).tensor_split([2 * new - 1])
    left_BG, right_BG = sides_X.view(-1, 2, new).unbind(1)
    last_B1 = to_device(np.array(lengths)[:, None].clip(min=1) - 1, canvas.device)
    status_BG = canvas.region(canvas.status_BL)
    decided_BG = ((status_BG != Status.PAD) & (status_BG != Status.MASK)).double()
    # The weights of each offset are those of its neighbour, one further on.
    inside_BG = decided_BG.flip(-1) @ around_X.unfold(0, new, 1)
    sum_BG = inside_BG + left_BG + decided_BG.gather(1, last_B1) * right_BG
    # A product: torch divides by a number otherwise than numpy does, in the last bit.
    return sum_BG * (1 / full_weight(sigma))
