"""Vicinity refresh (dInfer, inclusionAI/dInfer, commit fce4e32): the block and its neighbours.

``VicinityCacheDiffusionLLM`` in ``python/dinfer/decoding/generate_uniform.py``. The first forwards
of a request are whole; the one after them fills the cache, and so does the first step of each block
from then on. In all other steps the block is computed with so many positions on either side of it.

The published code does not write these into its cache; since the next step computes them again,
and the next block begins with a refresh, nothing is otherwise here. It takes another forward after
each refresh even where that has filled the block; here no forward is taken in vain. What else it
does, and nothing shows that it is meant to, is the setting ``published``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipstone.cache.base import CachePolicy, CacheSession, StepTaken
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob

if TYPE_CHECKING:
    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.rows import Rows

_USUAL_INTERVAL = 4
"""Of refreshes, where somebody asks for more of them than one for each block."""


@dataclass(frozen=True)
class VicinityCache(CachePolicy):
    """Recompute the block and its neighbours; all rows while it warms up, and at block starts."""

    before: int = 16
    """Positions left of the block that are recomputed with it, 0 or more."""
    after: int = 16
    """Positions right of the block that are recomputed with it, 0 or more."""
    warmup: int = 4
    """Whole forwards of a request before the one that fills the cache, 0 or more."""
    refresh_every: int = 0
    """Forwards of a request, of all its blocks, between refreshes; 0: at block starts only."""
    published: bool = False
    """Also as published: no refresh by the clock in the first block, nor right after another one; a
    later block in which the cache is first filled is refreshed once more, two steps on; and the
    clock counts forwards that the published code takes in vain."""

    knob = Knob("refresh_every", (4, 8))

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        check_fields(self)
        for name in ("before", "after", "warmup", "refresh_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"vicinity {name} is {getattr(self, name)}, must be 0 or more")

    @property
    def pure(self) -> bool:
        """The step alone decides, but as published."""
        return not self.published

    def start(self, geometry: Geometry) -> CacheSession:
        """Nothing is remembered, but as published."""
        return _Published(self) if self.published else self

    def most_rows(self, block_rows: int, length: int) -> int:
        """The block's, and those near."""
        return min(length, self.before + block_rows + self.after)

    def rows(self, context: StepContext) -> Rows:
        """All rows that may have changed when a refresh is due, else the block's and those near."""
        return self.rows_where(self._is_due, context)

    def rows_where(self, is_due: Callable[[RequestStep], bool], context: StepContext) -> Rows:
        """The same, where somebody else says when it is due."""
        due, others = context.split(is_due)
        return due.changed_rows().beside(others.rows_near_block(self.before, self.after))

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """A warm-up that took all of the request, and an interval that it was too short for."""
        if steps and all(step.refresh for step in steps):
            return (
                f"cache=vicinity kept nothing: with warmup={self.warmup}, all of the {len(steps)} "
                f"forwards were whole",
            )
        every, cached = self.refresh_every, steps[self.warmup + 1 :]
        if every and not any(step.refresh and step.step for step in cached):
            return (f"refresh_every={every} never came due within a block",)
        return ()

    def fresher(self) -> CachePolicy | None:
        """Twice as many refreshes; one every fourth forward where there are none but the first."""
        more = self.refresh_every // 2 if self.refresh_every else _USUAL_INTERVAL
        return replace(self, refresh_every=more, published=False) if more else None

    def _is_due(self, at: RequestStep) -> bool:
        every = self.refresh_every
        by_clock = every > 0 and at.forward % every == 0
        return by_clock or at.step == 0 or at.forward <= self.warmup


class _Published(CacheSession):
    """Refreshes as the published code does, whose count of forwards is not that of a request."""

    def __init__(self, policy: VicinityCache) -> None:
        self._policy = policy
        self._refreshed = dict[int, int]()
        """The last forward of each request that filled the cache."""
        self._in_vain = dict[int, int]()
        """Forwards that the published code has taken after a refresh that filled the block."""

    def rows(self, context: StepContext) -> Rows:
        """As the policy, at other times."""
        return self._policy.rows_where(self._is_due, context)

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Count what is taken in vain, and note refreshes."""
        for at in context.requests:
            if at.step == 0 and self._follows_refresh(at):
                self._in_vain[at.slot] = self._in_vain.get(at.slot, 0) + 1
            if at.slot in rows.refreshed and at.forward >= self._policy.warmup:
                self._refreshed[at.slot] = at.forward

    def forget(self, request: int) -> None:
        """Another request takes the slot."""
        self._refreshed.pop(request, None)
        self._in_vain.pop(request, None)

    def _is_due(self, at: RequestStep) -> bool:
        since, every = at.forward - self._policy.warmup, self._policy.refresh_every
        if at.step == 0 or since <= 0:
            return True
        if at.block.index == 0 or self._follows_refresh(at):
            return False
        if since == 2 and at.step >= since:
            return True
        return every > 0 and (at.forward + self._in_vain.get(at.slot, 0)) % every == 0

    def _follows_refresh(self, at: RequestStep) -> bool:
        return self._refreshed.get(at.slot) == at.forward - 1
