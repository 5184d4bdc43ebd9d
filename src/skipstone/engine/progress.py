"""How far a request in its slot has come, and where it goes next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from skipstone.blocks import Block
from skipstone.canvas import HostCanvas, RequestStep
from skipstone.engine.request import Handle, Request
from skipstone.engine.result import StepStats
from skipstone.engine.watch import RequestWatch
from skipstone.unmask import REVISING, Need

# Steps of a request that are remembered to judge how much its next one commits.
_REMEMBERED = 8


@dataclass(eq=False)
class RequestState:
    """A request in its slot, and how far it has come."""

    request: Request
    slot: int
    base: int
    """The cell of the K/V store in which its position 0 lies."""
    handle: Handle | None = None
    """Who waits for it."""
    block: int = 0
    """The block of its next step."""
    step: int = 0
    """Which step within the block that is."""
    forward: int = 0
    """Forwards that it has taken part in."""
    sees: int | None = None
    """From which offset on its rows see nothing; None: they see all."""
    reused: int = 0
    """Its first positions, whose K/V were there when it came."""
    stats: list[StepStats] = field(default_factory=list)
    _last: RequestStep | None = None
    """Of the step that was launched last."""
    _changed: bool = False
    """Whether the step that was completed last wrote anything."""
    _paces: deque[int] = field(default_factory=lambda: deque[int](maxlen=_REMEMBERED))

    @property
    def watch(self) -> RequestWatch | None:
        """Its own observer; None: it has none."""
        return None if self.handle is None else self.handle.watch

    def next_step(self, host: HostCanvas) -> RequestStep | None:
        """Where it goes next; None if it is done. Moves it on to its next block.

        Args:
            host: the canvas as the host knows it.
        """
        request = self.request
        while self.block < len(request.blocks):
            block = request.blocks[self.block]
            if self.stays_in(block, host):
                return self.at(block, self.step, self._post_step(block, host))
            self.block, self.step = self.block + 1, 0
        return None

    def stays_in(self, block: Block, host: HostCanvas) -> bool:
        """Whether its next step is in the block that it was in: what is there is not final yet."""
        within = self._is_within(block, self.step)
        return within and bool(host.masks(self.slot, block) or self._may_revise)

    def _is_within(self, block: Block, step: int) -> bool:
        """Whether the budget has this step."""
        request = self.request
        return request.settings.budget == "finish" or step < request.budget(block)

    @property
    def _may_revise(self) -> bool:
        """Whether tokens of a block may still be replaced if no mask is left in it."""
        begun = self.step > 0 and self._last is not None
        return begun and self._changed and not self.last_step().may_end

    def _post_step(self, block: Block, host: HostCanvas) -> int:
        return 0 if host.masks(self.slot, block) else self.last_step().post_step + 1

    def at(self, block: Block, step: int, post_step: int = 0) -> RequestStep:
        """Where it is, in policies' words."""
        request, unmask = self.request, self.request.settings.unmask
        return RequestStep(
            slot=self.slot,
            sample=request.sample,
            prompt_length=len(request.prompt),
            block=block,
            step=step,
            step_budget=request.budget(block),
            forward=self.forward,
            seed=request.settings.seed or 0,
            reach=request.reach,
            block_length=request.settings.whole_block,
            opens_alone=unmask.opens_alone,
            suffix=request.settings.suffix,
            whole_blocks=request.settings.stop_after == "block",
            settled=max(self.reused, request.settled_before(block)),
            base=self.base,
            sees=self.sees,
            revises=bool(unmask.needs & REVISING),
            revokes=Need.UNSEEN in unmask.needs,
            post_step=post_step,
            may_end=post_step >= unmask.post_steps_of_block or not self._is_within(block, step + 1),
        )

    @property
    def settled(self) -> int:
        """K/V left of this position are those of final tokens, and computed."""
        if self._last is None or not self.forward:
            return self.reused
        return max(len(self.request.prompt), self._last.settled)

    @property
    def sight(self) -> int:
        """One past the last position that its steps have seen; before the first step, its end."""
        length, last = self.request.length, self._last
        return length if last is None or last.suffix is None else last.stop + last.suffix

    def last_step(self) -> RequestStep:
        """Where its last step was, for one more at the same place."""
        assert self._last is not None
        return replace(self._last, forward=self.forward)

    def has_masks(self, host: HostCanvas) -> bool:
        """Whether anything of it is not decoded yet."""
        blocks = self.request.blocks
        return host.masks(self.slot, Block(0, 0, blocks[-1].stop)) > 0

    def launched(self, at: RequestStep) -> None:
        """A step of it is on its way."""
        self.block, self.step, self.forward = at.block.index, at.step + 1, at.forward + 1
        self._last = at
        if self._keeps_to_schedule and at.steps_left == 1:
            # Nobody has to see it completed to know that the block is done.
            self.block, self.step = self.block + 1, 0

    def resume(self, host: HostCanvas) -> None:
        """Go back to a block that was to be done by now and is not.

        Args:
            host: the canvas after all of its steps.
        """
        for block in self.request.blocks[: self.block] if self._keeps_to_schedule else ():
            if host.masks(self.slot, block):
                self.block, self.step = block.index, self.request.budget(block)
                return

    @property
    def _keeps_to_schedule(self) -> bool:
        """Whether no mask of a block is left when its steps have been taken."""
        settings = self.request.settings
        return settings.may_overlap and settings.unmask.keeps_to_schedule

    def dropped(self, at: RequestStep) -> None:
        """A step of it found its block decoded already, and changed nothing."""
        self.forward = at.forward

    def completed(self, stats: StepStats) -> None:
        """A step of it is done."""
        self.stats.append(stats)
        self._paces.append(stats.committed)
        self._changed = stats.committed + stats.edited > 0

    def surely_goes_on(self, host: HostCanvas, in_flight: int) -> bool:
        """Whether its next step is known, very likely, before the steps in flight are completed.

        By a schedule, a step commits its share of the masks. Others commit about as many as those
        before them: rarely more than the most that one of them did. A step in vain costs four times
        what waiting does, and more than one in four must not be.

        Args:
            host: the canvas before these steps.
            in_flight: how many they are.
        """
        if self.block >= len(self.request.blocks):
            # All of its steps are on their way.
            return True
        if self.step == 0 and self._may_have_ended(host):
            return False
        block = self.request.blocks[self.block]
        if self._keeps_to_schedule:
            left = self.request.budget(block) - self.step + in_flight
            most = -(-host.masks(self.slot, block) // max(1, left))
        elif self._paces:
            most = max(self._paces)
        else:
            return False
        return host.masks(self.slot, block) > in_flight * most

    def _may_have_ended(self, host: HostCanvas) -> bool:
        """Whether a stop id stands anywhere: what is left of it may be decided by now."""
        request = self.request
        ids_G = host.ids_BG[self.slot, : len(request.region)]
        return bool(request.stop_ids) and bool(np.isin(ids_G, request.stop_ids).any())
