"""Whether a foreign cache keeps its keys before or after their rotation.

Shape letters: L canvas length, M masks, W width of a row.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from skipstone.foreign.attach.kept import Rowed
from skipstone.record import Tap, TensorKey

KeyForm = Literal["rotated", "unrotated", "unknown"]

# Rows of one product may differ in their last bits; a rotation by one position moves far more.
_SAME = 1e-2
# A faulty cache may hold a few rows at the wrong places.
_MOST = 0.8


def kind_of_keys(tensors: Rowed, forward: int, masked_L: np.ndarray) -> KeyForm:
    """Look at the masks: in the first layer they are the same but for their positions.

    Where their values do not depend on the position, keys that do are rotated. Where only what is
    called the values depends on it, the two were swapped, and what is called the values is rotated.

    Args:
        tensors: of a call over the whole canvas; ``unknown`` if its keys are not among them.
        forward: of that call.
        masked_L: bool: where the canvas has masks.
    """
    values = _same(tensors, TensorKey(forward, Tap.VALUE, 1), masked_L)
    keys = _same(tensors, TensorKey(forward, Tap.KEY, 1), masked_L)
    if values is None or keys is None or not (values or keys):
        return "unknown"
    return "unrotated" if values and keys else "rotated"


def _same(tensors: Rowed, key: TensorKey, masked_L: np.ndarray) -> bool | None:
    """Whether the rows of masks are the same, but for a few; None if it cannot be known."""
    if key not in tensors or np.count_nonzero(masked_L) < 2:
        return None
    positions, rows = tensors[key]
    if positions.size != masked_L.size:
        return None
    masks_MW = rows[masked_L[positions]].astype(np.float64)
    middle_W = np.median(masks_MW, axis=0)
    apart_M = np.abs(masks_MW - middle_W).max(axis=1) / np.abs(middle_W).max(initial=1e-30)
    return bool((apart_M <= _SAME).mean() >= _MOST)
