"""Calls that were given ids which the loop had gone on from: whether it is so, and what is said."""

from __future__ import annotations

import numpy as np

from skipstone.foreign.rows.locate import Located


def stayed(stale: Located, canvas_BL: np.ndarray) -> bool:
    """Whether a later canvas still has the tokens that a call was not given.

    A draft of a canvas may look like the newest one; what comes of it is decided after the call.
    """
    stale_BN, length = stale.stale_BN, stale.canvas_BL.shape[1]
    if stale_BN is None or len(canvas_BL) != len(stale_BN) or canvas_BL.shape[1] < length:
        return False
    places_BN = stale.placed.positions_BN.astype(np.int64)
    old_BN, now_BN = (np.take_along_axis(x, places_BN, 1) for x in (stale.canvas_BL, canvas_BL))
    return bool((old_BN == now_BN)[stale_BN].all())


def given_old(located: Located) -> tuple[str, tuple[int, ...]]:
    """What such a call was given, in words, and the positions concerned, of the first prompt."""
    stale_BN = located.stale_BN
    assert stale_BN is not None
    shows = int(np.argmax(stale_BN.any(1)))
    positions = located.placed.positions_BN[shows][stale_BN[shows]]
    message = (
        f"the call was given masks at {positions.size} of its {stale_BN.shape[1]} rows where the "
        f"canvas has tokens already, the first at position {positions.min()}: ids of the step "
        f"before"
    )
    return message, tuple(positions.tolist())
