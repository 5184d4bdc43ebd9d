"""Requests of which others compute everything in a forward, for those who look into its midst.

A request follows another one if both compute the same in a step (``common.py``). Its rows do not
go through the layers then. Who keeps something of it, or looks at it, gets what its leader computed
as rows of its own.

Shape letters: N packed rows, M rows that somebody asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from skipstone.rows import Rows, to_device

Leaders = Mapping[int, int]
"""By slot: the slot whose rows are computed for it; its own where it leads."""


class Followers:
    """The followers of one forward."""

    def __init__(self, rows: Rows, leaders: Leaders) -> None:
        """Take who follows whom.

        Args:
            rows: of all, those that follow among them.
            leaders: who computes for whom; a slot that is missing computes its own.
        """
        self._rows, self._leaders = rows, leaders

    def leader(self, slot: int) -> int:
        """The slot whose rows are computed for the request in a slot."""
        return self._leaders.get(slot, slot)

    def picked(self, computed: Rows, x_NX: Tensor, slots: Sequence[int]) -> tuple[Rows, Tensor]:
        """The rows of some requests, with what was computed of them: [M, X]."""
        rows = computed.only(slots)
        following = tuple(slot for slot in slots if self.leader(slot) != slot)
        if following:
            rows = rows.beside(self._rows.only(following))
        if rows is computed:
            return rows, x_NX
        return rows, x_NX[to_device(computed_at(rows, computed, self._leaders), x_NX.device)]


def computed_at(wanted: Rows, computed: Rows, leaders: Leaders) -> np.ndarray:
    """Which of the computed rows each of those wanted is: int64 [M].

    Args:
        wanted: all rows of some requests.
        computed: all rows of those that lead them.
        leaders: who computes for whom.
    """
    ends = dict(zip(computed.requests, computed.ends.tolist(), strict=True))
    each = [np.empty(0, np.int64)]
    for slot, count in zip(wanted.requests, wanted.counts, strict=True):
        end = ends[leaders.get(slot, slot)]
        each.append(np.arange(end - count, end))
    return np.concatenate(each)


def following(rows: Rows, leaders: Leaders) -> Rows:
    """The rows of those that follow."""
    return rows.only([slot for slot in rows.requests if leaders.get(slot, slot) != slot])
