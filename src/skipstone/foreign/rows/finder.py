"""Finds the rows of each call: remembers where ids come from, and which tensor is the canvas.

Shape letters: B batch, N rows of a call, L canvas length.
"""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.foreign.positions.follow import Follower, whole_canvas
from skipstone.foreign.positions.position_map import Tag, compressed
from skipstone.foreign.rows.canvases import Canvases, newest_canvas
from skipstone.foreign.rows.guidance import Samples
from skipstone.foreign.rows.locate import CanvasState, Located, locate
from skipstone.foreign.rows.placed import Numbers, nowhere, numbers_of
from skipstone.foreign.rows.stale_ids import stayed
from skipstone.foreign.shared.calls import INTEGERS, Call
from skipstone.foreign.shared.functions import Operation


class Finder:
    """Between calls it follows what becomes of ids; at a call it says which rows they are."""

    def __init__(self, follower: Follower, mask_id: int) -> None:
        """Share the position map of ``follower``, which sees every operation too.

        Args:
            follower: knows where ids come from.
            mask_id: -1 if it is not known.
        """
        self._first = False
        """Whether the run under way has had one call."""
        self.run = 0
        """Number of the run that is under way, counted from 1; ids of others are none of it."""
        self._follower, self._mask_id = follower, mask_id
        self._canvases = Canvases()
        self._start_BL: np.ndarray | None = None
        self._canvas_BL: np.ndarray | None = None
        self._held: Tensor | None = None
        self._numbers: Numbers | None = None
        self._stale: Located | None = None
        """The call before, if it was given ids that the loop had gone on from."""
        self._looked_up: tuple[weakref.ref[Tensor], Tensor] | None = None

    def heard(self, operation: Operation) -> None:
        """Keep what may be the next canvas, and the ids of embeddings."""
        if self._follower.inside:
            return
        self._canvases.heard(operation)
        if operation.func is F.embedding and isinstance(operation.out, Tensor):
            ids = operation.args[0] if operation.args else operation.kwargs.get("input")
            if isinstance(ids, Tensor) and ids.dtype in INTEGERS:
                self._looked_up = (weakref.ref(operation.out), ids.clone())
                tag = self._follower.position_map.get(ids)
                if tag is not None:
                    self._follower.position_map.set(self._looked_up[1], tag)

    def find(self, call: Call) -> Located | None:
        """Locate a call; None if nothing is known of its canvas."""
        ids = call.ids if call.ids is not None else self._ids_of(call.embeds)
        tag = self._follower.position_map.get(ids)
        positions = tag.positions if tag is not None and tag.canvas == self.run else None
        known = self._known()
        located = locate(call, ids, positions, known, self._mask_id)
        if known is None or located is None:
            return located
        if self._was_hidden(ids, located):
            fresh = locate(call, ids, None, None, self._mask_id)
            return None if fresh is None else dataclasses.replace(fresh, hid_before=True)
        overwritten_BL = self._overwritten(located)
        if overwritten_BL is not None:
            return dataclasses.replace(located, overwritten_BL=overwritten_BL)
        if self._starts_anew(located):
            return locate(call, ids, None, None, self._mask_id)
        stale = self._stale
        if stale is not None and not located.samples.twin and stayed(stale, known.now_BL):
            return dataclasses.replace(located, was_stale=stale)
        return located

    def lost(self) -> Located | None:
        """A call that could not be read: its rows are not known, its canvas is the last one."""
        if self._canvas_BL is None:
            return None
        batch = len(self._canvas_BL)
        everyone = Samples(np.arange(batch), twin=False)
        return Located(everyone, None, self._canvas_BL, self._held, nowhere(batch))

    def found(self, call: Call, located: Located) -> None:
        """A call was located: from here on its ids are followed."""
        canvas_BL = located.canvas_BL
        if located.anew or self._start_BL is None:
            self.run += 1
            self._first = True
            self._start_BL, self._numbers = canvas_BL, None
        else:
            self._first = False
        if located.overwritten_BL is not None:
            # Told once: from here on the prompt is what the loop has made of it.
            start_BL = self._start_BL.copy()
            start_BL[located.overwritten_BL] = canvas_BL[:, : start_BL.shape[1]][
                located.overwritten_BL
            ]
            self._start_BL = start_BL
        more = canvas_BL[:, self._start_BL.shape[1] :]
        self._start_BL = np.concatenate([self._start_BL, more], axis=1)
        self._canvas_BL, self._held = canvas_BL, located.canvas
        self._stale = None if located.stale_BN is None else located
        told = _numbered_on(located) or numbers_of(call, canvas_BL.shape[1])
        self._numbers = told or self._numbers
        self._canvases.expect(torch.Size(canvas_BL.shape))
        for given in (call.ids, call.embeds, located.canvas):
            positions = self._positions(given, located)
            if given is not None and positions is not None:
                known = self._follower.position_map.get(given)
                base = None if known is None else known.base
                canvas = None if given is call.embeds else self.run
                self._follower.position_map.set(given, Tag(positions, base, canvas))

    def newest(self) -> np.ndarray | None:
        """The newest canvas [B, L] that the loop made since the last call, if one was seen."""
        if self._canvas_BL is None or self._start_BL is None:
            return None
        length = self._canvas_BL.shape[1]

        def descends(ids: Tensor) -> bool:
            tag = self._follower.position_map.get(ids)
            return (
                tag is not None and tag.canvas == self.run and whole_canvas(tag.positions, length)
            )

        return newest_canvas(
            self._canvas_BL,
            self._held,
            self._canvases.newest(),
            self._start_BL != self._mask_id,
            self._mask_id,
            descends,
        )

    def forget(self) -> None:
        """The run is over."""
        self._start_BL = self._canvas_BL = self._held = self._numbers = self._stale = None

    def _known(self) -> CanvasState | None:
        if self._canvas_BL is None or self._start_BL is None:
            return None
        given_BL = self._start_BL != self._mask_id
        return CanvasState(self._canvas_BL, self.newest(), given_BL, self._numbers)

    def _overwritten(self, located: Located) -> np.ndarray | None:
        """Positions of the prompt, bool [B, L], that have other ids in a run that goes on.

        It goes on if what it has committed is still there, and most of the prompt; of another
        prompt nothing is committed yet.
        """
        assert self._start_BL is not None
        assert self._canvas_BL is not None
        start_BL, canvas_BL = self._start_BL, located.canvas_BL
        length = start_BL.shape[1]
        if located.samples.twin or len(canvas_BL) != len(start_BL) or canvas_BL.shape[1] < length:
            return None
        now_BL, given_BL = canvas_BL[:, :length], start_BL != self._mask_id
        other_BL = given_BL & (now_BL != start_BL)
        if not other_BL.any() or (2 * other_BL.sum(1) >= given_BL.sum(1)).any():
            return None
        made_BL = ~given_BL & (self._canvas_BL[:, :length] != self._mask_id)
        stays = bool((now_BL == self._canvas_BL[:, :length])[made_BL].all())
        # In its first step a run has committed nothing that could stay; its canvas is the same.
        here = located.canvas is not None and located.canvas is self._held
        begun = made_BL.any() or (here and (~given_BL & (now_BL != self._mask_id)).any())
        return other_BL if stays and begun else None

    def _starts_anew(self, located: Located) -> bool:
        """Whether a canvas belongs to another run: another prompt, or all masks again."""
        assert self._start_BL is not None
        assert self._canvas_BL is not None
        start_BL, canvas_BL = self._start_BL, located.canvas_BL
        length = start_BL.shape[1]
        if located.samples.twin:
            return False
        if len(canvas_BL) != len(start_BL) or canvas_BL.shape[1] < length:
            return True
        given_BL = start_BL != self._mask_id
        if (canvas_BL[:, :length][given_BL] != start_BL[given_BL]).any():
            return True
        again = np.array_equal(canvas_BL, start_BL)
        return again and not np.array_equal(self._canvas_BL, start_BL)

    def _was_hidden(self, ids: Tensor | None, located: Located) -> bool:
        """Whether the only call so far had nothing but masks, where this canvas has its prompt.

        What a loop commits is written into the tensor of the call, or made after it. A canvas that
        was there before that call was not made by it: the call hid its prompt.
        """
        if not self._first or ids is None or self._start_BL is None:
            return False
        canvas_BL = located.canvas_BL
        whole = located.canvas is not None and canvas_BL.shape == self._start_BL.shape
        hidden = bool((self._start_BL == self._mask_id).all())
        if not (whole and hidden and (canvas_BL[:, 0] != self._mask_id).all()):
            return False
        made = [*self._canvases.newest(), *([] if self._held is None else [self._held])]
        storages = {tensor.untyped_storage().data_ptr() for tensor in made}
        return ids.untyped_storage().data_ptr() not in storages

    def _positions(self, given: Tensor | None, located: Located) -> Tensor | None:
        """Positions of ids, embeddings or a canvas, as the position map keeps them."""
        if given is None or given.ndim == 0:
            return None
        positions_BN = torch.from_numpy(located.placed.positions_BN)
        if given is located.canvas:
            positions_BN = torch.arange(located.canvas_BL.shape[1], dtype=torch.int32)[None]
        elif not located.samples.all:
            positions_BN = positions_BN.repeat(located.samples.parts, 1)
        rows = given.shape[0] if given.ndim == 1 else given.shape[1]
        if positions_BN.shape[1] != rows:
            return None
        if given.ndim == 1:
            return compressed(positions_BN[0])
        positions = compressed(positions_BN.expand(given.shape[:2]))
        return positions if positions is None or given.ndim == 2 else positions.unsqueeze(-1)

    def _ids_of(self, embeds: Tensor | None) -> Tensor | None:
        """The ids by which embeddings were looked up; None if that was not seen."""
        if self._looked_up is None or self._looked_up[0]() is not embeds:
            return None
        return self._looked_up[1]


def _numbered_on(located: Located) -> Numbers | None:
    """Numbers that leave places out behind a cache, once a call has shown it; later calls go on."""
    said, placed = located.said, located.placed
    if said is None or said.source != "position_ids" or placed.source != "cache_length":
        return None
    batch, length = located.canvas_BL.shape
    number_BL = np.tile(np.arange(length), (batch, 1))
    np.put_along_axis(
        number_BL, placed.positions_BN.astype(np.int64), said.positions_BN.astype(np.int64), axis=1
    )
    return Numbers(number_BL)
