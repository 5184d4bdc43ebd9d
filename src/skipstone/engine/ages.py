"""When positions were last computed, for those who watch a run.

Shape letters: B requests, L canvas length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from skipstone.canvas import Canvas, StepContext
from skipstone.rows import Rows


class Ages(NamedTuple):
    """When positions were last computed, in forwards of their request, for those who watch."""

    entered_at_BL: np.ndarray
    """int64: forward in which a position last entered layer 1; -1 never."""
    finished_at_BL: np.ndarray
    """int64: forward in which a position last went through every layer; -1 never."""

    @classmethod
    def start(cls, canvas: Canvas) -> Ages:
        """Nothing was computed yet."""
        never_BL = np.full(canvas.ids_BL.shape, -1)
        return cls(never_BL, never_BL.copy())

    @classmethod
    def unkept(cls, canvas: Canvas) -> Ages:
        """Nobody has kept them: -1 everywhere, which takes no memory and cannot be written."""
        never_BL = np.broadcast_to(np.int64(-1), canvas.ids_BL.shape)
        return cls(never_BL, never_BL)

    def copy(self) -> Ages:
        """The same, which later steps do not change."""
        return Ages(self.entered_at_BL.copy(), self.finished_at_BL.copy())

    def note(self, context: StepContext, rows: Rows, finished: Rows | None) -> None:
        """A step computed ``rows``, and ``finished`` to the end."""
        now_B = np.full(context.canvas.batch, -1)
        now_B[list(context.active)] = [at.forward for at in context.requests]
        for table_BL, seen in ((self.entered_at_BL, rows), (self.finished_at_BL, finished)):
            if seen is not None:
                table_BL[seen.request, seen.position] = now_B[seen.request]
