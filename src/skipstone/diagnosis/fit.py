"""What explains wrong rows of keys and values: other rows, a rotation, a grid, zeros?

Shape letters: N wrong rows, M candidate rows, W width, G groups of V values that share a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

# A row is the same as another if this close, relative to its length.
_SAME = 1e-3
# Fewer values than these may lie on a grid by chance.
_ENOUGH = 16
_ENOUGH_VALUES = 64
_OFF_GRID = 1e-2
_FLOATS: dict[str, type[np.generic]] = {
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


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


def grid(values_NW: np.ndarray, dtype: str) -> str | None:
    """The coarse grid that all values lie on, finer than which nothing is left; None if none.

    Looks for shorter float formats, and for steps of equal size: one size for all, for each column,
    each row, or each group of neighbours in a row; around zero, or between smallest and largest.
    """
    digits = ml_dtypes.finfo(np.dtype(dtype)).nmant
    for name, kind in _FLOATS.items():
        # What has as many digits as the run's own dtype says nothing: bfloat16 fits into float16.
        shorter = ml_dtypes.finfo(kind).nmant < digits
        if shorter and np.array_equal(_cast(values_NW, kind), values_NW):
            return name
    if values_NW.size < _ENOUGH_VALUES:
        return None
    for name, bits in (("int4", 4), ("int8", 8)):
        if any(_on_steps(group_GV, bits) for group_GV in _groups(values_NW)):
            return name
    return None


def _cast(values_NW: np.ndarray, kind: type[np.generic]) -> np.ndarray:
    # What does not fit becomes infinite or NaN, and is then not equal.
    with np.errstate(over="ignore", invalid="ignore"):
        return values_NW.astype(kind).astype(np.float64)


def _groups(values_NW: np.ndarray) -> Iterator[np.ndarray]:
    """Ways to cut values into groups that share a step, [groups, values of a group]."""
    rows, width = values_NW.shape
    yield values_NW.reshape(1, -1)
    if rows >= _ENOUGH:
        yield values_NW.T
    yield values_NW
    yield from (values_NW.reshape(-1, w) for w in head_widths(width) if _ENOUGH <= w < width)


def _on_steps(values_GV: np.ndarray, bits: int) -> bool:
    """Whether every group lies on steps of equal size, 2**bits of them at most."""
    lowest_G1, highest_G1 = values_GV.min(1, keepdims=True), values_GV.max(1, keepdims=True)
    largest_G1 = np.abs(values_GV).max(1, keepdims=True)
    around_zero = _whole(values_GV, largest_G1 / (2 ** (bits - 1) - 1))
    return around_zero or _whole(values_GV - lowest_G1, (highest_G1 - lowest_G1) / (2**bits - 1))


def _whole(values_GV: np.ndarray, step_G1: np.ndarray) -> bool:
    ratio_GV = values_GV / np.where(step_G1 == 0, 1, step_G1)
    return bool(np.abs(ratio_GV - np.round(ratio_GV)).max(initial=0) < _OFF_GRID)
