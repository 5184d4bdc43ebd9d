"""Finds the rows of each call: remembers where ids come from, and which tensor is the canvas.

Shape letters: B batch, N rows of a call, L canvas length.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.foreign.attach.locate import Known, Located, locate
from skipstone.foreign.attach.placed import Numbers, numbers_of
from skipstone.foreign.positions.follow import Follower, whole_canvas
from skipstone.foreign.positions.places import Tag, compressed
from skipstone.foreign.shared.calls import INTEGERS, Call
from skipstone.foreign.shared.canvases import Canvases, newest_canvas
from skipstone.foreign.shared.functions import Operation


class Finder:
    """Between the calls it hears what becomes of ids; at a call it says which rows they are."""

    def __init__(self, follower: Follower, mask_id: int) -> None:
        """Share the ledger of ``follower``, which hears every operation too."""
        self.canvases = Canvases()
        self.run = 0
        """Number of the run that is under way; ids of others are none of its canvas."""
        self._follower, self._mask_id = follower, mask_id
        self._canvas: Tensor | None = None
        self._numbers: Numbers | None = None
        self._looked_up: tuple[weakref.ref[Tensor], Tensor] | None = None

    def heard(self, operation: Operation) -> None:
        """Remember the ids of embeddings that are made outside of the model."""
        self.canvases.heard(operation)
        if operation.func is F.embedding and isinstance(operation.out, Tensor):
            ids = operation.args[0] if operation.args else operation.kwargs.get("input")
            if isinstance(ids, Tensor) and ids.dtype in INTEGERS and not self._follower.inside:
                self._looked_up = (weakref.ref(operation.out), ids.clone())
                tag = self._follower.ledger.get(ids)
                if tag is not None:
                    self._follower.ledger.set(self._looked_up[1], tag)

    def newest(self, canvas_BL: np.ndarray, start_BL: np.ndarray) -> np.ndarray | None:
        """The newest canvas [B, L] that the loop made since the last call, if one was seen.

        Args:
            canvas_BL: of the last call.
            start_BL: the first of the run.
        """
        length = canvas_BL.shape[1]
        return newest_canvas(
            canvas_BL,
            self._canvas,
            self.canvases.newest(),
            start_BL != self._mask_id,
            self._mask_id,
            lambda ids: self._is_canvas(ids, length),
        )

    def find(
        self, call: Call, canvas_BL: np.ndarray | None, start_BL: np.ndarray | None
    ) -> Located | None:
        """Locate a call; the canvases are those of the call before and of the run's first."""
        known = None
        if canvas_BL is not None and start_BL is not None:
            given_BL = start_BL != self._mask_id
            known = Known(canvas_BL, self.newest(canvas_BL, start_BL), given_BL, self._numbers)
        ids = call.ids if call.ids is not None else self._ids_of(call.embeds)
        tag = self._follower.ledger.get(ids)
        places = tag.places if tag is not None and tag.canvas == self.run else None
        return locate(call, ids, places, known, self._mask_id)

    def found(self, call: Call, located: Located) -> None:
        """A call was located: from here on its ids are followed."""
        length = located.canvas_BL.shape[1]
        self._canvas = located.canvas
        self._numbers = numbers_of(call, length) or self._numbers
        self.canvases.expect(torch.Size(located.canvas_BL.shape))
        for ids in (call.ids, located.canvas):
            places = self._places(ids, located, whole=ids is located.canvas)
            if ids is not None and places is not None:
                known = self._follower.ledger.get(ids)
                base = None if known is None else known.base
                self._follower.ledger.set(ids, Tag(places, base, self.run))

    def forget(self) -> None:
        """The run is over."""
        self._canvas = self._numbers = self._looked_up = None

    def _places(self, ids: Tensor | None, located: Located, *, whole: bool) -> Tensor | None:
        """Places of ids as the ledger keeps them."""
        if ids is None or ids.ndim == 0:
            return None
        positions_BN = torch.from_numpy(located.placed.positions_BN)
        if whole:
            positions_BN = torch.arange(located.canvas_BL.shape[1], dtype=torch.int32)[None]
        if positions_BN.shape[1] != ids.shape[-1]:
            return None
        if not located.samples.all and not whole:
            positions_BN = positions_BN.repeat(located.samples.parts, 1)
        return compressed(positions_BN[0] if ids.ndim == 1 else positions_BN.expand(ids.shape))

    def _is_canvas(self, ids: Tensor, length: int) -> bool:
        """Whether ids are known to be those of the whole canvas of this run."""
        tag = self._follower.ledger.get(ids)
        return tag is not None and tag.canvas == self.run and whole_canvas(tag.places, length)

    def _ids_of(self, embeds: Tensor | None) -> Tensor | None:
        """The ids by which embeddings were looked up; None if that was not seen."""
        if self._looked_up is None or self._looked_up[0]() is not embeds:
            return None
        return self._looked_up[1]
