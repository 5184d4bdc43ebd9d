"""Tensors of one sample of a call, which may still be on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipstone.foreign.attach.snapshot import Copy
from skipstone.record import Tap, TensorKey
from skipstone.record.sketch import pack, sketch

Rowed = dict[TensorKey, tuple[np.ndarray, np.ndarray]]
"""Positions and values by tensor."""


@dataclass(frozen=True, eq=False)
class KeptTensor:
    """A part of a copy, and what it is of."""

    key: TensorKey
    positions: np.ndarray
    copy: Copy
    at: tuple[int, ...]
    """Where the sample, and the layer, lie in the copy."""

    def values(self) -> np.ndarray:
        """Values by position; waits for them."""
        values = self.copy.array()[self.at]
        return pack(sketch(values)) if self.key.tap is Tap.SKETCH else values


Kept = list[KeptTensor]
"""Of one sample, in order."""


def rowed(kept: Sequence[KeptTensor]) -> Rowed:
    """Positions and values by tensor; waits for them."""
    return {one.key: (one.positions, one.values()) for one in kept}
