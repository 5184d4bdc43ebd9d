"""Rotary embeddings that take other numbers of a head as a pair than A's does.

Halves and neighbours keep no length of each other's pairs, so A's rows are turned back first: the
base has to be known, or to be one of the usual ones. That it is right shows in that B's rows come
out exactly.

Shape letters: M rows, G heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

PairLayout = Literal["halves", "neighbours"]

_USUAL = (1e4, 5e5, 1e6)
_OWN: tuple[tuple[PairLayout, PairLayout], ...] = (
    ("halves", "halves"),
    ("neighbours", "neighbours"),
)
_EVERY: tuple[tuple[PairLayout, PairLayout], ...] = (
    *_OWN,
    ("neighbours", "halves"),
    ("halves", "neighbours"),
)


def other_pairs(
    positions_M: np.ndarray,
    right_MGW: np.ndarray,
    wrong_MGW: np.ndarray,
    bases: Sequence[float],
    near: float,
) -> bool:
    """Whether B's rows are A's, turned back and then turned with other pairs or angles for them.

    Args:
        positions_M: of the rows.
        right_MGW: A's.
        wrong_MGW: B's.
        bases: that the configuration names; usual ones are tried as well.
        near: relative difference of rows that are the same.
    """
    if right_MGW.shape[-1] % 2:
        return False
    size = np.linalg.norm(wrong_MGW, axis=(1, 2))
    for base in dict.fromkeys((*bases, *_USUAL)):
        for own in _OWN:
            plain_MGW = _rotated(right_MGW, -positions_M, base, *own)
            for other in _EVERY:
                turned_MGW = _rotated(plain_MGW, positions_M, base, *other)
                apart = np.linalg.norm(turned_MGW - wrong_MGW, axis=(1, 2))
                if other != own and (apart <= near * size).all():
                    return True
    return False


def _rotated(
    x_MGW: np.ndarray, positions_M: np.ndarray, base: float, pairs: PairLayout, angles: PairLayout
) -> np.ndarray:
    """Rows, rotated: pairs of halves or neighbours, by angles in the order of either."""
    half = x_MGW.shape[-1] // 2
    angle_MP = positions_M[:, None] * base ** -(np.arange(half) / half)
    angle_MW = np.tile(angle_MP, 2) if angles == "halves" else np.repeat(angle_MP, 2, axis=1)
    if pairs == "halves":
        other_MGW = np.concatenate([-x_MGW[..., half:], x_MGW[..., :half]], -1)
    else:
        other_MGW = np.stack([-x_MGW[..., 1::2], x_MGW[..., ::2]], -1).reshape(x_MGW.shape)
    return x_MGW * np.cos(angle_MW)[:, None] + other_MGW * np.sin(angle_MW)[:, None]
