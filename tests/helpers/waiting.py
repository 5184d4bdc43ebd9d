"""Waiting for what is meant, however slow the machine is, and never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from skipstone.engine import Engine


def wait_until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that comes by itself."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@dataclass
class Turns:
    """Those that an engine may take."""

    left: int
    going_on: bool = False

    def wait(self) -> None:
        """Until they are taken."""
        wait_until(lambda: not self.left)


@contextmanager
def standing(engine: Engine, after: int = 0) -> Iterator[Turns]:
    """Within the block an engine takes so many turns; then it takes requests, and decodes nothing.

    It stands between two turns, where a fork, an end of the process or a cancellation finds it as
    it is between any two. What happens meanwhile cannot be too late.
    """
    driver, turns = engine._driver, Turns(after)
    turn = driver._turn

    def counted() -> bool:
        if not (turns.left or turns.going_on):
            time.sleep(0.001)
            return True
        worked = turn()
        turns.left = max(0, turns.left - 1)
        return worked

    setattr(driver, "_turn", counted)  # noqa: B010
    try:
        yield turns
    finally:
        turns.going_on = True
