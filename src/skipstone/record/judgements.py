"""What a skip rule said about the rows of one step.

Shape letters: J judged rows, S compared layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Judgements:
    """What the skip rule said about the rows of one step; one array a column."""

    position: np.ndarray
    """int32 [J]"""
    similarity: np.ndarray
    """float64 [J, S]: after layer 1, 2, ... K-1."""
    smallest: np.ndarray
    """float64 [J]: over the compared layers."""
    mean: np.ndarray
    """float64 [J]: over the compared layers."""
    stable: np.ndarray
    """bool [J]: the similarities allow a skip."""
    forced: np.ndarray
    """bool [J]: the row had to go on all the same."""
    reference_position: np.ndarray
    """int32 [J]: the position whose states the row was compared with; -1 where not known."""
    reference_forward: np.ndarray
    """int32 [J]: the forward those states are from; -1 where not known."""

    def __repr__(self) -> str:
        least = f", smallest similarity {self.smallest.min():.6g}" if len(self) else ""
        return f"<Judgements of {len(self)} rows: {int(self.skipped.sum())} skipped{least}>"

    def __len__(self) -> int:
        return self.position.size

    @property
    def skipped(self) -> np.ndarray:
        """Bool [J]: the row left before the deep layers."""
        return self.stable & ~self.forced
