"""What an unmask policy is: it says which masks a step commits.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from skipstone.canvas import Geometry, Moment


@dataclass(frozen=True, eq=False)
class Scores:
    """What the model says about every offset of the generation region."""

    token_BG: Tensor
    """int64: the token that would be committed."""
    confidence_BG: Tensor
    """float64: its probability; -inf where nothing may be committed in this step."""


class UnmaskSession(Protocol):
    """What an unmask policy remembers during one run."""

    def select(self, scores: Scores, moment: Moment) -> Tensor:
        """Which offsets are committed now: bool [B, G]. Equal confidence: lowest position first.

        No host read, no boolean indexing, no shape that depends on values: the same code runs
        inside a captured graph.
        """
        ...

    def bound(self, rank_BG: Tensor) -> Tensor | None:
        """Confidence that an offset of this rank must reach, float64 [B, G]; None if no bound."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A session that commits a number which does not depend on what the model says.

    The host then knows how many masks are left without waiting for the device.
    """

    def due(self, left_B: np.ndarray, moment: Moment) -> np.ndarray:
        """How many masks of each request ``select`` commits, if it may choose among all.

        Args:
            left_B: int64 [B], masks of the block before this step.
            moment: the step.

        Returns:
            int64 [B], at most ``left_B``.
        """
        ...


@runtime_checkable
class UnmaskPolicy(Protocol):
    """A frozen dataclass whose fields are its settings."""

    @property
    def uses_steps(self) -> bool:
        """Whether the number of steps decides how much is committed."""
        ...

    @property
    def uses_seed(self) -> bool:
        """Whether random numbers decide what is committed."""
        ...

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Memory for one run."""
        ...
