"""Which dimension of a cache is its length: learned over all calls, for layouts differ.

Keys lie as [B, H, L, W] or as [B, L, H, W], and no shape alone tells which. Over the calls of a
run the length changes and the number of heads does not.

Shape letters: B batch, N rows of a call, H heads, L positions, W width of a head.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from skipstone.foreign.shared.caches import HEADS_FIRST, POSITIONS_FIRST, cache_shape, returned
from skipstone.foreign.shared.calls import Call

_AXES = (HEADS_FIRST, POSITIONS_FIRST)


class CacheAxis:
    """Looks at the caches that a model is given and gives back, before and after each call."""

    def __init__(self) -> None:
        """No cache yet."""
        self.known: int | None = None
        """Of the dimensions of a cache, the one that is its length; None as long as two fit."""
        self._shown = set[int]()
        self._before: torch.Size | None = None
        """The shape of the cache that was seen last."""
        self._call: Call | None = None

    def before(self, call: Call) -> Call:
        """The call, with what is known of the layout of its cache."""
        shape = cache_shape(call.holders)
        self._see(shape)
        self._call = call
        return call if self.known is None else dataclasses.replace(call, length_axis=self.known)

    def after(self, output: object) -> None:
        """A call is done: look at what is cached now."""
        call, self._call = self._call, None
        if call is None or self.known is not None:
            return
        pairs = returned(output)
        shape = pairs[0][0].shape if pairs and pairs[0][0].ndim == 4 else None
        shape = cache_shape(call.holders) if shape is None else shape
        if self._before is None and shape is not None:
            self._filled(shape, call.shape[1])
        self._see(shape)

    def _see(self, shape: torch.Size | None) -> None:
        """What changed since the last cache is its length, if nothing else did."""
        if shape is None:
            return
        old, self._before = self._before, shape
        if old is not None and len({*(old[a] == shape[a] for a in _AXES)}) == 2:
            self._learn(next(a for a in _AXES if old[a] != shape[a]))

    def _filled(self, shape: torch.Size, rows: int) -> None:
        """The first call has filled a cache: room for fewer positions than it has rows is none."""
        fits = [a for a in _AXES if shape[a] == rows]
        if len(fits) == 1 and min(shape[a] for a in _AXES) < rows == max(shape[a] for a in _AXES):
            self._learn(fits[0])

    def _learn(self, axis: int) -> None:
        """Remember it, unless it contradicts what was seen before."""
        self._shown.add(axis)
        self.known = axis if len(self._shown) == 1 else None


def likeliest(call: Call, ids_BN: np.ndarray, now_BL: np.ndarray, mask_id: int) -> Call:
    """The call with the one reading of its cache behind which its rows fit the canvas.

    Where both readings fit, or none does, it stays as almost everybody keeps keys.
    """
    shape = cache_shape(call.holders)
    if call.length_known or shape is None or len(now_BL) != len(ids_BN):
        return call
    fits = [axis for axis in _AXES if _stand(ids_BN, now_BL, shape[axis], mask_id)]
    return dataclasses.replace(call, likely_axis=fits[0]) if len(fits) == 1 else call


def _stand(ids_BN: np.ndarray, now_BL: np.ndarray, start: int, mask_id: int) -> bool:
    """Whether ids stand behind a number of positions, or go on where the canvas ends."""
    rows_BN = now_BL[:, start : start + ids_BN.shape[1]]
    if rows_BN.shape != ids_BN.shape:
        return start == now_BL.shape[1]
    return bool(((rows_BN == ids_BN) | (rows_BN == mask_id)).all())
