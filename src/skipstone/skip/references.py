"""Where the states that rows are compared with live: in slots, for the rows that may be judged.

The host assigns the slots, so that nothing is read back; a slot's stamp says whose states it holds.

Shape letters: B requests, L canvas length, A named requests, M new slots, W slots, D width,
S compared layers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Geometry
from skipstone.ops.decide.reference import References
from skipstone.rows import Rows, to_device, write_at


class ReferenceStore:
    """References of one run, as many for each request as the widest one has ever expected."""

    def __init__(self, layers: int, geometry: Geometry) -> None:
        """Hold nothing; ``expect`` allocates."""
        self._geometry = geometry
        self._layers = layers
        # int64 [B, L], on the host: the slot of each position, -1 where it has none.
        self._slots = np.full((geometry.batch, geometry.length), -1)
        shape = (geometry.batch, geometry.length)
        slot_BL = torch.full(shape, -1, dtype=torch.int64, device=geometry.device)
        states_SBWD, stamp_2BW = self._empty(0)
        self.held = References(states_SBWD, slot_BL, stamp_2BW)
        """All layers."""

    @property
    def width(self) -> int:
        """Slots of each request, without the spare one."""
        return self.held.stamp_2BW.shape[-1] - 1

    def layer(self, layer: int) -> References:
        """The references of one layer, counted from 1, with S = 1."""
        return self.held._replace(states_SBWD=self.held.states_SBWD[layer - 1 : layer])

    def expect(self, rows: Rows) -> None:
        """Give these rows slots, and no other rows of their requests.

        A position that had a slot keeps it, with all that was learned.
        """
        self._grow(rows.widest)
        requests, where = np.array(rows.requests), (rows.request, rows.position)
        slot = self._slots[where]
        lacking = slot < 0
        if not lacking.any() and np.count_nonzero(self._slots[requests] >= 0) == rows.num_rows:
            return
        slot[lacking] = self._free(rows, slot, lacking)
        self._slots[requests] = -1
        self._slots[where] = slot
        self._upload(requests, np.stack([rows.request[lacking], slot[lacking]]))

    def forget(self, request: int) -> None:
        """Hold nothing of a request: another one takes its place."""
        self._slots[request] = -1
        self.held.slot_BL[request].fill_(-1)
        self.held.stamp_2BW[:, request].fill_(-1)

    def _free(self, rows: Rows, slot: np.ndarray, lacking: np.ndarray) -> np.ndarray:
        """The lowest slots that are free, one for each lacking row: int64 [M]."""
        row = np.repeat(np.arange(len(rows.requests)), rows.counts)
        free_AW = np.ones((len(rows.requests), self.width), dtype=bool)
        free_AW[row[~lacking], slot[~lacking]] = False
        wanted = np.bincount(row[lacking], minlength=len(rows.requests))
        # Both sides are in order of requests, so the m-th slot is for the m-th row.
        return np.nonzero(free_AW & (free_AW.cumsum(1) <= wanted[:, None]))[1]

    def _upload(self, requests: np.ndarray, new_2M: np.ndarray) -> None:
        """Tell the device of the slots of some requests, and which of them are new."""
        device = self._geometry.device
        slot_AL = to_device(self._slots[requests], device)
        self.held.slot_BL.index_copy_(0, to_device(requests, device), slot_AL)
        # A slot that comes back to a position must not bring what it once held.
        request_M, slot_M = to_device(new_2M, device)
        write_at(self.held.stamp_2BW[0], (request_M, slot_M), -1)

    def _grow(self, width: int) -> None:
        """Have at least so many slots for each request; what was learned is kept."""
        if width <= self.width:
            return
        old, kept = self.held, self.width
        states_SBWD, stamp_2BW = self._empty(width)
        states_SBWD[:, :, :kept] = old.states_SBWD[:, :, :kept]
        stamp_2BW[:, :, :kept] = old.stamp_2BW[:, :, :kept]
        self.held = References(states_SBWD, old.slot_BL, stamp_2BW)

    def _empty(self, width: int) -> tuple[Tensor, Tensor]:
        """States and stamps of nothing, with a spare slot at the end."""
        geometry, shape = self._geometry, (self._geometry.batch, width + 1)
        states_SBWD = torch.empty(
            (self._layers, *shape, geometry.width), dtype=geometry.dtype, device=geometry.device
        )
        stamp_2BW = torch.full((2, *shape), -1, dtype=torch.int64, device=geometry.device)
        return states_SBWD, stamp_2BW
