"""Whether a foreign cache keeps its keys before or after their rotation.

Shape letters: L canvas length, M masks, W width of a row.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from skipstone.foreign.attach.forward import Rowed
from skipstone.record import Tap, TensorKey

Keys = Literal["rotated", "unrotated", "unknown"]

# Rows of one product may differ in their last bits; a rotation by one position moves far more.
_SAME = 1e-2


def kind_of_keys(tensors: Rowed, forward: int, masked_L: np.ndarray) -> Keys:
    """Look at the masks: in the first layer they are the same but for their positions.

    Where their values do not depend on the position, keys that do are rotated.

    Args:
        tensors: of a call over the whole canvas; ``unknown`` if its keys are not among them.
        forward: of that call.
        masked_L: bool: where the canvas has masks.
    """
    values = _spread(tensors, TensorKey(forward, Tap.VALUE, 1), masked_L)
    keys = _spread(tensors, TensorKey(forward, Tap.KEY, 1), masked_L)
    if values is None or keys is None or values > _SAME:
        return "unknown"
    return "rotated" if keys > _SAME else "unrotated"


def _spread(tensors: Rowed, key: TensorKey, masked_L: np.ndarray) -> float | None:
    """How far the rows of masks lie apart, relative to their size; None if it cannot be known."""
    if key not in tensors or np.count_nonzero(masked_L) < 2:
        return None
    positions, rows = tensors[key]
    if positions.size != masked_L.size:
        return None
    masks_MW = rows[masked_L[positions]].astype(np.float64)
    return float(np.ptp(masks_MW, axis=0).max() / np.abs(masks_MW).max(initial=1e-30))
