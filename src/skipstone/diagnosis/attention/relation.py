"""How rows of B's queries, keys or values follow from A's: scaled, rounded, turned, other heads.

Shape letters: M rows, G heads, W width of a head, P pairs of a head (half its width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipstone.diagnosis.attention.pairing import other_pairs
from skipstone.diagnosis.grids import grid

RelationKind = Literal[
    "scaled",
    "heads",
    "rounded",
    "rows",
    "shift",
    "stretch",
    "base",
    "turned",
    "pairs",
    "constant",
]
TURNS: frozenset[RelationKind] = frozenset(("rows", "shift", "stretch", "base", "turned", "pairs"))
"""Rotations by other angles than A's."""

# Relative, of values that were not rounded on the way.
_SAME = 1e-3
# Radians within which an angle is the one that it is held against.
_ANGLE = 2e-2
# What rounding to a shorter format may change of a row.
_ROUNDING = 2e-2
_FEWEST = 4


@dataclass(frozen=True)
class Relation:
    """How B's rows follow from A's."""

    kind: RelationKind
    amount: float = float("nan")
    """The factor of a scale or a stretch, or the positions of a shift."""
    format: str = ""
    """What rows are rounded to."""


def relation(
    positions_M: np.ndarray,
    right_MGW: np.ndarray,
    wrong_MGW: np.ndarray,
    level: float,
    dtype: str,
    bases: Sequence[float] = (),
) -> Relation | None:
    """The plainest relation that holds in every row; None if none does.

    Args:
        positions_M: of the rows.
        right_MGW: A's.
        wrong_MGW: B's, of which each differs.
        level: what noise can do to a row, relative.
        dtype: that the rows were computed in.
        bases: of rotary embeddings, as far as a configuration names them.
    """
    if right_MGW.shape != wrong_MGW.shape or not len(positions_M):
        return None
    if not (np.isfinite(right_MGW).all() and np.isfinite(wrong_MGW).all()):
        return None
    near = max(_SAME, 2 * level)
    return (
        _scaled(right_MGW, wrong_MGW, near)
        or _other_heads(right_MGW, wrong_MGW, near)
        or _rounded(right_MGW, wrong_MGW, dtype)
        or _turned(positions_M, right_MGW, wrong_MGW, near)
        or _other_pairs(positions_M, right_MGW, wrong_MGW, bases, near)
        or _constant(right_MGW, wrong_MGW, near)
    )


def _scaled(right_MGW: np.ndarray, wrong_MGW: np.ndarray, near: float) -> Relation | None:
    factor = float((wrong_MGW * right_MGW).sum() / max((right_MGW**2).sum(), 1e-30))
    same = _same(wrong_MGW, factor * right_MGW, near)
    return Relation("scaled", factor) if same and factor > 0 and abs(factor - 1) > near else None


def _other_heads(right_MGW: np.ndarray, wrong_MGW: np.ndarray, near: float) -> Relation | None:
    """Every head of B's is another one of A's."""
    heads = right_MGW.shape[1]
    if heads < 2:
        return None
    for g in range(heads):
        found = (_same(wrong_MGW[:, [g]], right_MGW[:, [h]], near) for h in range(heads))
        if not any(found):
            return None
    return Relation("heads")


def _rounded(right_MGW: np.ndarray, wrong_MGW: np.ndarray, dtype: str) -> Relation | None:
    wrong, right = (x.reshape(len(x), -1) for x in (wrong_MGW, right_MGW))
    if not _same(wrong_MGW, right_MGW, _ROUNDING):
        return None
    name = grid(wrong, dtype)
    return None if name is None or grid(right, dtype) == name else Relation("rounded", format=name)


def _turned(
    positions_M: np.ndarray, right_MGW: np.ndarray, wrong_MGW: np.ndarray, near: float
) -> Relation | None:
    """Pairs, or at least heads, keep their length."""
    for pairs in (_halves, _neighbours):
        angle_MP = _angles(pairs(right_MGW), pairs(wrong_MGW), near)
        if angle_MP is not None:
            return _named(positions_M, angle_MP, near)
    lengths = (np.linalg.norm(x, axis=-1) for x in (wrong_MGW, right_MGW))
    kept = np.allclose(*lengths, rtol=near, atol=0)
    return Relation("pairs") if kept and right_MGW.shape[-1] > 2 else None


