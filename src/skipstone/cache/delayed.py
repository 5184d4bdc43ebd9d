"""dKV-Cache (Ma et al., arXiv 2505.15781): keys and values are kept one step after the commit.

dKV-Cache-Decode of github.com/horseee/dKV-Cache (commit 49a76fc). Those of a mask say little of the
token that will stand there, and those of the forward that commits it are the mask's still. So a
token is computed once more in the step after its commit, and kept from then on; masks, those of
later blocks among them, are computed in every step. All rows are computed in the first two steps of
a block, so that the cache of a block is its own, and whenever the interval is over.

Its other variants are not here: dKV-Cache-Greedy, as published, takes a random order alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from skipstone.cache.base import CachePolicy, CacheSession, StepTaken
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.host_canvas import Status
from skipstone.knob import Knob

if TYPE_CHECKING:
    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.rows import Rows


@dataclass(frozen=True)
class DelayedCache(CachePolicy):
    """Recompute masks, and each token once more after its commit; all rows at an interval."""

    refresh_every: int = 8
    """Steps between refreshes within a block, whose first two steps are whole; 2 or more, or 0 for
    no other refresh."""

    knob = Knob("refresh_every", (4, 16))

    def __post_init__(self) -> None:
        """Refuse an interval in which nothing would be kept."""
        check_fields(self)
        if self.refresh_every < 0 or self.refresh_every == 1:
            raise ConfigError(
                f"dkv refresh_every is {self.refresh_every}, must be 2 or more, or 0 for none; "
                f"cache=none computes all rows in every step"
            )

    def start(self, geometry: Geometry) -> CacheSession:
        """What was masked before the last step of each request."""
        return _Masks(self.refresh_every)

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """Blocks that were too short to keep anything, or for the interval."""
        if steps and all(step.refresh for step in steps):
            return ("cache=dkv kept nothing: no block took more than its first two steps",)
        every = self.refresh_every
        if not every or any(step.refresh and step.step >= every for step in steps):
            return ()
        return (f"refresh_every={every} never came due: no block took more than {every} steps",)

    def fresher(self) -> CachePolicy | None:
        """Twice as many refreshes."""
        if self.refresh_every == 0:
            return replace(self, refresh_every=8)
        return (
            replace(self, refresh_every=self.refresh_every // 2) if self.refresh_every > 3 else None
        )


class _Masks(CacheSession):
    """Remembers what was masked before the last step of each request."""

    def __init__(self, refresh_every: int) -> None:
        self._every = refresh_every
        self._masked = dict[int, np.ndarray]()
        """Offsets by slot, ascending."""

    def rows(self, context: StepContext) -> Rows:
        """All rows that may have changed, or what was masked before the last step."""
        due, others = context.split(self._is_due)
        left = {at.slot: to_decode(self._masked[at.slot], at, context) for at in others.requests}
        return due.changed_rows().beside(others.rows_at(left))

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Note what is masked as this step begins."""
        for at in context.requests:
            masked = context.host.status_BG[at.slot] == Status.MASK
            self._masked[at.slot] = np.flatnonzero(masked)

    def forget(self, request: int) -> None:
        """Another request takes the slot."""
        self._masked.pop(request, None)

    def _is_due(self, at: RequestStep) -> bool:
        return at.step < 2 or (self._every > 0 and at.step % self._every == 0)


def to_decode(masked: np.ndarray, at: RequestStep, context: StepContext) -> np.ndarray:
    """Positions that decode what was masked, as far as the block sees: ascending.

    Args:
        masked: offsets, ascending.
        at: the step of their request; where tokens of its block may be replaced, all of it counts.
        context: of the step.
    """
    wanted = at.prompt_length + masked
    if at.revises:
        wanted = np.union1d(wanted, np.arange(at.start, at.stop))
    own = np.union1d(wanted, at.reach.row_of(wanted))
    return own[own < at.reach.end(at.stop - 1, context.length_at(at))]
