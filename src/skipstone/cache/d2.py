"""d2Cache (Jiang et al., arXiv 2509.23094): a step computes the rows that the last one points at.

github.com/Kamichanw/d2Cache (commit 72feb60), ``d2Cache`` and ``certainty_density``. The first
forward of a request computes all rows, and none after it does. A later step computes the masks that
are confident and stand near what is decided, what the last step committed, and those others to
which most attention flows, followed through all layers: each layer hands half of what a row has to
the row itself, and half to what it attends to (attention rollout). Small gaps between these rows
are filled. Masks that are not computed cannot be committed in that step.

Published code does other than it says in two points, which is the setting ``published``: what it
keeps of confidence is that of the first step for good, and what it takes for the block is the masks
that were left of it, those of the last step. Of models that score a position by the row left of it,
it computes that row alone; here both are.

Attention weights of all layers are held until a step is through, and layers are computed eagerly.

Shape letters: R rows of one request, K positions, G new positions, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipstone.cache.base import (
    CacheNeed,
    CachePolicy,
    CacheSession,
    StepTaken,
    refuse_causal_blocks,
)
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob

if TYPE_CHECKING:
    from skipstone.canvas import Geometry

_MOST_CAREFUL = 0.99


@dataclass(frozen=True)
class D2Cache(CachePolicy):
    """Recompute confident masks near decided tokens, and rows to which most attention flows."""

    current_k: int = 32
    """Masks that a step computes, those of the block before later ones; 1 or more."""
    sigma: float = 10.0
    """How far a decided token makes masks near it more certain, in positions: the width of a
    Gaussian; above 0."""
    rollout_p: float = 0.1
    """Share of all attention that flows to other rows, up to which those are computed that get
    most; 0 is the first of them alone, and 1 computes all rows in every step."""
    inflate_w: int = 4
    """Rows between two that are computed are computed too where these are at most so far apart; 0
    or 1 fills no gap. Published for one block over all that is decoded: 0."""
    published: bool = False
    """Choose masks as the published code does, for comparison: by the confidence of the first
    step, in a block that ends where its masks did."""

    knob = Knob("rollout_p", (0.02, 0.3, 0.6))

    def __post_init__(self) -> None:
        """Refuse what is no count, width or share."""
        check_fields(self)
        if self.current_k < 1:
            raise ConfigError(
                f"d2cache current_k is {self.current_k}, must be 1 or more: a step that computes "
                f"no mask commits nothing"
            )
        if not 0 < self.sigma < float("inf"):
            raise ConfigError(f"d2cache sigma is {self.sigma}, must be above 0, and finite")
        if not 0 <= self.rollout_p <= 1:
            raise ConfigError(f"d2cache rollout_p is {self.rollout_p}, must be between 0 and 1")
        if self.inflate_w < 0:
            raise ConfigError(f"d2cache inflate_w is {self.inflate_w}, must be 0 (none) or more")

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """How rows attend, and how confident all masks are."""
        return frozenset(("attention", "confidence"))

    def start(self, geometry: Geometry) -> CacheSession:
        """What is known of each request.

        Raises:
            ConfigError: attention of the model is causal over blocks.
        """
        # Policies are read without torch.
        from skipstone.cache.pointed import PointedRows, Pointing

        refuse_causal_blocks(geometry, "cache=d2cache computes rows on both sides of a block")
        pointing = Pointing(
            self.current_k, self.sigma, self.rollout_p, self.inflate_w, self.published
        )
        return PointedRows(pointing, geometry.num_layers)

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """A share with which nothing is kept."""
        if self.rollout_p < 1:
            return ()
        return ("rollout_p=1.0 keeps nothing: every step computes all rows",)

    def fresher(self) -> CachePolicy | None:
        """Half as much attention flows to rows that are kept."""
        if self.rollout_p >= _MOST_CAREFUL:
            return None
        return replace(self, rollout_p=round((1 + self.rollout_p) / 2, 6))
