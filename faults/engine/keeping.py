"""Faults in what layers keep of rows for steps that leave them out.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.memory.kept import KeptStates
from skipstone.rows import Rows, to_device


def kept_of_other_rows() -> Fault:
    """What was kept of the row before is taken."""
    take = KeptStates.take

    def wrong(self: KeptStates, layer: int, rows: Rows) -> Tensor:
        return take(self, layer, rows).roll(1, 0)

    return lambda: instead(KeptStates, "take", wrong)


def kept_once() -> Fault:
    """What is kept of a row is not written again when the row is computed again."""
    keep = KeptStates.keep

    def wrong(self: KeptStates, layer: int, rows: Rows, x_ND: Tensor) -> None:
        new: np.ndarray = self.lacking(layer, rows)
        keep(self, layer, rows.take(new), x_ND[to_device(new, rows.device)])

    return lambda: instead(KeptStates, "keep", wrong)


def never_kept() -> Fault:
    """What is taken was never written: zeros."""
    take = KeptStates.take

    def wrong(self: KeptStates, layer: int, rows: Rows) -> Tensor:
        return take(self, layer, rows).zero_()

    return lambda: instead(KeptStates, "take", wrong)
