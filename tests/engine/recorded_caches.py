"""Caches of published code as policies of a third party: sessions that remember requests.

``Vicinity`` is dInfer's (inclusionAI/dInfer, ``VicinityCacheDiffusionLLM``), ``Delayed`` is
dKV-Cache-Decode (Ma et al., arXiv 2505.15781).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipstone import Threshold
from skipstone.cache import CachePolicy, CacheSession
from skipstone.canvas import Geometry, RequestStep, Status, StepContext
from skipstone.rows import Rows
from skipstone.unmask import Scores


@dataclass(frozen=True)
class Vicinity(CachePolicy):
    """The block and its neighbours; all rows while it warms up, and at the start of a block."""

    before: int = 16
    after: int = 16
    warmup: int = 4
    every: int = 0
    """Forwards, of all blocks, between refreshes after the first block; 0: only at block starts."""

    def start(self, geometry: Geometry) -> CacheSession:
        return _Vicinity(self)


class _Vicinity(CacheSession):
    """Counts the forwards of each request as dInfer does, and knows its last refresh."""

    def __init__(self, policy: Vicinity) -> None:
        self._policy = policy
        self._count = dict[int, int]()
        self._refreshed = dict[int, tuple[int, int]]()
        """Block and step of the last refresh of each request."""
        self._last = dict[int, tuple[int, int]]()
        """Block and step of its last forward."""
        self._block = dict[int, int]()
        """Block that was refreshed for its own sake; the first refresh of all is not."""

    def rows(self, context: StepContext) -> Rows:
        due, others = context.split(lambda at: self._whole(at) or self._is_due(at))
        near = {at.slot: self._near(at, context) for at in others.requests}
        return due.all_rows(refresh=True).beside(others.rows_at(near))

    def taken(self, rows: Rows, context: StepContext) -> None:
        for at in context.requests:
            count, place = self._counted(at), (at.block.index, at.step)
            if not self._whole(at) and self._is_due(at):
                if at.slot in self._refreshed:
                    self._block[at.slot] = at.block.index
                self._refreshed[at.slot] = place
            self._count[at.slot], self._last[at.slot] = count + 1, place

    def forget(self, request: int) -> None:
        for table in (self._count, self._refreshed, self._last, self._block):
            table.pop(request, None)

    def _counted(self, at: RequestStep) -> int:
        """Forwards before this one; dInfer takes another after a refresh that filled its block."""
        count, last = self._count.get(at.slot, 0), self._last.get(at.slot)
        wasted = last is not None and last == self._refreshed.get(at.slot)
        return count + (wasted and at.block.index != last[0])

    def _whole(self, at: RequestStep) -> bool:
        return self._counted(at) < self._policy.warmup

    def _is_due(self, at: RequestStep) -> bool:
        last, every = self._refreshed.get(at.slot), self._policy.every
        if last is None:
            return True
        if last == (at.block.index, at.step - 1) or at.block.index == 0:
            return False
        known = self._block.get(at.slot, 0) == at.block.index
        return not known or (every > 0 and self._counted(at) % every == 0)

    def _near(self, at: RequestStep, context: StepContext) -> np.ndarray:
        stop = min(context.canvas.length_of(at.slot), at.stop + self._policy.after)
        return np.arange(max(0, at.start - self._policy.before), stop)


@dataclass(frozen=True)
class Delayed(CachePolicy):
    """K/V of a token are kept from the forward after the one that committed it."""

    every: int = 8
    """Steps of a block between forwards over all rows."""

    def start(self, geometry: Geometry) -> CacheSession:
        return _Delayed(self)


class _Delayed(CacheSession):
    """Remembers what was still masked before the last step of each request."""

    def __init__(self, policy: Delayed) -> None:
        self._policy = policy
        self._masked = dict[int, np.ndarray]()

    def rows(self, context: StepContext) -> Rows:
        due, others = context.split(lambda at: at.step < 2 or at.step % self._policy.every == 0)
        left = {at.slot: self._masked[at.slot] for at in others.requests}
        return due.all_rows(refresh=True).beside(others.rows_at(left))

    def taken(self, rows: Rows, context: StepContext) -> None:
        for at in context.requests:
            masked = np.flatnonzero(context.host.status_BG[at.slot] == Status.MASK)
            self._masked[at.slot] = at.prompt_length + masked

    def forget(self, request: int) -> None:
        self._masked.pop(request, None)


@dataclass(frozen=True)
class Slack(Threshold):
    """dInfer's threshold: where nothing reaches it, all within 1e-5 of the best are committed."""

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        confidence_BG = scores.confidence_BG
        bar_B1 = (confidence_BG.amax(1, keepdim=True) - 1e-5).clamp(max=self.value)
        return confidence_BG.isfinite() & (confidence_BG >= bar_B1)
