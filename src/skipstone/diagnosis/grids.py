"""Which coarser format values were rounded to: shorter floats, or few levels with a scale.

Whoever rounds keys and values keeps a scale for all of them, for a column, a row, a head, or a
group of neighbours. Neither the scale nor the grouping is known; where only a part of the rows was
rounded, the largest value need not lie on the last level. So scales are tried, and the values are
on a grid if all of them are, and so many that luck would not have put them there.

Shape letters: N rows, W width, G groups of V values that share a scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from skipstone.diagnosis.fit import head_widths

_FLOATS: dict[str, type[np.generic]] = {
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
# Values on steps of the same size, and values with as many digits.
_WHOLE = {"int4": 4, "int8": 8}
_SCALED_FLOATS = {"float8_e5m2": 2, "float8_e4m3fn": 3}
# Distance to a level, in steps, that a library's own arithmetic may leave.
_SLACK = 1e-3
# Natural logarithm of the chance, for all scales that are tried, that values are on a grid by luck.
_NO_LUCK = -30.0
# Columns have to have some values of their own.
_ENOUGH_ROWS = 4
# Binary exponent, where the largest value has that of its level, under which digits get lost.
_LEAST = -8
# Other numbers than zero that there have to be: constants and a handful of values fit any grid.
_DISTINCT, _DISTINCT_LEVELS = 12, 6
# What is looked at: rows in all, and before that some values of some groups.
_ROWS = 64
_VALUES, _GROUPS = 1024, 8

Off = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From values [G, V] and a scale of each group [G, 1] to distances from the nearest level, in
steps, and how large these may be; both [G, V]."""


