"""Who takes part in the next step: a budget of rows, shared out fairly.

A refresh of a long prompt takes as long as dozens of cached steps, and all who take part in a step
wait for it. So a step computes so many rows at most: first come requests that have waited longest.
One that alone asks for more saves up what others leave of the budget, and at least a share of it;
it goes when it has saved enough. So nobody waits for ever, and a long prompt holds the others up
only now and then.

Knows nothing of tensors, models or texts: slots, numbers of rows, and turns.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS_OF_A_STEP = 2048
"""Above about so many rows a step takes as long as they are many: waiting pays for nobody."""
# What is saved up in a step is at least this part of the budget, however little is left of it.
_LEAST_SHARE = 4


class Scheduler:
    """Shares out the rows of steps among requests."""

    def __init__(self, budget: int = ROWS_OF_A_STEP) -> None:
        """Share out ``budget`` rows in each step."""
        self.budget = budget
        self._waited = dict[int, int]()
        """Steps that each slot was passed over since it last took part."""
        self._taken = dict[int, int]()
        """Steps that each slot took part in."""
        self._saved = 0
        self._saver: int | None = None
        """The slot that saves up for its next step."""

    def choose(self, wanted: Mapping[int, int]) -> tuple[int, ...]:
        """The slots that take part in this step, ascending; at least one of those that want to.

        Args:
            wanted: rows of each slot that could take part, at least one slot.
        """
        self._forget_all_but(wanted)
        left, chosen = self.budget, list[int]()
        saver = self._who_saves(wanted)
        if saver is not None and wanted[saver] <= self._saved + self.budget:
            chosen.append(saver)
            left = max(0, left - wanted[saver])
            self._saver, self._saved = None, 0
            saver = None
        for slot in sorted(wanted, key=self._turn):
            if slot not in chosen and wanted[slot] <= left:
                chosen.append(slot)
                left -= wanted[slot]
        if saver is not None:
            self._saved += max(left, self.budget // _LEAST_SHARE)
        if not chosen and saver is not None:
            # Nobody else wants anything: there is nothing to wait for.
            chosen.append(saver)
            self._saver, self._saved = None, 0
        for slot in wanted:
            self._waited[slot] = 0 if slot in chosen else self._waited.get(slot, 0) + 1
        for slot in chosen:
            self._taken[slot] = self._taken.get(slot, 0) + 1
        return tuple(sorted(chosen))

    def release(self, slot: int) -> None:
        """Another request has the slot from now on."""
        self._waited.pop(slot, None)
        self._taken.pop(slot, None)
        if self._saver == slot:
            self._saver, self._saved = None, 0

    def _turn(self, slot: int) -> tuple[int, int, int]:
        """Whoever has waited longest comes first, and then whoever had the fewest steps."""
        return -self._waited.get(slot, 0), self._taken.get(slot, 0), slot

    def _who_saves(self, wanted: Mapping[int, int]) -> int | None:
        """The slot that saves: whoever has, or the one of too many rows that has waited longest."""
        if self._saver is None:
            dear = [slot for slot, rows in wanted.items() if rows > self.budget]
            self._saver = max(dear, key=lambda s: (self._waited.get(s, 0), -s), default=None)
        return self._saver

    def _forget_all_but(self, wanted: Mapping[int, int]) -> None:
        """A slot that asks for nothing any more, or for little, saves for nothing."""
        if self._saver is not None and wanted.get(self._saver, 0) <= self.budget:
            self._saver, self._saved = None, 0
