"""Which cells hold keys and values that another request can take over.

Where attention is causal over blocks, the keys and values of a block follow from the tokens up to
its end and from nothing else. So a request whose prompt begins with the blocks of another one has
the same keys and values there. What a request leaves in its cells is remembered here until somebody
writes over it. Plain numbers: who copies, and where requests lie, is the store's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skipstone.memory.ranges import Range, rounded
from skipstone.reach import Reach


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens from position 0 on, in whole blocks, and how rows see."""

    ids: np.ndarray
    """int64"""
    reach: Reach

    @classmethod
    def of(cls, ids: Sequence[int] | np.ndarray, reach: Reach) -> Prefix:
        """The whole blocks at the beginning of ``ids``; none under full attention."""
        return cls(np.array(ids[: reach.whole(len(ids))], np.int64), reach)

    def first(self, count: int) -> Prefix:
        """The whole blocks of its first ``count`` positions."""
        return Prefix.of(self.ids[:count], self.reach)

    def shared_with(self, other: Prefix) -> int:
        """Leading positions at which both have the same keys and values."""
        if self.reach != other.reach:
            return 0
        both = min(self.ids.size, other.ids.size)
        differ = self.ids[:both] != other.ids[:both]
        return self.reach.whole(int(differ.argmax()) if differ.any() else both)


class HeldPrefix(NamedTuple):
    """Cells from ``base`` on that hold the keys and values of a prefix."""

    base: int
    prefix: Prefix
    used: int
    """When it was written or last taken over; it counts up."""

    @property
    def stop(self) -> int:
        """One past the last of these cells."""
        return self.base + self.prefix.ids.size


class Shared(NamedTuple):
    """The first ``count`` positions of a request have their keys and values from ``base`` on."""

    base: int
    count: int


NOTHING = Shared(0, 0)
MOST_HELD = 128
"""Prefixes at most, so that whoever comes looks through them in less than a millisecond."""


class Prefixes:
    """What cells hold, of requests that are being decoded and of those that have left."""

    def __init__(self) -> None:
        """Nothing is held yet."""
        self._held = dict[int, HeldPrefix]()
        """By base; no two of them overlap. Whatever was used last comes last."""
        self._clock = 0

    def hold(self, base: int, prefix: Prefix) -> None:
        """The cells from ``base`` on hold this now, and it was used now."""
        self._clock += 1
        self.forget(base)
        if prefix.ids.size:
            self._held[base] = HeldPrefix(base, prefix, self._clock)
        if len(self._held) > MOST_HELD:
            self.forget(next(iter(self._held)))

    def forget(self, base: int) -> None:
        """What begins at ``base`` cannot be trusted."""
        self._held.pop(base, None)

    def longest(self, prefix: Prefix) -> Shared:
        """The most that is held of the beginning of ``prefix``; of equals the one used last."""
        best, used = NOTHING, 0
        for held in self._held.values():
            count = held.prefix.shared_with(prefix)
            if count and (count, held.used) > (best.count, used):
                best, used = Shared(held.base, count), held.used
        return best

    def touch(self, base: int) -> None:
        """What begins at ``base`` is taken over now."""
        self.hold(base, self._held[base].prefix)

    def overwrite(self, cells: Range) -> None:
        """Somebody else has these cells now: what is held there ends before them."""
        for held in list(self._held.values()):
            if held.base >= cells.stop or held.stop <= cells.start:
                continue
            left = held.prefix.first(max(0, cells.start - held.base))
            if left.ids.size:
                self._held[held.base] = held._replace(prefix=left)
            else:
                self.forget(held.base)

    def place(self, gaps: Sequence[Range], length: int, source: int) -> int:
        """Where a request writes over nothing, or else over what was used longest ago.

        Args:
            gaps: cells that nobody has, ascending; each is long enough, and there is one.
            length: cells that it takes.
            source: where it takes over from; rather than beside that, it lies there.

        Returns:
            Its first cell; of equals the lowest.
        """
        start_S = self._starts(gaps, length)
        last_S = self._last_used(start_S, length)
        return int(start_S[np.lexsort((start_S, start_S != source, last_S))[0]])

    def fill(self, gaps: Sequence[Range], length: int) -> bool:
        """Whether something is written over wherever in these gaps a request goes."""
        return bool(self._last_used(self._starts(gaps, length), length).all())

    def _starts(self, gaps: Sequence[Range], length: int) -> np.ndarray:
        """Where a request may begin: in a gap, or where anything that is held does, or ends."""
        edges = {edge for held in self._held.values() for edge in (held.base, rounded(held.stop))}
        starts = (
            start
            for gap in gaps
            for start in sorted({gap.start, *edges})
            if gap.start <= start and start + length <= gap.stop
        )
        return np.fromiter(starts, np.int64)

    def _last_used(self, start_S: np.ndarray, length: int) -> np.ndarray:
        """When anything was used last that is held where a request begins; 0: nothing is."""
        held = [(held.base, held.stop, held.used) for held in self._held.values()]
        base_H, stop_H, used_H = np.array(held, np.int64).reshape(-1, 3).T
        over_SH = (base_H < start_S[:, None] + length) & (start_S[:, None] < stop_H)
        return (over_SH * used_H).max(1, initial=0)
