"""Numbers as a dtype holds them, and when two of them are the same."""

from __future__ import annotations

import ml_dtypes
import numpy as np

DTYPES: dict[str, type[np.generic]] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}
"""Dtypes in which a confidence may have been computed, coarsest first."""

# A library may add up in another order than we do, and its last digit is then another one. Coarse
# dtypes are rounded at the end, after which nothing of that is left.
_SLACK = {"float64": 1e-9, "float32": 5e-7, "float16": 0.0, "bfloat16": 0.0}


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64: the values as a dtype would hold them."""
    if dtype == "float64":
        return np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[dtype]).astype(np.float64)


def slack(dtype: str) -> float:
    """How far apart, relative to their size, two numbers are that a dtype may not tell apart."""
    return _SLACK[dtype]


def same(a: np.ndarray, b: np.ndarray, within: float) -> np.ndarray:
    """Whether numbers are the same, but for a relative slack."""
    with np.errstate(invalid="ignore"):
        return (a == b) | (np.abs(a - b) <= within * np.maximum(np.abs(a), np.abs(b)))
