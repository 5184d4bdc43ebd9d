"""In which part of a layer it begins to give something else, from equal states.

Attention stands between two halves of a layer: what makes its queries, keys and values, and what
makes new states of what it gives. Where both ends of attention were recorded, they tell which half
is to blame, whatever it does.

Shape letters: M rows, G heads, W width of a head.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from skipstone.diagnosis.attention.difference import AttentionDifference, Tensor

Stage = Literal["before", "attention", "after"]
"""The norm and the projections before attention; its arithmetic; what follows it."""

_ROWS: tuple[Tensor, ...] = ("queries", "keys", "values")
# Lengths that a rotation keeps, or multiplies by one factor, agree so well.
_ALIKE = 1e-2


def stage_of(found: AttentionDifference) -> Stage | None:
    """The part of a layer that is to blame; None where its attention's arguments do not tell.

    Args:
        found: of the first layer that gives other states than A's from equal ones.
    """
    wrong = computed_wrong(found)
    made_here = _nothing_cached(found) or "queries" in wrong
    if made_here and ("values" in wrong or any(_resized(found, part) for part in wrong)):
        return "before"
    if wrong or found.differ:
        # A rotation, a mask, or a cache.
        return None
    return "attention" if found.positions.size else "after"


def computed_wrong(found: AttentionDifference) -> tuple[Tensor, ...]:
    """Queries, keys and values that differ in a row that this step itself has computed."""
    return tuple(
        part
        for part in _ROWS
        if np.isin(found.pair(part)[0][found.wrong(part)], found.step.rows).any()
    )


def _nothing_cached(found: AttentionDifference) -> bool:
    """Whether all keys are those of the rows: a cache may hold anything, also for new rows."""
    return np.array_equal(found.b.places_K, found.b.positions_N)


def _resized(found: AttentionDifference, part: Tensor) -> bool:
    """Whether heads have another length, by factors of their own: no rotation does that."""
    positions, a_MGW, b_MGW = found.pair(part)
    rows = found.wrong(part) & np.isin(positions, found.step.rows)
    if a_MGW.shape != b_MGW.shape or not rows.any():
        return False
    size_a, size_b = (np.linalg.norm(x_MGW[rows], axis=-1) for x_MGW in (a_MGW, b_MGW))
    with np.errstate(all="ignore"):
        factor = size_b / size_a
    return bool(np.nanmax(factor) - np.nanmin(factor) > max(_ALIKE, 2 * found.level))
