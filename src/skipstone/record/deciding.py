"""Which forwards are steps.

A step decides: it scores masks, or commits. Code that decodes over a cache may make forwards that
only write keys and values (of the prompt, of a finished block), where other code writes the same
ones in a step that decides. What such a forward wrote is seen in the step after it, whose number it
shares if that is in the same block.
"""

from __future__ import annotations

import numpy as np

from skipstone.record.schema import StepRecord


def decides(step: StepRecord, after: StepRecord | None) -> bool:
    """Whether a forward scores a mask or commits; ours write keys and values in such steps.

    Args:
        step: a forward.
        after: the next one. Where it is the same call again, and fills the block, one of the two
            has only written, too early: to which of them the commit belongs, nobody tells.
    """
    if step.positions_from == "engine" or step.committed:
        return True
    if after is not None and not after.masks_after and _again(step, after):
        return False
    return bool(step.candidates.eligible.any())


def number_after(before: StepRecord | None, step: StepRecord) -> int:
    """The number of a step in its block, by the forward before it.

    Forwards over a block that is full count as steps of it: none follows that decides.
    """
    if before is None or before.block != step.block:
        return 0
    return before.step + (decides(before, step) or not before.masks_before)


def _again(step: StepRecord, after: StepRecord) -> bool:
    same = step.block == after.block and step.canvas == after.canvas
    return same and np.array_equal(step.rows, after.rows)
