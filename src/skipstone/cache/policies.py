"""The three caches of the field, each a choice of rows.

Prefix and dual cache follow Fast-dLLM (Wu et al., arXiv 2505.22618): a refresh at each block's
start, then the rest of the sequence (prefix) or the block alone (dual) is recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipstone.cache.base import CachePolicy, StepTaken
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob

if TYPE_CHECKING:
    from skipstone.canvas import RequestStep, StepContext
    from skipstone.rows import Rows

_USUAL_INTERVAL = 4
"""Of refreshes, where somebody asks for more of them than one for each block."""


@dataclass(frozen=True)
class NoCache(CachePolicy):
    """Recompute every row in every step: exact, and the slowest."""

    @property
    def pure(self) -> bool:
        """The step alone decides."""
        return True

    def rows(self, context: StepContext) -> Rows:
        """All rows."""
        return context.all_rows()


@dataclass(frozen=True)
class _Refreshed(CachePolicy):
    """All rows at a block's start, and when the interval within a block is over."""

    refresh_every: int = 0
    """Steps between refreshes within a block; 0 refreshes at the block's start only."""

    knob = Knob("refresh_every", (4, 8))

    def __post_init__(self) -> None:
        """Refuse a negative interval."""
        check_fields(self)
        if self.refresh_every < 0:
            raise ConfigError(
                f"refresh_every is {self.refresh_every}, must be 0 (block starts only) or more"
            )

    @property
    def pure(self) -> bool:
        """The step alone decides."""
        return True

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """An interval that no block was long enough for."""
        every = self.refresh_every
        if not every or any(step.refresh and step.step for step in steps):
            return ()
        return (f"refresh_every={every} never came due: no block took more than {every} steps",)

    def fresher(self) -> CachePolicy | None:
        """Twice as many refreshes; one every fourth step where there are none within a block."""
        every = self.refresh_every
        more = every // 2 if every else _USUAL_INTERVAL
        return replace(self, refresh_every=more) if more else None

    def _is_due(self, at: RequestStep) -> bool:
        return at.step == 0 or (self.refresh_every > 0 and at.step % self.refresh_every == 0)


@dataclass(frozen=True)
class PrefixCache(_Refreshed):
    """Keep the K/V left of the block; recompute the block and everything right of it."""

    def rows(self, context: StepContext) -> Rows:
        """All rows that may have changed when a refresh is due, else those from the block on."""
        due, others = context.split(self._is_due)
        return due.changed_rows().beside(others.rows_from_block())


@dataclass(frozen=True)
class DualCache(_Refreshed):
    """Keep the K/V on both sides of the block; recompute the block alone."""

    def most_rows(self, block_rows: int, length: int) -> int:
        """The block's."""
        return block_rows

    def rows(self, context: StepContext) -> Rows:
        """All rows that may have changed when a refresh is due, else the block's rows."""
        due, others = context.split(self._is_due)
        return due.changed_rows().beside(others.block_rows())
