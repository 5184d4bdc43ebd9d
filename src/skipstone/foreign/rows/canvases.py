"""The canvas of a foreign loop between two calls: which tensor holds it by now.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.shared.calls import INTEGERS, host_ids
from skipstone.foreign.shared.functions import Operation

# A loop writes its canvas a few times between two calls; the last of these is the newest.
_KEPT = 16


class Canvases:
    """Keeps whole numbers that may be canvases: all that were made or written since a call."""

    def __init__(self) -> None:
        """Keep nothing before a canvas was called with."""
        self._shape: torch.Size | None = None
        self._kept = deque[Tensor](maxlen=_KEPT)

    def expect(self, shape: torch.Size) -> None:
        """From now on keep whole numbers of this shape, and longer ones: canvases may grow."""
        self._shape = shape
        self._kept.clear()

    def newest(self) -> Iterator[Tensor]:
        """Whole numbers [B, L] that were made or written since, the newest first."""
        return reversed(self._kept)

    def heard(self, operation: Operation) -> None:
        """Look at what an operation made, and at what it wrote into."""
        if self._shape is None:
            return
        func, args, _, out = operation
        wrote = func is Tensor.__setitem__ or getattr(func, "__name__", "").endswith("_")
        written = args[0] if wrote and args else out
        if not isinstance(written, Tensor) or written.dtype not in INTEGERS:
            return
        if self._may_be(written):
            self._kept.append(written)
        elif wrote:
            # A write into a view of the canvas writes the canvas.
            base = cast("Tensor | None", written._base)
            if base is not None and self._may_be(base):
                self._kept.append(base)

    def _may_be(self, ids: Tensor) -> bool:
        assert self._shape is not None
        return ids.ndim == 2 and len(ids) == self._shape[0] and ids.shape[1] >= self._shape[1]


def newest_canvas(
    known_BL: np.ndarray,
    held: Tensor | None,
    seen: Iterable[Tensor],
    given_BL: np.ndarray,
    mask_id: int,
    descends: Callable[[Tensor], bool],
) -> np.ndarray | None:
    """The newest canvas [B, L] that the loop made since a call; None if none was seen.

    It was made out of the canvas of that call, and has its prompt, or goes on from it: what was no
    mask there is the same here.

    Args:
        known_BL: int64, the canvas of the call.
        held: the tensor that held it then; the loop may have written into it.
        seen: tensors of its shape, or longer, that were made or written since, the newest first.
        given_BL: bool: what was no mask when the run began, as far as the canvas went then.
        mask_id: the mask's id.
        descends: whether a tensor is known to have been made out of the canvas.
    """
    length, begin = known_BL.shape[1], given_BL.shape[1]
    fixed_BL = known_BL != mask_id
    prompt = known_BL[:, :begin][given_BL]
    for canvas in seen:
        ids_BL = host_ids(canvas)
        goes_on = np.array_equal(ids_BL[:, :length][fixed_BL], known_BL[fixed_BL])
        prompted = np.array_equal(ids_BL[:, :begin][given_BL], prompt)
        made_of_it = prompted and canvas.shape[1] == length and descends(canvas)
        if (goes_on and fixed_BL.any()) or made_of_it:
            return ids_BL
    held_BL = known_BL if held is None else host_ids(held)
    complete = not (held_BL == mask_id).any()
    return held_BL if complete or not np.array_equal(held_BL, known_BL) else None