def _angles(right_MGP: np.ndarray, wrong_MGP: np.ndarray, near: float) -> np.ndarray | None:
    """By how much each pair is turned, [M, P]; None unless it is, and in all heads alike."""
    size = np.sqrt((np.abs(right_MGP) ** 2).mean(-1, keepdims=True))
    if not (np.abs(np.abs(wrong_MGP) - np.abs(right_MGP)) <= near * size).all():
        return None
    cross_MGP = wrong_MGP * np.conj(right_MGP)
    sum_MP, most_MP = cross_MGP.sum(1), np.abs(cross_MGP).sum(1)
    alike = np.abs(sum_MP).sum() >= (1 - near) * most_MP.sum()
    return np.angle(sum_MP) if alike else None


def _named(positions_M: np.ndarray, angle_MP: np.ndarray, near: float) -> Relation:
    """What kind of turn these angles are; the fastest pair turns by one radian a position."""
    angle, fastest_M = max(_ANGLE, near), angle_MP[:, 0]
    whole_M = np.round(fastest_M)
    if (np.abs(fastest_M - whole_M) < angle).all() and whole_M.any():
        constant = _spread(angle_MP) < angle and whole_M[0] != 0
        return Relation("shift", float(whole_M[0])) if constant else Relation("rows")
    neighbours = np.flatnonzero(np.diff(positions_M) == 1)
    if neighbours.size >= _FEWEST:
        step_MP = _wrapped(angle_MP[neighbours + 1] - angle_MP[neighbours])
        if _spread(step_MP) < angle:
            return _of_speed(step_MP.mean(0), angle)
    return Relation("turned")


def _of_speed(step_P: np.ndarray, angle: float) -> Relation:
    """Angles that grow with the position: all pairs faster or slower alike, or another base."""
    if abs(step_P[0]) < angle or step_P.size < 2:
        return Relation("base")
    ratio = step_P[1] / step_P[0]
    alike = np.allclose(step_P, step_P[0] * ratio ** np.arange(step_P.size), atol=angle)
    return (
        Relation("stretch", 1 + float(step_P[0])) if alike and 0 < ratio < 1 else Relation("base")
    )


def _other_pairs(
    positions_M: np.ndarray,
    right_MGW: np.ndarray,
    wrong_MGW: np.ndarray,
    bases: Sequence[float],
    near: float,
) -> Relation | None:
    found = other_pairs(positions_M, right_MGW, wrong_MGW, bases, near)
    return Relation("pairs") if found else None


def _constant(right_MGW: np.ndarray, wrong_MGW: np.ndarray, near: float) -> Relation | None:
    """The same vector is missing in every row: as it is, or rotated by the position of each."""
    if len(right_MGW) < _FEWEST:
        return None
    apart_MGW = wrong_MGW - right_MGW
    if _same(apart_MGW, np.broadcast_to(apart_MGW.mean(0), apart_MGW.shape), near):
        return Relation("constant")
    for pairs in (_halves, _neighbours):
        length_MGP = np.abs(pairs(apart_MGW))
        if _same(length_MGP, np.broadcast_to(length_MGP.mean(0), length_MGP.shape), 10 * near):
            return Relation("constant")
    return None


def _halves(x_MGW: np.ndarray) -> np.ndarray:
    half = x_MGW.shape[-1] // 2
    return x_MGW[..., :half] + 1j * x_MGW[..., half : 2 * half]


def _neighbours(x_MGW: np.ndarray) -> np.ndarray:
    even = x_MGW.shape[-1] // 2 * 2
    return x_MGW[..., 0:even:2] + 1j * x_MGW[..., 1:even:2]


def _same(a: np.ndarray, b: np.ndarray, near: float) -> bool:
    """Whether each row of one is that of the other."""
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    size = np.maximum(np.linalg.norm(flat_b, axis=1), 1e-30)
    return bool((np.linalg.norm(flat_a - flat_b, axis=1) <= near * size).all())


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return np.angle(np.exp(1j * angle))


def _spread(angle_MP: np.ndarray) -> float:
    """The largest distance of an angle from the mean of its pair."""
    middle_P = np.angle(np.exp(1j * angle_MP).mean(0))
    return float(np.abs(_wrapped(angle_MP - middle_P)).max(initial=0.0))
