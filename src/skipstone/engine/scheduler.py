"""Who takes part in the next step: a budget of rows, shared out in the order of arrival.

All who take part in a step wait until all of it is computed, and a refresh takes as long as dozens
of cached steps. So a step computes so many rows at most: those of a refresh or two beside cached
steps; with more, no row is cheaper. Whoever came first goes first, so that a request that is nearly
done does not share its turns with all that came after it: the slowest of many are done sooner. But
nobody is passed over for long; after some steps it is the next one.

One that alone asks for more than the budget saves up what others leave of it, and at least a share;
it goes when it has saved enough. So a long prompt holds the others up only now and then.

Knows nothing of tensors, models or texts: slots, numbers of rows, and turns.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS_OF_A_STEP = 896
"""Where rows have become as cheap as they get: docs/decisions/0011-scheduler.md has the figures."""
# Whoever was passed over in so many steps comes before those that arrived earlier.
_PATIENCE = 8
# What is saved up in a step is at least this part of the budget, however little is left of it.
_LEAST_SHARE = 4


class Scheduler:
    """Shares out the rows of steps among requests."""

    def __init__(self, budget: int = ROWS_OF_A_STEP) -> None:
        """Share out ``budget`` rows in each step."""
        self.budget = budget
        self._waited = dict[int, int]()
        """In the order of arrival: steps that each slot was passed over since it took part."""
        self._saved = 0
        self._saver: int | None = None
        """The slot that saves up for its next step."""

    def admit(self, slot: int) -> None:
        """A request has arrived in a slot."""
        self.release(slot)
        self._waited[slot] = 0

    def release(self, slot: int) -> None:
        """The request in a slot has left."""
        self._waited.pop(slot, None)
        if self._saver == slot:
            self._saver, self._saved = None, 0

    def choose(self, wanted: Mapping[int, int]) -> tuple[int, ...]:
        """The slots that take part in this step, ascending; at least one of those that want to.

        Args:
            wanted: rows of each slot that could take part, at least one slot; all were admitted.
        """
        turns = sorted((slot for slot in self._waited if slot in wanted), key=self._turn)
        left, chosen = self.budget, list[int]()
        saver = self._who_saves(wanted, turns)
        if saver is not None and wanted[saver] <= self._saved + self.budget:
            chosen.append(saver)
            left = max(0, left - wanted[saver])
            self._saver, self._saved = None, 0
            saver = None
        for slot in turns:
            if slot not in chosen and wanted[slot] <= left:
                chosen.append(slot)
                left -= wanted[slot]
        if saver is not None:
            self._saved += max(left, self.budget // _LEAST_SHARE)
        if not chosen and saver is not None:
            # Nobody else wants anything: there is nothing to wait for.
            chosen.append(saver)
            self._saver, self._saved = None, 0
        for slot in turns:
            self._waited[slot] = 0 if slot in chosen else self._waited[slot] + 1
        return tuple(sorted(chosen))

    def _turn(self, slot: int) -> int:
        """Whoever was passed over for too long comes first; the others as they arrived."""
        waited = self._waited[slot]
        return -waited if waited >= _PATIENCE else 0

    def _who_saves(self, wanted: Mapping[int, int], turns: list[int]) -> int | None:
        """The slot that saves: whoever has, or the one of too many rows that has waited longest."""
        if self._saver is not None and wanted.get(self._saver, 0) <= self.budget:
            # It asks for nothing any more, or for little.
            self._saver, self._saved = None, 0
        if self._saver is None:
            dear = [slot for slot in turns if wanted[slot] > self.budget]
            self._saver = max(dear, key=self._waited.__getitem__, default=None)
        return self._saver
