"""How far a request has come: forwards that count, and blocks that were to be done and are not."""

from __future__ import annotations

import numpy as np

from skipstone import Settings
from skipstone.canvas import HostCanvas, Status
from skipstone.engine.progress import RequestState
from skipstone.engine.request import Request

MASK = 9


def state_of() -> RequestState:
    """A request of eight masks in blocks of four, two steps each."""
    settings = Settings(gen_length=8, block_length=4, steps=4, unmask="fixed", eos_stop=False)
    request = Request((1, 2), (MASK,) * 8, MASK, settings)
    return RequestState(request, slot=0, base=0)


def host_of(masks: int) -> HostCanvas:
    """All is decoded but some masks at the start."""
    status_G = np.full(8, int(Status.COMMITTED))
    status_G[:masks] = int(Status.MASK)
    return HostCanvas(np.full((1, 8), MASK), status_G[None])


def test_a_step_that_was_dropped_is_no_forward_of_the_request() -> None:
    state, host = state_of(), host_of(8)
    for forward in (0, 1):
        at = state.next_step(host)
        assert at is not None
        assert at.forward == forward
        state.launched(at)
    dropped = state.at(state.request.blocks[1], 0)
    state.launched(dropped)
    assert state.forward == 3
    state.dropped(dropped)
    assert state.forward == 2


def test_a_block_that_was_to_be_done_and_is_not_has_used_its_steps() -> None:
    state = state_of()
    for _ in range(2):
        at = state.next_step(host_of(8))
        assert at is not None
        state.launched(at)
    # By the schedule the block is done, before anybody has seen it.
    assert (state.block, state.step) == (1, 0)
    state.resume(host_of(1))
    again = state.next_step(host_of(1))
    assert again is not None
    # All that is left goes now: what the schedule gave it is spent.
    assert (again.block.index, again.step, again.steps_left) == (0, 2, 1)
