"""Where the states that rows are compared with live: in slots, for the rows that may be judged.

The host assigns the slots, so that nothing is read back; a slot's stamp says whose states it holds.

Shape letters: B requests, L canvas length, A changed requests, M new slots, W slots, D width,
S compared layers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Geometry
from skipstone.ops.reference import References
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
        self._grow(max(rows.counts))
        parts = np.split(rows.position, np.cumsum(rows.counts)[:-1])
        changed, new = list[int](), list[np.ndarray]()
        for request, position in zip(rows.requests, parts, strict=True):
            slots = self._assign(request, position)
            if slots is not None:
                changed.append(request)
                new.append(np.stack([np.full_like(slots, request), slots]))
        if changed:
            self._upload(np.array(changed), np.concatenate(new, axis=1))

    def _assign(self, request: int, position: np.ndarray) -> np.ndarray | None:
        """Assign slots on the host; those that changed hands, or None if all stays as it is."""
        slots = self._slots[request]
        had = slots[position]
        lacking = had < 0
        if not lacking.any() and np.count_nonzero(slots >= 0) == position.size:
            return None
        free = np.setdiff1d(np.arange(self.width), had)[: np.count_nonzero(lacking)]
        slots[:] = -1
        had[lacking] = free
        slots[position] = had
        return free

    def _upload(self, changed: np.ndarray, new_2M: np.ndarray) -> None:
        """Tell the device which requests have changed, and which slots are new."""
        device = self._geometry.device
        slot_AL = to_device(self._slots[changed], device)
        self.held.slot_BL.index_copy_(0, to_device(changed, device), slot_AL)
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
