"""What explains wrong rows of keys and values: other rows, or a rotation?

Shape letters: N wrong rows, M candidate rows, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A row is the same as another if this close, relative to its length.
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Match:
    """For each wrong row, the candidate that it equals."""

    rows: np.ndarray
    """int [N]: index of the nearest candidate."""
    error: np.ndarray
    """float64 [N]: relative distance to it."""

    @property
    def share(self) -> float:
        """Share of rows that equal a candidate."""
        return float((self.error < _SAME).mean()) if self.error.size else 0.0


def nearest(wrong_NW: np.ndarray, candidates_MW: np.ndarray) -> Match:
    """The nearest candidate of each wrong row."""
    cross = wrong_NW @ candidates_MW.T
    square = (wrong_NW**2).sum(1)[:, None] + (candidates_MW**2).sum(1)[None] - 2 * cross
    rows = square.argmin(1)
    apart = np.linalg.norm(wrong_NW - candidates_MW[rows], axis=1)
    scale = np.maximum(np.linalg.norm(wrong_NW, axis=1), 1e-30)
    return Match(rows, apart / scale)


def same_length(wrong_NW: np.ndarray, right_NW: np.ndarray) -> bool:
    """Whether rows differ in direction only, as rotated keys do."""
    a, b = np.linalg.norm(wrong_NW, axis=1), np.linalg.norm(right_NW, axis=1)
    return bool((np.abs(a - b) <= _SAME * np.maximum(b, 1e-30)).all())


def turned(wrong_NW: np.ndarray, right_NW: np.ndarray, head_width: int) -> bool:
    """Whether a rotation of pairs can make one of the other: the length of each pair stays.

    Pairs are neighbours, or one of each half of a head.
    """
    return any(
        bool((np.abs(a - b) <= _SAME * np.maximum(b.max(), 1e-30)).all())
        for a, b in (
            (_pairs(wrong_NW, head_width, axis), _pairs(right_NW, head_width, axis))
            for axis in (1, 2)
        )
    )


def _pairs(rows_NW: np.ndarray, head_width: int, axis: int) -> np.ndarray:
    """Lengths of all pairs of all heads: those of halves (1), or of neighbours (2)."""
    half = head_width // 2
    shape = (-1, 2, half) if axis == 1 else (-1, half, 2)
    return np.linalg.norm(rows_NW.reshape(shape), axis=axis)


def shift(wrong_NW: np.ndarray, right_NW: np.ndarray, head_width: int) -> tuple[float, float]:
    """Positions by which keys seem to be rotated too far, and how well that fits (1 is perfect).

    The fastest pair of a half-split rotary embedding turns by one radian a position.
    """
    half = head_width // 2
    wrong = wrong_NW.reshape(-1, head_width)
    right = right_NW.reshape(-1, head_width)
    z_wrong = wrong[:, 0] + 1j * wrong[:, half]
    z_right = right[:, 0] + 1j * right[:, half]
    turn = (z_wrong * np.conj(z_right)).sum()
    scale = np.abs(z_wrong * z_right).sum()
    return float(np.angle(turn)), float(np.abs(turn) / max(scale, 1e-30))


def head_widths(width: int) -> list[int]:
    """Head widths that a row of keys may be made of, likely ones first."""
    return [w for w in (128, 64, 96, 80, 48, 32, 24, 16, 12, 8, 4) if width % w == 0]
