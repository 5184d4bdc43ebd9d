"""What is said of a call that was given ids which the loop had gone on from."""

from __future__ import annotations

import numpy as np

from skipstone.foreign.rows.locate import Located


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
