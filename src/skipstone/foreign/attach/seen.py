"""One call and what the loop made of it, for one sample.

Shape letters: L canvas length, N rows of a call, C scored masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class MaskScores:
    """What a call says about the masks among its rows; one array a column."""

    position: np.ndarray
    """int32 [C], ascending"""
    token: np.ndarray
    """int32 [C]"""
    confidence: np.ndarray
    """float64 [C]"""
    runner_up: np.ndarray
    """int32 [C]"""
    runner_up_confidence: np.ndarray
    """float64 [C]"""


@dataclass(frozen=True, eq=False)
class Seen:
    """One call and what the loop made of it, for one sample."""

    forward: int
    rows: np.ndarray
    """int32 [N]: positions that entered layer 1; none if they are not known."""
    whole: bool
    """Whether the call computed every position of its canvas."""
    finished: np.ndarray
    """int32: positions that went through every layer."""
    skip_layer: int
    """The first layer that other rows did not compute; 0 if all finished."""
    keeps: bool
    """Whether the model gave back keys and values to be used again."""
    positions_from: str
    before: np.ndarray
    """int64 [L]: the canvas of the call."""
    after: np.ndarray
    """int64 [L]: the canvas of the next call, or the last one known."""
    next_rows: np.ndarray | None
    """int32: rows of the next call; None if there was none."""
    scores: MaskScores
    seconds: float
    shifted: MaskScores | None = None
    """The same where a row scores the position after it, as long as that is not known."""
