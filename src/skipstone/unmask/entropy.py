"""Entropy order: the masks whose whole distribution is the sharpest come first.

``entropy`` in Dream (github.com/HKUNLP/Dream) and in d2Cache (github.com/Kamichanw/d2Cache, commit
72feb60).

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.by_key import best, best_BG, check_each, unused_each
from skipstone.unmask.scores import Need

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from skipstone.canvas import StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class Entropy(UnmaskPolicy):
    """Commit the masks whose distribution has the least entropy: some a step, or all below one."""

    each: int = 1
    """Masks that a step commits, where no limit is set."""
    limit: float | None = None
    """Commit every mask with at most this entropy, in nats, and always the one with the least."""

    knob = Knob("limit", (0.1, 0.3))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        check_each("entropy", self.each)
        if self.limit is not None and not self.limit >= 0:
            raise ConfigError(f"entropy limit is {self.limit}, must be 0 or more")

    @property
    def needs(self) -> frozenset[Need]:
        """The entropy."""
        return frozenset({Need.ENTROPY})

    @property
    def pure(self) -> bool:
        """Nothing but the scores decides."""
        return True

    def idle(self) -> tuple[str, ...]:
        """A number beside a limit."""
        return () if self.limit is None else unused_each(self.each, "limit")

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Those with the least entropy."""
        return best_BG(-scores.entropy_BG, scores, self.each, self._least)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        return best(-scores.entropy_C, scores, self.each, self._least)

    @property
    def _least(self) -> float | None:
        return None if self.limit is None else -self.limit
