"""What an engine has to do at present, for who admits requests and for who looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from skipstone.engine.arena import Arena
from skipstone.engine.request import Request
from skipstone.memory.ranges import rounded


class EngineLoad(NamedTuple):
    """What an engine has to do. Other threads may have changed it by the time it is read."""

    waiting: int
    """Requests that wait for a slot or for room."""
    running: int
    """Requests that are being decoded."""
    slots: int
    """Requests that may be decoded at once, where they were submitted one by one."""
    positions: int
    """Of keys and values: what the requests that are being decoded take."""
    most_positions: int
    """For how many there may be room in all. A request takes its prompt and its ``gen_length``,
    rounded up to a multiple of 16, and waits while it does not fit. What cache policies keep beside
    keys and values counts, as far as requests so far had such."""
    position_bytes: int
    """Of the keys and values of one position."""
    waiting_positions: int
    """Of keys and values: what the requests that wait will take."""
    alive: bool
    """Whether what is submitted is decoded; no, if the thread that decoded has died."""

    @classmethod
    def of(
        cls,
        waiting: Sequence[Request],
        running: Sequence[Request],
        slots: int,
        arena: Arena,
        alive: bool,
    ) -> EngineLoad:
        """Count.

        Args:
            waiting: for a slot.
            running: in a slot.
            slots: that there are.
            arena: where keys and values lie.
            alive: whether they are decoded.
        """
        return cls(
            waiting=len(waiting),
            running=len(running),
            slots=slots,
            positions=sum(rounded(request.length) for request in running),
            most_positions=arena.cells(),
            position_bytes=arena.cell_bytes,
            waiting_positions=sum(rounded(request.length) for request in waiting),
            alive=alive,
        )
