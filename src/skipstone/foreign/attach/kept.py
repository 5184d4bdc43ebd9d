"""Tensors of one sample of a call, which may still be on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from skipstone.foreign.attach.offset import ScoreOffset
from skipstone.foreign.attach.snapshot import Values
from skipstone.record import Tap, TensorKey
from skipstone.record.sketch import pack, sketch

Rowed = dict[TensorKey, tuple[np.ndarray, np.ndarray]]
"""Positions and values by tensor."""


class KeptPart(Protocol):
    """A part of what a call leaves."""

    @property
    def key(self) -> TensorKey:
        """What it is of."""
        ...

    def rowed(self, found: Rowed) -> Rowed:
        """Its tensors; waits for them.

        Args:
            found: those of the parts before it.
        """
        ...


@dataclass(frozen=True, eq=False)
class KeptTensor:
    """A part of a copy, and what it is of."""

    key: TensorKey
    positions: np.ndarray
    copy: Values
    at: tuple[int, ...]
    """Where the sample, and the layer, are in the copy."""

    def rowed(self, found: Rowed) -> Rowed:
        """Positions and values; waits for them."""
        values = self.copy.array()[self.at]
        if self.key.tap is Tap.SKETCH:
            values = pack(sketch(values))
        return {self.key: (self.positions, values)}


@dataclass(frozen=True, eq=False)
class KeptScores:
    """Logits of some rows, which stand at the positions that they score."""

    key: TensorKey
    rows: np.ndarray
    """Positions of the rows."""
    length: int
    """Of the canvas."""
    copy: Values
    offset: ScoreOffset
    """Says which positions these are, once enough was committed."""

    def rowed(self, found: Rowed) -> Rowed:
        """Positions and values; waits for them."""
        values, reach = self.copy.array(), self.offset.reach
        if reach.score_offset == 0:
            return {self.key: (self.rows, values)}
        row, position = reach.scored_by(np.zeros_like(self.rows), self.rows)
        inside = position < self.length
        return {self.key: (position[inside], values[row[inside]])}


Kept = list[KeptPart]
"""Of one sample, in order."""


def rowed(kept: Sequence[KeptPart]) -> Rowed:
    """Positions and values by tensor; waits for them."""
    found = Rowed()
    for part in kept:
        found |= part.rowed(found)
    return found
