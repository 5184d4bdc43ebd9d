"""Ranges of cells: who has which, and where there is room.

Pure Python on plain numbers. Each holder has one range without gaps, so that whatever reads it
needs to know nothing but where it begins.
"""

from __future__ import annotations

from bisect import insort
from itertools import pairwise
from typing import NamedTuple

# Ranges begin and end at multiples: what comes and goes leaves fewer gaps that nothing fits.
GRAIN = 16


class Range(NamedTuple):
    """Cells from ``start`` up to ``stop``, and whose they are."""

    start: int
    stop: int
    holder: int


def rounded(length: int) -> int:
    """Cells that a range of ``length`` takes."""
    return -(-length // GRAIN) * GRAIN


class Ranges:
    """Cells, of which each holder has one range. The first gap that is long enough is taken."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` cells, all of them free."""
        self.capacity = capacity
        self._taken = list[Range]()
        """Ascending."""

    def take(self, holder: int, length: int) -> int | None:
        """Give a range to a holder that has none.

        Returns:
            Its first cell; None if no gap is long enough now.
        """
        assert all(taken.holder != holder for taken in self._taken), f"{holder} has a range"
        length = rounded(length)
        edges = [Range(0, 0, -1), *self._taken, Range(self.capacity, self.capacity, -1)]
        for left, right in pairwise(edges):
            if right.start - left.stop >= length:
                insort(self._taken, Range(left.stop, left.stop + length, holder))
                return left.stop
        return None

    def release(self, holder: int) -> None:
        """Take the range of a holder back, if it has one."""
        self._taken = [taken for taken in self._taken if taken.holder != holder]

    def start(self, holder: int) -> int:
        """The first cell of a holder that has a range."""
        return next(taken.start for taken in self._taken if taken.holder == holder)

    @property
    def end(self) -> int:
        """One past the last cell that is taken."""
        return self._taken[-1].stop if self._taken else 0
