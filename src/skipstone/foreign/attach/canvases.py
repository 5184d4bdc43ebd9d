"""The canvas of a foreign loop between two calls.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def newest(
    known_BL: np.ndarray, held: Tensor | None, seen: Iterable[Tensor], mask_id: int
) -> np.ndarray | None:
    """The newest canvas [B, L] that the loop made since a call; None if none was seen.

    It goes on from the canvas of that call: what was no mask there is the same here.

    Args:
        known_BL: int64, the canvas of the call.
        held: the tensor that held it then; the loop may have written into it.
        seen: tensors of its shape that were made or written since, the newest first.
        mask_id: the mask's id.
    """
    fixed_BL = known_BL != mask_id
    for canvas in seen:
        ids_BL = on_host(canvas)
        if np.array_equal(ids_BL[fixed_BL], known_BL[fixed_BL]):
            return ids_BL
    held_BL = known_BL if held is None else on_host(held)
    complete = not (held_BL == mask_id).any()
    return held_BL if complete or not np.array_equal(held_BL, known_BL) else None


def first_mask(canvas_BL: np.ndarray, mask_id: int) -> int:
    """Where new tokens begin: the first position at which a prompt has a mask."""
    masked_BL = canvas_BL == mask_id
    return int(np.where(masked_BL.any(1), masked_BL.argmax(1), canvas_BL.shape[1]).min())


def on_host(ids: Tensor) -> np.ndarray:
    """A copy, int64."""
    return ids.detach().to("cpu", torch.int64, copy=True).numpy()