def grid(values_NW: np.ndarray, dtype: str) -> str | None:
    """The coarsest grid that has all values; None if there is none.

    Args:
        values_NW: float64, as recorded.
        dtype: in which they were recorded; a grid that is no coarser than it says nothing.
    """
    digits = ml_dtypes.finfo(np.dtype(dtype)).nmant
    # What is there twice, as rows of equal masks, is no more evidence than once.
    values_NW = np.unique(values_NW, axis=0)
    some_NW = values_NW[:: max(1, len(values_NW) // _ROWS)]
    if not some_NW.size or not np.isfinite(some_NW).all():
        return None
    distinct = np.unique(np.abs(some_NW[some_NW != 0])).size
    if distinct < _DISTINCT_LEVELS:
        return None
    for name, kind in _FLOATS.items() if distinct >= _DISTINCT else ():
        # What has as many digits as the run's own dtype says nothing: bfloat16 fits into float16.
        shorter = ml_dtypes.finfo(kind).nmant < digits
        if shorter and _held(some_NW, kind) and _held(values_NW, kind):
            return name
    roundoff = 2.0 ** -(digits + 1)
    for name, bits in _WHOLE.items():
        if any(_on_steps(group_GV, bits, roundoff) for group_GV in _groups(some_NW)):
            return name
    for name, short in _SCALED_FLOATS.items():
        if short < digits and any(_on_digits(g, short, roundoff) for g in _groups(some_NW)):
            return name
    return None


def _held(values_NW: np.ndarray, kind: type[np.generic]) -> bool:
    """Whether a format holds the values as they are."""
    # What does not fit becomes infinite or NaN, and is then not equal.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array_equal(values_NW.astype(kind).astype(np.float64), values_NW)


def _groups(values_NW: np.ndarray) -> Iterator[np.ndarray]:
    """Ways to cut values into groups that share a scale, [G, V]."""
    rows, width = values_NW.shape
    yield values_NW.reshape(1, -1)
    if rows >= _ENOUGH_ROWS:
        yield values_NW.T
        # A scale for each head and all positions.
        yield from (
            np.moveaxis(values_NW.reshape(rows, -1, w), 1, 0).reshape(width // w, -1)
            for w in head_widths(width)
            if w < width
        )
    yield values_NW
    yield from (values_NW.reshape(-1, w) for w in head_widths(width) if w < width)


def _on_steps(values_GV: np.ndarray, bits: int, roundoff: float) -> bool:
    """Whether every group is on steps of equal size, 2**bits of them at most."""
    levels = 2 ** (bits - 1)
    # The largest value of these rows, where the scale was made from others as well.
    least = levels // bits

    def off_from(least_G1: np.ndarray) -> Off:
        """Distances for values that were made smaller by this much after they were rounded."""

        def off(values_GV: np.ndarray, step_G1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            ratio_GV = values_GV / step_G1
            whole_GV = np.abs(values_GV + least_G1[: len(values_GV)])
            within_GV = _SLACK + 3 * roundoff * np.round(whole_GV / step_G1)
            return np.abs(ratio_GV - np.round(ratio_GV)), within_GV

        return off

    least_G1 = values_GV.min(1, keepdims=True)
    return _fits(values_GV, range(levels, least - 1, -1), off_from(0 * least_G1)) or _fits(
        values_GV - least_G1, range(2 * levels - 1, 2 * least - 1, -1), off_from(least_G1)
    )


def _on_digits(values_GV: np.ndarray, digits: int, roundoff: float) -> bool:
    """Whether every group has so few binary digits, once it is divided by a scale of its own."""
    steps = 2.0 ** (digits + 1)

    def off(values_GV: np.ndarray, scale_G1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mantissa_GV, exponent_GV = np.frexp(np.abs(values_GV) / scale_G1)
        miss_GV = np.abs(mantissa_GV * steps - np.round(mantissa_GV * steps))
        # The least values of these formats have fewer digits: they say nothing.
        least_GV = exponent_GV < _LEAST
        within = _SLACK + 3 * roundoff * steps
        return np.where(least_GV, 0.0, miss_GV), np.where(least_GV, 0.5, within)

    return _fits(values_GV, range(2**digits, 2 ** (digits + 1)), off)


def _fits(values_GV: np.ndarray, largest: range, off: Off) -> bool:
    """Whether every group is on a grid, by more than luck: first a few values, then all.

    Args:
        values_GV: the values.
        largest: levels that the largest value of a group may be on.
        off: measures distances to a grid.
    """
    groups = max(_GROUPS, _VALUES // values_GV.shape[1])
    top_G1 = np.abs(values_GV).max(1, keepdims=True)
    top_G1 = np.where(top_G1 > 0, top_G1, 1.0)
    some_GV = values_GV[:groups, : _VALUES // _GROUPS]
    luck = _luck(some_GV, top_G1[:groups], largest, off)
    # Levels closer than the precision of the dtype hold all values, and say nothing.
    if luck is None or luck * values_GV.size / some_GV.size > _NO_LUCK:
        return False
    luck = _luck(values_GV, top_G1, largest, off)
    return luck is not None and luck < _NO_LUCK


def _luck(values_GV: np.ndarray, top_G1: np.ndarray, largest: range, off: Off) -> float | None:
    """Logarithm of the chance that groups are on a grid by luck; None if one does not.

    Most often all have their largest value on one level; else each takes the first that fits.
    """
    size_GV = np.abs(values_GV)
    # The value that the scale was made from, and zero, are on every grid.
    telling_GV = (size_GV > 0) & (size_GV < top_G1)
    luck_G = np.full(len(values_GV), np.nan)
    together = 0.0
    for level in largest:
        miss_GV, within_GV = off(values_GV, top_G1 / level)
        fits_G = (miss_GV <= within_GV).all(1)
        chance_GV = np.where(telling_GV, np.log(np.minimum(1.0, 2 * within_GV)), 0.0)
        # With each scale that is tried, luck gets likelier: once for all groups, or for each.
        chance_G, trials = chance_GV.sum(1), np.log(len(largest))
        if fits_G.all():
            together = min(together, chance_G.sum() + trials)
        new_G = fits_G & np.isnan(luck_G)
        luck_G[new_G] = np.minimum(0.0, chance_G[new_G] + trials)
    return None if np.isnan(luck_G).any() else min(together, float(luck_G.sum()))
