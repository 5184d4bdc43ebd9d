"""The three caches of the field, each a choice of rows.

Prefix and dual cache follow Fast-dLLM (Wu et al., arXiv 2505.22618): a refresh at each block's
start, then the rest of the sequence (prefix) or the block alone (dual) is recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipstone.checks import check_fields
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.canvas import RequestStep, StepContext
    from skipstone.rows import Rows


@dataclass(frozen=True)
class NoCache:
    """Recompute every row in every step: exact, and the slowest."""

    @property
    def pure(self) -> bool:
        """The step alone decides."""
        return True

    def rows(self, context: StepContext) -> Rows:
        """All rows."""
        return context.all_rows()


@dataclass(frozen=True)
class PrefixCache:
    """Keep the K/V left of the block; recompute the block and everything right of it."""

    refresh_every: int = 0
    """Steps between refreshes within a block; 0 refreshes at the block's start only."""

    def __post_init__(self) -> None:
        """Refuse a negative interval."""
        check_fields(self)
        _check_interval(self.refresh_every)

    @property
    def pure(self) -> bool:
        """The step alone decides."""
        return True

    def rows(self, context: StepContext) -> Rows:
        """All rows that may have changed when a refresh is due, else those from the block on."""
        due, others = context.split(lambda place: _refresh_due(place, self.refresh_every))
        return due.changed_rows().beside(others.rows_from_block())


@dataclass(frozen=True)
class DualCache:
    """Keep the K/V on both sides of the block; recompute the block alone."""

    refresh_every: int = 0
    """Steps between refreshes within a block; 0 refreshes at the block's start only."""

    def __post_init__(self) -> None:
        """Refuse a negative interval."""
        check_fields(self)
        _check_interval(self.refresh_every)

    @property
    def pure(self) -> bool:
        """The step alone decides."""
        return True

    def rows(self, context: StepContext) -> Rows:
        """All rows that may have changed when a refresh is due, else the block's rows."""
        due, others = context.split(lambda place: _refresh_due(place, self.refresh_every))
        return due.changed_rows().beside(others.block_rows())


def _refresh_due(at: RequestStep, every: int) -> bool:
    return at.step == 0 or (every > 0 and at.step % every == 0)


def _check_interval(every: int) -> None:
    if every < 0:
        raise ConfigError(f"refresh_every is {every}, must be 0 (block starts only) or more")
