"""A cache that computes everything once, as ES-dLLM does (arXiv 2603.10088).

``batch_generate`` in github.com/zhuzj19/ES-dLLM (commit 3c5151d). What lies right of the block is
computed in a request's first step and never again before its turn. What was committed last in a
block is computed once more with the first step of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from skipstone.cache.base import CachePolicy, StepTaken
from skipstone.cache.policies import DualCache
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob

if TYPE_CHECKING:
    from skipstone.canvas import RequestStep, StepContext
    from skipstone.rows import Rows


@dataclass(frozen=True)
class OnceCache(CachePolicy):
    """Compute all rows in a request's first step, and then the block alone, without refresh.

    The first step of a later block begins with the leftmost token that was committed last. When the
    clock says so, everything left of the block's end is computed again. The clock counts the
    offsets left of the block and the steps within it: a block that is done early does not slow it.
    Where a request does not see all of itself, a block begins with all that it sees.
    """

    refresh_every: int = 64
    """On the clock, between refreshes of all that is left of the block's end; 0 has none."""

    knob = Knob("refresh_every", (16, 32))

    def __post_init__(self) -> None:
        """Refuse a negative interval."""
        check_fields(self)
        if self.refresh_every < 0:
            raise ConfigError(f"refresh_every is {self.refresh_every}, must be 0 (never) or more")

    def rows(self, context: StepContext) -> Rows:
        """All rows at first, then those of the block, and what the clock or the last step adds."""
        # What comes into sight with a block has no K/V yet.
        first, later = context.split(lambda at: at.sees_more)
        due, others = later.split(self._is_due)
        opening, within = others.split(lambda at: at.step == 0)
        parts = [first.changed_rows(), within.block_rows()]
        parts += [_from(due, [0] * len(due.requests), refresh=True)] if due.requests else []
        parts += [_from(opening, _leftmost(opening))] if opening.requests else []
        joined, *rest = parts
        for part in rest:
            joined = joined.beside(part)
        return joined

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """A clock that never came due."""
        every = self.refresh_every
        if not every or any(step.refresh for step in steps[1:]):
            return ()
        return (f"refresh_every={every} never came due: the answer was decoded before",)

    def fresher(self) -> CachePolicy | None:
        """Twice as many refreshes; the dual cache where there are none."""
        more = self.refresh_every // 2
        return replace(self, refresh_every=more) if more else DualCache()

    def _is_due(self, at: RequestStep) -> bool:
        return self.refresh_every > 0 and at.clock % self.refresh_every == 0


def _leftmost(context: StepContext) -> list[int]:
    """The leftmost position that each request committed in its last step; the block's if none."""
    committed_BL = context.committed_BL.cpu().numpy()
    found = [np.flatnonzero(committed_BL[at.slot]) for at in context.requests]
    return [
        int(at[0]) if at.size else one.start
        for at, one in zip(found, context.requests, strict=True)
    ]


def _from(context: StepContext, first: Sequence[int], *, refresh: bool = False) -> Rows:
    """The block's rows and those before it, from a position of each request on."""
    block = context.block_rows()
    positions = dict[int, np.ndarray]()
    for at, start in zip(context.requests, first, strict=True):
        own = block.position[block.request == at.slot]
        positions[at.slot] = np.arange(min(start, own[0]), own[-1] + 1)
    return context.rows_at(positions, refresh=context.active if refresh else ())
