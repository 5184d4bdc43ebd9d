"""Whether a loop reads the scores of a position from the row before it, by what it writes.

Where logits are those of the next token, rows of positions that are one apart meet on purpose.

Shape letters: B batch, N rows of a call, L canvas length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipstone.foreign.rows.locate import Located

# So many tokens that only one reading explains, and so many times those of the other, are enough.
_FEW, _TIMES = 2, 4


@dataclass(eq=False)
class NextToken:
    """Counts tokens that are the best of their own row, or of the row before."""

    own: int = 0
    before: int = 0
    _canvas_BL: np.ndarray | None = None
    _best_BL: np.ndarray | None = None
    """The best token of each row, at the position of the row; -1 where there is none."""

    @property
    def shifted(self) -> bool:
        """Whether the row before is the one that is read."""
        return self.before >= _FEW and self.before >= _TIMES * self.own

    def called(self, located: Located | None) -> None:
        """A call begins: its canvas shows what was written since the one before."""
        canvas_BL, best_BL = self._canvas_BL, self._best_BL
        now_BL = None if located is None else located.canvas_BL
        if now_BL is not None and canvas_BL is not None and best_BL is not None:
            self._count(canvas_BL, now_BL, best_BL)
        self._canvas_BL, self._best_BL = now_BL, None

    def returned(self, logits_CNV: Tensor, located: Located) -> None:
        """The call is done."""
        rows_BN, length = located.placed.positions_BN, located.canvas_BL.shape[1]
        if logits_CNV.shape[1] != rows_BN.shape[1] or not rows_BN.size:
            return
        chosen_BNV = logits_CNV.detach()[located.samples.chosen.tolist()]
        best_BL = np.full((len(rows_BN), length), -1, np.int64)
        np.put_along_axis(
            best_BL, rows_BN.astype(np.int64), chosen_BNV.argmax(-1).cpu().numpy(), axis=1
        )
        self._best_BL = best_BL

    def _count(self, old_BL: np.ndarray, new_BL: np.ndarray, best_BL: np.ndarray) -> None:
        length = min(old_BL.shape[1], new_BL.shape[1])
        if len(old_BL) != len(new_BL) or length < 2:
            return
        old, new, best = (x[:, :length] for x in (old_BL, new_BL, best_BL))
        # Position 0 has no row before it.
        written = (old != new)[:, 1:] & (best[:, 1:] >= 0) & (best[:, :-1] >= 0)
        own, before = best[:, 1:] == new[:, 1:], best[:, :-1] == new[:, 1:]
        self.own += int((written & own & ~before).sum())
        self.before += int((written & before & ~own).sum())
