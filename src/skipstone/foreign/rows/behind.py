"""Calls that were given ids which the loop had gone on from: whether it is so, and what is said."""

from __future__ import annotations

import numpy as np

from skipstone.foreign.rows.locate import Located


def stayed(behind: Located, canvas_BL: np.ndarray) -> bool:
    """Whether a later canvas still has the tokens that a call was not given.

    A draft of a canvas may look like the newest one; what comes of it is decided after the call.
    """
    behind_BN, length = behind.behind_BN, behind.canvas_BL.shape[1]
    if behind_BN is None or len(canvas_BL) != len(behind_BN) or canvas_BL.shape[1] < length:
        return False
    places_BN = behind.placed.positions_BN.astype(np.int64)
    old_BN, now_BN = (np.take_along_axis(x, places_BN, 1) for x in (behind.canvas_BL, canvas_BL))
    return bool((old_BN == now_BN)[behind_BN].all())


def given_old(located: Located) -> tuple[str, tuple[int, ...]]:
    """What such a call was given, in words, and the positions concerned, of the first prompt."""
    behind_BN = located.behind_BN
    assert behind_BN is not None
    shows = int(np.argmax(behind_BN.any(1)))
    positions = located.placed.positions_BN[shows][behind_BN[shows]]
    message = (
        f"the call was given masks at {positions.size} of its {behind_BN.shape[1]} rows where the "
        f"canvas has tokens already, the first at position {positions.min()}: ids of the step "
        f"before"
    )
    return message, tuple(positions.tolist())
