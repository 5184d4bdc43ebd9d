"""Which rows are among others; requests and positions ascend in both."""

from __future__ import annotations

import numpy as np

from skipstone.rows import Rows


def places(rows: Rows) -> np.ndarray:
    """One number for each request and position, ascending as rows are: int64 [N]."""
    return (rows.request << 32) + rows.position


def among(some: Rows, others: Rows) -> np.ndarray:
    """Which rows of ``some`` are among ``others`` too: bool [N]."""
    wanted, there = places(some), places(others)
    if not there.size:
        return np.zeros(wanted.size, bool)
    # Both ascend: a search takes a tenth of the time of np.isin, which sorts.
    return there[np.searchsorted(there, wanted).clip(max=there.size - 1)] == wanted
