"""Ranges of cells: which are taken, and where there is room.

Pure Python on plain numbers. A range has no gaps, so that whatever reads it needs to know nothing
but where it begins; who has taken it remembers that.
"""

from __future__ import annotations

from bisect import insort
from itertools import pairwise
from typing import NamedTuple

# Ranges begin and end at multiples: what comes and goes leaves fewer gaps that nothing fits.
GRAIN = 16


class Range(NamedTuple):
    """Cells from ``start`` up to ``stop``."""

    start: int
    stop: int


def rounded(length: int) -> int:
    """Cells that a range of ``length`` takes."""
    return -(-length // GRAIN) * GRAIN


class Ranges:
    """Cells of which ranges are taken: the first gap that is long enough."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` cells, all of them free."""
        self.capacity = capacity
        self._taken = list[Range]()
        """Ascending."""

    def take(self, length: int) -> int | None:
        """Take a range of at least so many cells.

        Returns:
            Its first cell; None if no gap is long enough now.
        """
        length = rounded(length)
        edges = [Range(0, 0), *self._taken, Range(self.capacity, self.capacity)]
        for left, right in pairwise(edges):
            if right.start - left.stop >= length:
                insort(self._taken, Range(left.stop, left.stop + length))
                return left.stop
        return None

    def release(self, start: int) -> None:
        """Give the range back that begins in a cell."""
        self._taken = [taken for taken in self._taken if taken.start != start]

    @property
    def end(self) -> int:
        """One past the last cell that is taken."""
        return self._taken[-1].stop if self._taken else 0
