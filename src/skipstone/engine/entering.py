"""Positions that come into sight when a block begins are computed, whatever a cache policy says.

What lay right of a window has no keys and values of its request yet: the cells may still hold those
of whoever had them before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skipstone.canvas import RequestStep, StepContext
from skipstone.rows import Rows


def with_entering(rows: Rows, context: StepContext, sight: Callable[[int], int]) -> Rows:
    """The rows of a step, with those of positions that no step of their request saw before.

    Args:
        rows: what the cache policies name.
        context: where the requests are.
        sight: one past the last position that the steps of the request in a slot saw.
    """
    missing = {at.slot: _missing(rows, at, context, sight(at.slot)) for at in context.requests}
    if not any(new.size for new in missing.values()):
        return rows
    named = {slot: rows.position[rows.request == slot] for slot in missing}
    together = {slot: np.union1d(named[slot], new) for slot, new in missing.items()}
    return context.rows_at(together, refresh=rows.refreshed)


def _missing(rows: Rows, at: RequestStep, context: StepContext, sight: int) -> np.ndarray:
    """Positions of a request that are seen for the first time, and are not among its rows."""
    new = np.arange(sight, context.length_at(at))
    return np.setdiff1d(new, rows.position[rows.request == at.slot]) if new.size else new
