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
    """Cells of which ranges are taken."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` cells, all of them free."""
        self.capacity = capacity
        self._taken = list[Range]()
        """Ascending."""

    def gaps(self, length: int) -> list[Range]:
        """Where a range of at least so many cells fits, ascending."""
        edges = [Range(0, 0), *self._taken, Range(self.capacity, self.capacity)]
        gaps = (Range(left.stop, right.start) for left, right in pairwise(edges))
        return [gap for gap in gaps if gap.stop - gap.start >= rounded(length)]

    def take(self, start: int, length: int) -> Range:
        """Take a range of at least so many cells that begins in a gap, and ends in it."""
        taken = Range(start, start + rounded(length))
        insort(self._taken, taken)
        return taken

    def release(self, start: int) -> None:
        """Give the range back that begins in a cell."""
        self._taken = [taken for taken in self._taken if taken.start != start]

    @property
    def end(self) -> int:
        """One past the last cell that is taken."""
        return self._taken[-1].stop if self._taken else 0
