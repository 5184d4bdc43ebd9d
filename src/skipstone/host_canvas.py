"""What may stand at a position, and the new positions as the host sees them; without torch.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from skipstone.blocks import Block


class Status(IntEnum):
    """What stands at a position of the canvas."""

    PAD = 0
    """Beyond the end of this request; never attended."""
    PROMPT = 1
    """Given by the caller, whatever its id."""
    MASK = 2
    """Still to be decoded."""
    COMMITTED = 3
    """Decoded and final."""
    FILLED = 4
    """Set to EOS by the early stop, never decoded."""
    BROKEN = 5
    """The model gave no finite number here. No canvas holds it: it is what ``commit`` tells the
    host, which then ends the run."""


@dataclass(frozen=True)
class HostCanvas:
    """The generation region as the host sees it after a step: one device read for everything."""

    ids_BG: np.ndarray
    """int64 [B, G]"""
    status_BG: np.ndarray
    """int64 [B, G], values of ``Status``"""

    @cached_property
    def _masks_before(self) -> list[list[int]]:
        """Masks of each request left of each offset, and in all: asked for many times a step."""
        counted = np.cumsum(self.status_BG == Status.MASK, axis=1)
        return np.pad(counted, ((0, 0), (1, 0))).tolist()

    def masks(self, request: int, block: Block) -> int:
        """How many masks a request has in a block."""
        before = self._masks_before[request]
        return before[block.stop] - before[block.start]
